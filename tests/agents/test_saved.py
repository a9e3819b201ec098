"""Arguments that saved agents describe."""

from typing import Any

import pytest

from snn_rl.agents.saved import SAVED, SavedAgent


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gamma", 2, "gamma=2 is invalid: must be from 0 to 1; pass gamma= to load"),
        ("batch_size", None, "batch_size=None is invalid: must be from 1 to 1,000,000; pass"),
        ("objective", 5, "objective=5 is invalid; pass objective= to load"),
        ("double", "x", "double='x' is invalid; pass double= to load"),
    ],
)
def test_an_invalid_argument_is_named_with_its_remedy(name: str, value: Any, words: str) -> None:
    saved = SavedAgent(
        settings={name: value},
        policy_kwargs={},
        optimizer="Adam",
        optimizer_kwargs={},
        num_timesteps=0,
        n_updates=0,
    )
    with pytest.raises(ValueError, match=f"^{words}"):
        saved.arguments(SAVED, SAVED.keys() - {name})
