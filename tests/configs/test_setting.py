"""Fields of the schemas: description, choices and range."""

import math
from typing import Any

import pytest

from snn_rl.agents.objectives import OBJECTIVES
from snn_rl.agents.saved import OPTIMIZERS
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import CUSTOM, check_settings, settings_of
from snn_rl.core.conversion.thresholds import BLOCK_THRESHOLDS, METHODS, PERCENTILES_OVER
from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.networks import IMAGE_NETWORKS
from snn_rl.core.surrogate import SURROGATES, linear
from snn_rl.envs import FRAMES
from snn_rl.images.chain import POOLINGS
from snn_rl.images.data.datasets import DATASETS, PIXELS
from snn_rl.images.fitting import SCHEDULES
from snn_rl.utils.errors import UserError

AGENTS, IMAGES = settings_of(Config), settings_of(ClassifyConfig)


@pytest.mark.parametrize("schema", [Config, ClassifyConfig])
def test_defaults_are_allowed_and_described(schema: type[Any]) -> None:
    for each in settings_of(schema).values():
        assert each.description.endswith(".") and each.description[0].isalnum()
        if each.name != "dataset":  # required
            each.check(each.default)


def test_choices_are_those_of_the_code() -> None:
    for settings, choices in (
        (AGENTS, {"dqn.optimizer": OPTIMIZERS, "iir.optimizer": OPTIMIZERS}),
        (AGENTS, {"iir.objective": OBJECTIVES, "rollout.frames": FRAMES}),
        (IMAGES, {"dataset": DATASETS, "pixels": PIXELS, "pooling": POOLINGS}),
        (IMAGES, {"net": [*IMAGE_NETWORKS, CUSTOM], "fit.schedule": SCHEDULES}),
        (IMAGES, {"iir.thresholds": METHODS, "iir.block_thresholds": BLOCK_THRESHOLDS}),
    ):
        for name, known in choices.items():
            assert list(settings[name].choices) == list(known), name
    for settings in (AGENTS, IMAGES):
        assert settings["iir.surrogate"].choices == (*SURROGATES, CUSTOM)
        assert settings["iir.encoding"].choices == tuple(ENCODINGS)
        assert settings["iir.percentile_over"].choices == tuple(PERCENTILES_OVER)


@pytest.mark.parametrize(
    ("settings", "name", "value", "message"),
    [
        (AGENTS, "dqn.batch_size", 0, "dqn.batch_size=0: must be 1 or more"),
        (AGENTS, "iir.sticky", 1.5, "iir.sticky=1.5: must be between 0 and 1"),
        (AGENTS, "iir.sticky", math.nan, "iir.sticky=nan: must be between 0 and 1"),
        (AGENTS, "seed", -(10**400), "must be between 0 and 2147483647"),
        (AGENTS, "iir.percentile", 0.0, "iir.percentile=0.0: must be above 0 and at most 100"),
        (AGENTS, "dqn.steps", 10**30, "must be at most 2147483647"),
        (AGENTS, "rollout.frame_stack", 40, "must be between 1 and 32"),
        (AGENTS, "iir.conversion_samples", 10**7, "must be between 1 and 10000"),
        (IMAGES, "iir.conversion_samples", 10**7, "must be between 1 and 10000"),
        (IMAGES, "seed", 2**31, "must be at most 2147483647"),
        (AGENTS, "precision", "fp", "precision=fp: must be one of auto, float32, bfloat16"),
        (IMAGES, "fit.lr", math.inf, "fit.lr=inf: must be above 0"),
        (IMAGES, "prune", 1.0, "prune=1.0: must be at least 0 and below 1"),
        (IMAGES, "net", "vgg61", "must be one of vgg5, .*, module:function; did you mean vgg6?"),
    ],
)
def test_values_outside_are_refused(settings: Any, name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings[name].check(value)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        *((AGENTS, "iir.sticky", value) for value in (None, 0.0, 1.0)),
        (AGENTS, "iir.surrogate", "my_module:triangle"),
        (IMAGES, "net", "my_module:tiny"),
        (IMAGES, "iir.percentile", 100.0),
        (AGENTS, "dqn.target_return", math.inf),
    ],
)
def test_values_inside_are_allowed(settings: Any, name: str, value: Any) -> None:
    settings[name].check(value)


def test_registered_names_are_choices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(env="CartPole-v1")
    config.iir.surrogate = "triangle"
    with pytest.raises(UserError, match=r"iir\.surrogate=triangle"):
        check_settings(config)
    monkeypatch.setitem(SURROGATES, "triangle", linear)
    check_settings(config)


def test_settings_stand_in_the_order_of_the_schema() -> None:
    assert list(AGENTS)[:2] == ["env", "T"] and list(AGENTS)[-1] == "play.fps"
    assert AGENTS["run_dir"].type == (str | None)
    assert IMAGES["iir.lr"].default == 1e-3 and IMAGES["iir.decay"].default == 0.2
