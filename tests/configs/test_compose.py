"""The command line, fuzzed: whatever is typed, there are settings or one line of complaint."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snn_rl.agents import plan
from snn_rl.agents.checks import check_values
from snn_rl.configs.compose import compose, is_sweep, keys
from snn_rl.configs.schema import Config
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
SETTINGS = st.tuples(st.sampled_from(["", "+", "++", "~"]), st.sampled_from(sorted(keys())), VALUES)


def complaint(*overrides: str) -> str:
    """What the command says of these, if anything."""
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
def test_anything_typed_is_settings_or_one_line(overrides: list[str]) -> None:
    message = complaint("env=CartPole-v1", *overrides)
    assert "\n" not in message
    assert len(message) < 8_000


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "atari/../cartpole"])
def test_presets_do_not_leave_their_folder(name: str) -> None:
    assert complaint(f"env={name}")
    assert "must be one of default, paper" in complaint("env=CartPole-v1", f"preset={name}")


@pytest.mark.parametrize(
    ("override", "several"),
    [
        *(("iir.lr=1e-3,1e-4", True), ("seed=range(1,4)", True), ("a=[1,2],[3,4]", True)),
        *(("iir.lr=1e-3", False), ("a=[1,2]", False), ("a='x,y'", False), ("a=", False)),
    ],
)
def test_sweeps_are_told_from_lists(override: str, several: bool) -> None:
    assert is_sweep(override) is several


def test_a_sweep_that_cannot_be_read_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^.+$"):
        is_sweep("a=[1,")
