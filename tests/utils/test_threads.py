"""Number of threads of a job."""

from collections.abc import Iterator

import pytest
import torch

from snn_rl import evaluate, train
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.utils.threads import use_threads


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_zero_restores_initial_number(threads: int) -> None:
    use_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    use_threads(0)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("module", [train, evaluate])
def test_job_does_not_inherit_threads_of_previous_job(
    module, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(*arguments: str) -> int:
        # the command sets its threads, then stops because the run directory is a file
        words = [module.__name__, "env=CartPole-v1", "T=1", f"run_dir={__file__}", *arguments]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit):
            run_command(Config, module.main, module.__doc__)
        return torch.get_num_threads()

    assert job(f"threads={threads + 2}") == threads + 2
    assert job() == threads
