"""The command line: precedence, and one clear line for any input that is not allowed."""

import io
import sys
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

import snn_rl
from snn_rl.agents import plan
from snn_rl.agents.checks import check_values
from snn_rl.configs.compose import compose, parse, print_error, run_command
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import settings_of
from snn_rl.utils.errors import UserError

WORDS = st.text("=+~.,:[]{}()'\"\\/$@ -_a1eT?*%&|<>\n\té", max_size=12)
VALUES = (
    st.integers(-(10**30), 10**30).map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["null", "true", "[1,2]", "{a:1}", "${env}", "${oc.env:HOME}", "???", "", "[]"]
    )
    | WORDS
)
KEYS = st.sampled_from(sorted(settings_of(Config)))
SETTINGS = st.tuples(st.sampled_from(["", "+", "++", "~"]), KEYS, VALUES)


def complaint(*overrides: str) -> str:
    """Returns the error message, if any."""
    try:
        config = compose(Config, overrides)
        assert isinstance(config, Config)
        check_values(config)
        plan.chain(config)
    except UserError as error:
        return str(error)
    return ""


@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(st.lists(SETTINGS.map(lambda s: f"{s[0]}{s[1]}={s[2]}") | WORDS, min_size=1, max_size=3))
@example(["env=${oc.env:HOME}"])
@example(["env=???"])
@example(["~env"])
@example(["hydra.run.dir=x"])
@example(["+settings=[../../x]"])
@example(["env=../../x"])
@example(["strides=[]"])
@example(["seed=" + "9" * 400])
@example(["a" * 5_000])
@example(["ann=a\nb"])
def test_any_input_gives_settings_or_one_line(overrides: list[str]) -> None:
    message = complaint("env=CartPole-v1", *overrides)
    assert "\n" not in message
    assert len(message) < 8_000


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "atari/../cartpole"])
def test_presets_do_not_leave_their_folder(name: str) -> None:
    assert complaint(f"env={name}")
    assert "must be one of default, paper" in complaint("env=CartPole-v1", f"preset={name}")


def test_the_command_line_overrides_the_presets_and_they_the_schema() -> None:
    pong, paper = ["env=PongNoFrameskip-v4"], "preset=paper"
    assert Config().dqn.n_steps == 1 and Config().dqn.lr_steps is None
    assert compose(Config, ["env=BreakoutNoFrameskip-v4"]).dqn.n_steps == 3  # family
    assert compose(Config, pong).dqn.lr_steps == 1_000_000  # exact id
    assert compose(Config, pong).dqn.steps == 2_000_000  # exact id over family
    assert compose(Config, [*pong, paper]).dqn.steps == 1_000_000  # paper over exact id
    assert compose(Config, [*pong, paper, "dqn.steps=7"]).dqn.steps == 7
    state = [*pong, "teacher=state"]
    assert compose(Config, pong).iir.gradient_steps == 2
    assert compose(Config, state).iir.gradient_steps == 1  # privileged teacher over exact id
    assert compose(Config, state).dqn.steps == 2_000_000
    assert compose(Config, [*state, paper]).iir.t1_steps == 0  # paper over privileged teacher
    assert compose(Config, [*state, "iir.gradient_steps=3"]).iir.gradient_steps == 3
    images = ["dataset=cifar100", "preset=ull"]
    assert compose(ClassifyConfig, images).iir.epochs == 300
    assert compose(ClassifyConfig, [*images, "iir.epochs=2"]).iir.epochs == 2


@pytest.mark.parametrize(
    "words",
    [
        *(f"dataset=cifar10 preset={preset}" for preset in ("paper", "stdb", "ull")),
        *(f"dataset=imagenet preset={preset}" for preset in ("paper", "stdb")),
        *(f"env={env} preset=paper" for env in ("CartPole-v1", "PongNoFrameskip-v4")),
    ],
)
def test_the_presets_of_the_papers_train_in_float32(words: str) -> None:
    schema = Config if words.startswith("env=") else ClassifyConfig
    assert compose(schema, words.split()).precision == "float32"


def test_a_preset_extends_another() -> None:
    words = ["dataset=imagenet", "preset=stdb", "net=vgg16"]
    imagenet = compose(ClassifyConfig, words)
    cifar = compose(ClassifyConfig, ["dataset=cifar10", *words[1:]])
    assert imagenet.pixels == cifar.pixels == "symmetric"
    assert (imagenet.fit.epochs, cifar.fit.epochs) == (90, 250)
    assert compose(ClassifyConfig, ["dataset=cifar10", "net=resnet34"]).iir.lr == 1e-4


def test_composed_settings_are_plain_values() -> None:
    config = compose(ClassifyConfig, ["dataset=cifar10"])
    assert asdict(config) == asdict(ClassifyConfig(dataset="cifar10"))
    assert type(config.fit.milestones) is list
    assert config.fit.milestones is not ClassifyConfig().fit.milestones


@pytest.mark.parametrize(
    ("override", "several"),
    [
        *(("iir.lr=1e-3,1e-4", True), ("seed=range(1,4)", True), ("a=[1,2],[3,4]", True)),
        *(("iir.lr=1e-3", False), ("a=[1,2]", False), ("a='x,y'", False), ("a=", False)),
    ],
)
def test_sweeps_differ_from_lists(override: str, several: bool) -> None:
    assert parse([override])[0].is_sweep_override() is several


def test_a_sweep_that_cannot_be_parsed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^.+$"):
        parse(["a=[1,"])


@pytest.mark.parametrize("arguments", [["env=CartPole-v1", "iir.lr=x"], ["-m", "sed=1,2"]])
def test_errors_are_one_line_and_exit_code_2(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(Config, lambda config: pytest.fail(str(config)))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Returns the exit code of a command that must not start, and its output."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    code = 0
    try:
        run_command(Config, lambda config: pytest.fail(str(config)))
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


@pytest.mark.parametrize(
    "option", ["--config-name=my", "-cn", "--config-dir=conf", "--info", "--resolve", "--run", "-x"]
)
def test_unknown_options_are_refused(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = outcome(monkeypatch, capsys, option, "env=CartPole-v1")
    assert code == 2
    assert text.startswith(f"error: unknown option {option}: must be one of --help, --version")


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(monkeypatch, capsys, "--version") == (0, f"snn_rl {snn_rl.__version__}\n")


def test_cfg_prints_the_settings_with_the_presets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = outcome(monkeypatch, capsys, "--cfg", "job", "env=CartPole-v1", "T=3")
    assert code == 0
    printed = yaml.safe_load(text)
    assert (printed["network"], printed["T"], printed["dqn"]["steps"]) == ("cartpole", 3, 150_000)
    assert printed == asdict(compose(Config, ["env=CartPole-v1", "T=3"]))


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("~dqn.lr", "~dqn.lr: a setting cannot be removed; set dqn.lr=VALUE"),
        ("~dqn.lt", "unknown setting dqn.lt; did you mean dqn.lr?"),
        ("dqn.lt=1", "unknown setting dqn.lt=1; did you mean dqn.lr?"),
        ("runs", '"run_dir=my runs"'),  # the second half of run_dir=my runs
        ("run_dir=~/x", f"""'run_dir="{Path.home()}/x"'"""),
        ("run_dir=a#b", """'run_dir="a#b"'"""),
        ("run_dir=it's", """'run_dir="its"'"""),
        ("+seed=1", "+seed=1: write seed=1"),
        ("++seed=1", "++seed=1: write seed=1"),
        ("seed@x=1", "unknown setting seed@x=1; did you mean seed?"),
        ("seed=1,2", "seed=1,2: several values start a sweep, which needs -m"),
        ("seed=-1", "seed=-1: must be between 0 and 2147483647"),
    ],
)
def test_messages_say_what_would_be_right(word: str, words: str) -> None:
    message = complaint("env=CartPole-v1", word)
    assert words in message
    assert "None" not in message


def test_a_full_memory_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(config: Config) -> None:
        raise MemoryError

    monkeypatch.setattr(sys, "argv", ["train", "env=CartPole-v1"])
    with pytest.raises(MemoryError):
        run_command(Config, main)


def test_a_console_without_a_character_prints_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "argv", ["train", "env=CartPole-v1"])
    monkeypatch.setattr(sys, "stdout", console)
    run_command(Config, lambda config: print("18.3 ± 2.1"))
    console.flush()
    assert console.buffer.getvalue() == b"18.3 ? 2.1\n"


@pytest.mark.parametrize("env", ["CartPole-v0", "CartPole-v1"])
def test_the_target_return_of_a_preset_can_be_reached(env: str) -> None:
    target, longest = compose(Config, [f"env={env}"]).dqn.target_return, gym.spec(env)
    assert target is not None and longest.max_episode_steps is not None
    assert 0.9 < target / longest.max_episode_steps < 1


def test_a_sweep_runs_the_command_with_every_combination(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-m", "env=CartPole-v1", "seed=1,2", "T=1,5"])
    seen: list[tuple[int, int, str]] = []
    run_command(Config, lambda config: seen.append((config.seed, config.T, config.network)))
    assert seen == [(seed, T, "cartpole") for seed in (1, 2) for T in (1, 5)]


def test_an_error_starts_below_the_progress_bars(capsys: pytest.CaptureFixture[str]) -> None:
    bar = tqdm(total=3, desc="ann")
    bar.update()
    print_error(UserError("the disk is full"))
    assert capsys.readouterr().err.endswith("\nerror: the disk is full\n")
    assert bar.disable, "the bar is closed"
