"""Output on the console."""

import sys

import pytest

from snn_rl.utils.console import end_quietly_on_interrupt, starts_own_module


def test_an_interrupt_is_one_line_and_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def foreign(*error: object) -> None:
        print(f"foreign {error[1]!r}", file=sys.stderr)

    monkeypatch.setattr(sys, "excepthook", foreign)
    end_quietly_on_interrupt()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "\ninterrupted\n"
    sys.excepthook(ValueError, ValueError("x"), None)
    assert capsys.readouterr().err == "foreign ValueError('x')\n"


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ("-m snn_rl.train env=x", True),
        ("-u -msnn_rl.classify", True),
        ("-m mine.train snn_rl.x", False),
        ("-m snn_rl_extra.train", False),
    ],
)
def test_programs_of_others_keep_their_excepthook(
    words: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ["python", *words.split()]
    place = next(i for i, word in enumerate(original) if "train" in word or "classify" in word)
    monkeypatch.setattr(sys, "orig_argv", original)
    monkeypatch.setattr(sys, "argv", ["-m", *original[place + 1 :]])
    assert starts_own_module() == own
