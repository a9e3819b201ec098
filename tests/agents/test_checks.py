"""Checks of settings that involve several settings."""

from dataclasses import replace

import pytest

from snn_rl.agents import plan
from snn_rl.agents.checks import check_values, import_networks
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.core.networks import AvgPool, Conv, NetworkSpec
from snn_rl.core.networks.q_networks import Q_NETWORKS
from snn_rl.utils.errors import UserError


def settings(*overrides: str) -> Config:
    return compose(Config, ["env=PongNoFrameskip-v4", *overrides])


@pytest.mark.parametrize(
    ("seed", "episodes", "allowed"),
    [
        (1_999_980, 20, True),
        (1_999_981, 20, False),
        (2_000_100, 1, False),
        (2_009_999, 1, False),
        (2_010_000, 20, True),
        (1_990_000, 30_000, False),
    ],
)
def test_evaluation_must_not_use_the_seeds_of_checkpoint_selection(
    seed: int, episodes: int, allowed: bool
) -> None:
    config = settings(f"eval.seed={seed}", f"episodes={episodes}")
    if allowed:
        check_values(config)
    else:
        with pytest.raises(UserError, match=f"eval.seed={seed}"):
            check_values(config)


@pytest.mark.parametrize("env", ["PongNoFrameskip-v4", "CartPole-v1"])
def test_the_paper_presets_do_not_select_checkpoints(env: str) -> None:
    own = compose(Config, [f"env={env}"])
    assert own.dqn.selection_games > 0 and own.dqn.target_return is not None
    paper = compose(Config, [f"env={env}", "preset=paper"])
    stages = plan.chain(paper)
    assert [stage.name for stage in stages] == ["ann", "T5", "T4", "T3", "T2", "T1"]
    assert not any(plan.selection_games(paper, stage) for stage in stages)
    assert paper.dqn.target_return is None
    check_values(paper)


@pytest.mark.parametrize(
    "override", ["ann=mine.safetensors", "iir.sticky=null", "rollout.sticky=0.25"]
)
def test_the_preset_of_pong_is_compatible_with_other_settings(override: str) -> None:
    config = settings(override)
    assert config.finetune.steps and config.iir.selection_sticky_games
    check_values(config)
    # An imported ANN is not fine-tuned.
    stages = [stage.name for stage in plan.chain(config)]
    assert ("ann-pretrained" in stages) == (config.ann is None)
    # Stages that learn without sticky actions are selected without sticky actions.
    chosen = {each.sticky for each in plan.selection_games(config, plan.chain(config)[-1])}
    assert chosen == ({0.0, 0.25} if config.ann else {config.rollout.sticky})


def test_a_network_that_cannot_be_exact_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pooled(shape: tuple[int, int, int], actions: int, bias: bool = False) -> NetworkSpec:
        return NetworkSpec(shape, (Conv(4, 5, 2), AvgPool(2)), actions, bias)

    monkeypatch.setitem(Q_NETWORKS, "pooled", pooled)
    config = compose(Config, ["env=CartPole-v1", "network=pooled"])
    import_networks(config)
    with pytest.raises(UserError, match=r"^exact=true requires .* network=pooled has other layers"):
        import_networks(replace(config, exact=True))
