"""The command line: precedence, and one clear line for any input that is not allowed."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snn_rl.agents import plan
from snn_rl.agents.checks import check_values
from snn_rl.configs.compose import compose, is_sweep, run_command
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


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
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
    assert is_sweep(override) is several


def test_a_sweep_that_cannot_be_parsed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^.+$"):
        is_sweep("a=[1,")


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


def test_a_sweep_runs_the_command_with_every_combination(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-m", "env=CartPole-v1", "seed=1,2", "T=1,5"])
    seen: list[tuple[int, int, str]] = []
    run_command(Config, lambda config: seen.append((config.seed, config.T, config.network)))
    assert seen == [(seed, T, "cartpole") for seed in (1, 2) for T in (1, 5)]
