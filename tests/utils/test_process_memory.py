"""The peak of memory in use, against an allocation of known size."""

import sys

import pytest
import torch

from snn_rl.utils.process_memory import PeakMemory


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_of_what_came_after_it_began():
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
    # the rest of the process may have given a few pages back meanwhile
    assert 0.9 * size <= high - low < 1.5 * size
    assert high - after > size / 2
