"""Checks of settings that involve several settings."""

import random
from dataclasses import replace

import pytest

from snn_rl.agents import plan
from snn_rl.agents.checks import _check_updates, _needed_spec, check_values, import_networks
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


@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        (["dqn.train_freq=100000"], "ann"),
        (["dqn.train_freq=50", "checkpoint_steps=400"], "ann"),  # 400 steps per phase
        (["dqn.train_freq=49", "checkpoint_steps=400"], ""),
        (["dqn.learning_starts=19992", "dqn.steps=20000"], "ann"),
        (["dqn.learning_starts=19980", "dqn.steps=20000", "finetune.steps=0"], ""),
        (["finetune.steps=10008"], "ann"),
        (["iir.train_freq=1000", "iir.steps=3000"], "T5"),
        (["iir.train_freq=1000", "iir.steps=9000"], ""),
        (["iir.steps=8"], "T5"),
        (["iir.t1_steps=8"], "T1"),
        (["dqn.train_freq=100000", "ann=any.safetensors"], ""),  # the ANN is not trained
        (["iir.train_freq=100000", "stages=none"], ""),
    ],
)
def test_a_stage_without_gradient_steps_is_refused(overrides: list[str], stage: str) -> None:
    config = settings(*overrides)
    if not stage:
        check_values(config)
        return
    with pytest.raises(UserError, match=f"the stage {stage}.* would end without a gradient step"):
        check_values(config)


def test_the_check_of_gradient_steps_agrees_with_the_training_loop() -> None:
    rng = random.Random(0)
    for _ in range(500):
        n_envs, train_freq = rng.randint(1, 9), rng.randint(1, 20)
        every, steps = n_envs + rng.randint(1, 200), n_envs + rng.randint(1, 200)
        starts = rng.randint(n_envs + 1, steps + n_envs)
        acted = updates = 0
        while acted < steps:
            end, phase = min(acted + every, steps), 0
            while acted < end:
                acted, phase = acted + n_envs, phase + 1
                if phase == train_freq and acted < end:
                    updates, phase = updates + (acted > starts), 0
        config = Config(env="CartPole-v1", checkpoint_steps=every, stages="none")
        config.rollout.n_envs, config.dqn.train_freq = n_envs, train_freq
        config.dqn.steps, config.dqn.learning_starts = steps, starts
        if updates:
            _check_updates(config)
        else:
            with pytest.raises(UserError, match="without a gradient step"):
                _check_updates(config)


def test_all_actions_of_the_console_change_the_network_and_the_settings() -> None:
    own, full = settings(), settings("rollout.full_action_space=true")
    assert (_needed_spec(own).outputs, _needed_spec(full).outputs) == (6, 18)
    stage = plan.chain(full)[0]
    stored = plan.stage_settings(full, stage)
    assert stored.pop("rollout.full_action_space") is True
    assert stored == plan.stage_settings(own, stage)  # as stored by older runs
    with pytest.raises(UserError, match="full_action_space=true requires an Atari game"):
        _needed_spec(compose(Config, ["env=CartPole-v1", "rollout.full_action_space=true"]))
