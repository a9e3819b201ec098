"""Peak memory, against an allocation of known size."""

import sys

import pytest
import torch

from snn_rl.utils.process_memory import PeakMemory


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_peak_counts_only_later_allocations():
    cpu, size = torch.device("cpu"), 2**27
    before = PeakMemory(cpu)
    low = before.read()
    if low is None:
        pytest.skip("this system does not let a process reset its peak")
    block = torch.ones(size // 4)
    high = before.read()
    del block
    after = PeakMemory(cpu).read()
    assert high is not None and after is not None
    # other parts of the process may have freed a few pages meanwhile
    assert 0.9 * size <= high - low < 1.5 * size
    assert high - after > size / 2
