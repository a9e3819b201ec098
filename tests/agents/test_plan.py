"""Steps, checkpoints and selection episodes of the stages."""

import pytest

from snn_rl.agents import plan
from snn_rl.chain.records import SelectionGames, Trials
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config

SETTINGS = [
    *("env=CartPole-v1", "T=1", "T_start=2", "dqn.steps=700", "iir.steps=50", "iir.t1_steps=90"),
    *("dqn.selection_games=4", "iir.selection_steps=60", "checkpoint_steps=200"),
    *("iir.selection_games=2", "iir.selection_sticky_games=3"),
]


def config(*extra: str) -> Config:
    return compose(Config, [*SETTINGS, *extra])


def test_steps_of_the_stages() -> None:
    extra = ["finetune.steps=300", "carry_state=true", "carry.steps=40"]
    settings = config(*extra)
    steps = {stage.name: plan.stage_steps(settings, stage) for stage in plan.chain(settings)}
    assert steps == {"ann-pretrained": 700, "ann": 300, "T2": 50, "T1": 90, "T1-carried": 40}
    settings = config("ann=any.zip", "dqn.learning_starts=30", "exact=true")
    steps = {stage.name: plan.stage_steps(settings, stage) for stage in plan.chain(settings)}
    assert steps == {"ann": 30, "T2": 50, "T1": 90, "T1-exact": 0}


def test_only_stages_with_several_checkpoints_select_among_them() -> None:
    settings = config("iir.sticky=0.5")
    games = {stage.name: plan.selection_games(settings, stage) for stage in plan.chain(settings)}
    assert games == {
        "ann": [SelectionGames(4, 0.0)],
        "T2": [],
        "T1": [SelectionGames(2, 0.0), SelectionGames(3, 0.5)],
    }
    steps = [plan.checkpoint_steps(settings, stage) for stage in plan.chain(settings)]
    assert steps == [200, 200, 60]


def test_stages_of_a_privileged_teacher() -> None:
    extra = ["teacher=state", "finetune.steps=300", "student.steps=80", "state.sticky=0.3"]
    settings = config(*extra)
    steps = {stage.name: plan.stage_steps(settings, stage) for stage in plan.chain(settings)[1:]}
    assert steps == {"ann": 80, "T2": 50, "T1": 90}

    def sticky(*more: str) -> list[float]:
        changed = config(*extra, *more)
        return [plan.stage_sticky(changed, stage) for stage in plan.chain(changed)[1:]]

    assert sticky() == [0.3, 0.3, 0.3]
    assert sticky("iir.sticky=0.1") == [0.3, 0.1, 0.1]
    teacher, ann, spiking, _ = plan.chain(settings)
    assert plan.selection_games(settings, ann) == []
    for stage, unused, used in (
        (teacher, "student.lr=0.5", "state.lr=0.5"),
        (ann, "iir.lr=0.5", "iir.epsilon=0.5"),
        (ann, "iir.sticky=0.1", "student.lr=0.5"),
        (spiking, "dqn.lr=0.5", "iir.lr=0.5"),
    ):
        recorded = plan.stage_settings(settings, stage)
        assert plan.stage_settings(config(*extra, unused), stage) == recorded
        assert plan.stage_settings(config(*extra, used), stage) != recorded


def test_stage_numbers_differ_within_a_chain() -> None:
    settings = config("finetune.steps=300", "carry_state=true")
    numbers = [plan.stage_number(stage) for stage in plan.chain(settings)]
    numbers.append(plan.TEACHER_NUMBER)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("extra", [["iir.selection_games=9"], ["iir.sticky=0.0"]])
def test_settings_without_effect_are_not_recorded(extra: list[str]) -> None:
    settings, changed = config(), config(*extra)
    stage = plan.chain(settings)[1]
    assert stage.name == "T2"
    assert plan.stage_settings(settings, stage) == plan.stage_settings(changed, stage)


def test_trials_are_the_episodes_of_the_settings() -> None:
    settings = config("episodes=3", "eval.seed=5", "eval.epsilon=0.1", "eval.sticky=0.5")
    assert plan.trials(settings) == Trials(3, 5, 0.1, 0.5)
