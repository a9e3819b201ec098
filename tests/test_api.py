"""The public names of `import snn_rl`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import snn_rl
from snn_rl.__main__ import COMMANDS

STUB = Path(snn_rl.__file__).with_suffix(".pyi").read_text(encoding="utf-8")


def test_import_is_light() -> None:
    code = "import snn_rl, sys; print({'torch', 'gymnasium', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def policy_and_digest(**environment: str) -> tuple[str, str]:
    """Returns OMP_WAIT_POLICY after the import, and the weights after an update by two threads."""
    code = """
import snn_rl, hashlib, os, torch
torch.set_num_threads(2)
torch.manual_seed(0)
layers = torch.nn.Conv2d(4, 32, 8, 4), torch.nn.Flatten(), torch.nn.LazyLinear(9)
network = torch.nn.Sequential(*layers)
network(torch.rand(32, 4, 84, 84)).square().mean().backward()
torch.optim.Adam(network.parameters()).step()
weights = b"".join(weight.detach().numpy().tobytes() for weight in network.parameters())
print(os.environ["OMP_WAIT_POLICY"], hashlib.sha256(weights).hexdigest())
"""
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    policy, digest = done.stdout.split()
    return policy, digest


def test_threads_wait_passively_with_the_same_results() -> None:
    policy, digest = policy_and_digest()
    assert policy == "PASSIVE"
    assert policy_and_digest(OMP_WAIT_POLICY="ACTIVE") == ("ACTIVE", digest)


def test_every_name_is_exported_documented_and_typed() -> None:
    exported = set(snn_rl.__all__) - {"__version__"}
    assert exported == set(re.findall(r"import \w+ as (\w+)", STUB))
    assert exported <= set(dir(snn_rl))
    for name in exported:
        assert getattr(snn_rl, name).__doc__


def test_no_name_hides_a_command() -> None:
    assert set(snn_rl.__all__).isdisjoint(COMMANDS)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        snn_rl.nothing  # noqa: B018
