"""The modules and commands of docs/extend.md, run in a folder of their own."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from snn_rl.chain.records import read_settings
from snn_rl.files.checkpoint import load_network

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"```bash\nsnn-rl (train .*?)\n```", PAGE)
TINY = [
    *("T_start=1", "threads=1", "video=false", "episodes=1", "run_dir=run", "rollout.n_envs=2"),
    *("rollout.cap=5", "dqn.steps=40", "dqn.learning_starts=20", "dqn.batch_size=4"),
    *("dqn.buffer_size=50", "dqn.epsilon_steps=20", "dqn.selection_games=0"),
    *("dqn.target_return=null", "iir.steps=20", "iir.t1_steps=20", "iir.batch_size=4"),
    *("iir.conversion_samples=8", "iir.selection_steps=20", "finetune.steps=0"),
]


def test_every_example_has_at_most_20_lines() -> None:
    assert set(MODULES) == {"my_surrogates.py", "my_networks.py", "my_games.py"}
    assert all(code.strip().count("\n") + 2 <= 20 for code in MODULES.values())
    assert len(COMMANDS) == 3


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("words", COMMANDS, ids=["surrogate", "network", "game"])
def test_commands_run_with_the_user_s_modules(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]], words: str
) -> None:
    for name, code in MODULES.items():
        (tmp_path / name).write_text(code)
    environment = {"SDL_VIDEODRIVER": "dummy"}
    done = command("snn_rl", *words.split(), *TINY, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    settings = read_settings(tmp_path / "run" / "T1")
    chosen = dict(each.split("=") for each in words.split()[1:])
    assert all(str(settings.get(key)) == value for key, value in chosen.items())
    assert load_network(tmp_path / "run" / "T1" / "network.safetensors")[0].spec.outputs > 1
