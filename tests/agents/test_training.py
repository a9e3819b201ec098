"""A stage that is interrupted and resumed ends with the same bits."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from snn_rl.agents import SpikingDQN, SpikingQNetwork, training
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.training import Duration, Selection, resume, train_stage
from snn_rl.chain.records import Counters, read_counters
from snn_rl.core.networks import AnalogNetwork
from snn_rl.files.checkpoint import save_tensors
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed

MakeCatch = Callable[..., VecEnv]

STEPS, SEGMENT, ENVS = 130, 40, 2  # the last segment is shorter
SEED = 7


class Killed(BaseException):
    """The end of a process; only the test catches it."""


class Fragile(VecEnvWrapper):
    """Vectorized environment that ends the process after some steps."""

    def __init__(self, venv: VecEnv, lifetime: int):
        super().__init__(venv)
        self.lifetime = lifetime

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.lifetime -= 1
        if self.lifetime < 0:
            raise Killed
        return self.venv.step_wait()


class Stage:
    """One stage of a run.

    Args:
        make_catch: The fixture.
        directory: Directory of the run.
        timesteps: None for the first stage, which uses Q-learning; T for a later stage, which uses
            distillation and the replay buffer of the first stage.
        seed: Seed of the run.
    """

    def __init__(
        self, make_catch: MakeCatch, directory: Path, timesteps: int | None, seed: int = SEED
    ):
        self.make_catch, self.timesteps, self.seed = make_catch, timesteps, seed
        self.directory = directory / ("ann" if timesteps is None else f"T{timesteps}")
        folders = [directory / "ann" / "replay"]
        if timesteps is not None:
            folders.append(self.directory / "replay")
        self.journal = Journal(folders)
        before = read_counters(directory / "ann") if timesteps is not None else None
        self.rows_before = before.rows if before else 0

    def model(self) -> SpikingDQN:
        torch.manual_seed(self.seed)
        first = self.timesteps is None
        model = SpikingDQN(
            "SpikingDQNPolicy",
            self.make_catch(ENVS, 0),
            learning_rate=lambda remaining: 1e-3 * remaining,
            buffer_size=80,  # 40 rows, fewer than the stage writes
            learning_starts=10 if first else 0,
            batch_size=16,
            train_freq=2,
            target_update_interval=14,
            n_steps=2,
            objective="td" if first else "distill+td",
            device="cpu",
            policy_kwargs={"network": "8c6s3-16", "timesteps": self.timesteps, "bias": True},
        )
        if not first:
            torch.manual_seed(1)
            model.teacher = AnalogNetwork(model.network.spec)
            with torch.no_grad():
                for neuron in model.network.neurons:
                    neuron.v_threshold.fill_(0.05)
        return model

    def start(
        self,
        make_env: Callable[[int], VecEnv] | None = None,
        selection: Selection | None = None,
    ) -> tuple[SpikingDQN, Counters]:
        """Builds a model, resumes the stage and trains it to the end, as a process does."""
        model = self.model()
        counters = resume(model, self.directory, self.journal, self.rows_before)
        counters = counters or Counters(rows=self.rows_before)
        train_stage(
            model,
            counters,
            make_env or (lambda seed: self.make_catch(ENVS, seed)),
            self.directory,
            self.journal,
            Duration(STEPS, SEGMENT, (self.seed, self.timesteps or 0)),
            selection,
        )
        return model, counters


def rows(model: SpikingDQN) -> dict[str, NDArray[Any]]:
    buffer = model.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    assert buffer.full
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    return {name: getattr(buffer, name) for name in names} | {"pos": np.array(buffer.pos)}


def assert_same(one: tuple[SpikingDQN, Counters], other: tuple[SpikingDQN, Counters]) -> None:
    expected, found = one[0].tensors(), other[0].tensors()
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    for name, array in rows(one[0]).items():
        np.testing.assert_array_equal(rows(other[0])[name], array, err_msg=name)
    for name in set(vars(one[1])) - {"wall_s"}:
        assert getattr(other[1], name) == getattr(one[1], name), name


def run_directory(make_catch: MakeCatch, directory: Path, timesteps: int | None) -> Path:
    """Returns a new run; its first stage is finished if a later stage is tested."""
    if timesteps is not None:
        Stage(make_catch, directory, None).start()
    return directory


@pytest.mark.parametrize("timesteps", [None, 2])
@pytest.mark.parametrize(
    "lifetime",
    [
        pytest.param(0, id="at the first step"),
        pytest.param(13, id="in the first segment"),
        pytest.param(SEGMENT // ENVS, id="after a segment"),
        pytest.param(SEGMENT // ENVS + 1, id="after a segment's first step"),
        pytest.param(SEGMENT // ENVS * 3 + 2, id="in the last segment"),
    ],
)
def test_resumed_stage_ends_like_an_uninterrupted_one(
    make_catch: MakeCatch, tmp_path: Path, timesteps: int | None, lifetime: int
) -> None:
    whole = Stage(make_catch, run_directory(make_catch, tmp_path / "a", timesteps), timesteps)
    killed = Stage(make_catch, run_directory(make_catch, tmp_path / "b", timesteps), timesteps)
    left = lifetime

    def fragile(seed: int) -> VecEnv:
        nonlocal left
        env = Fragile(make_catch(ENVS, seed), left)
        left -= SEGMENT // ENVS
        return env

    with pytest.raises(Killed):
        killed.start(fragile)
    counters = read_counters(killed.directory)
    assert (counters.segment if counters else 0) == lifetime // (SEGMENT // ENVS)
    assert_same(whole.start(), killed.start())


@pytest.mark.parametrize("timesteps", [None, 2])
@pytest.mark.parametrize("moment", ["before the rows", "before the state", "after the state"])
def test_kill_during_a_checkpoint(
    make_catch: MakeCatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    timesteps: int | None,
    moment: str,
) -> None:
    whole = Stage(make_catch, run_directory(make_catch, tmp_path / "a", timesteps), timesteps)
    killed = Stage(make_catch, run_directory(make_catch, tmp_path / "b", timesteps), timesteps)
    where, name = {
        "before the rows": (Journal, "append"),
        "before the state": (training, "save_checkpoint"),
        "after the state": (Journal, "prune"),
    }[moment]
    original, calls = getattr(where, name), 0
    expected = whole.start()
    last_chunk = max((whole.directory / "replay").iterdir()).name

    def third_is_fatal(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            # Partial files of a killed process
            (killed.directory / ".state.safetensors.x.tmp").write_bytes(b"half")
            (killed.directory / "replay" / f".{last_chunk}.x.tmp").write_bytes(b"half")
            raise Killed
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, third_is_fatal)
        with pytest.raises(Killed):
            killed.start()
    assert_same(expected, killed.start())
    assert not list(tmp_path.glob("**/*.tmp"))


def test_finished_stage_is_not_trained_again(make_catch: MakeCatch, tmp_path: Path) -> None:
    stage = Stage(make_catch, tmp_path, None)
    done = stage.start()

    def no_env(seed: int) -> VecEnv:
        raise AssertionError("the stage was trained again")

    assert_same(done, stage.start(no_env))


def test_all_segments_of_all_stages_and_runs_have_different_seeds(
    make_catch: MakeCatch, tmp_path: Path
) -> None:
    seeds: list[int] = []

    def recording(seed: int) -> VecEnv:
        seeds.append(seed)
        return make_catch(ENVS, seed)

    runs = [
        Stage(make_catch, tmp_path / str(seed), timesteps, seed).start(recording)
        for seed in (1, 2)
        for timesteps in (None, 2)
    ]
    assert len(seeds) == sum(counters.segment for _, counters in runs)
    assert len(set(seeds)) == len(seeds)


def test_counters_match_the_training(make_catch: MakeCatch, tmp_path: Path) -> None:
    stage = Stage(make_catch, tmp_path, None)
    model, counters = stage.start()
    assert counters.steps == STEPS == model.num_timesteps
    assert counters.segment == -(-STEPS // SEGMENT)
    assert counters.calls == counters.rows
    # The last step of a segment is not stored.
    assert STEPS // ENVS - counters.segment <= counters.rows <= STEPS // ENVS
    # One update per two calls, after learning_starts steps
    assert 0 < counters.updates == model._n_updates <= counters.calls // 2
    assert counters.episodes, "no episodes [step, return, length]"
    assert all(value in (-1.0, 1.0) and length == 6 for _, value, length in counters.episodes)
    assert read_counters(stage.directory) == counters


def test_segments_truncate_their_episodes_and_never_terminate(
    make_catch: MakeCatch, tmp_path: Path
) -> None:
    stage = Stage(make_catch, tmp_path, None)
    model, counters = stage.start()
    buffer = model.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    seams = {int(chunk.stem) - 1 for chunk in (stage.directory / "replay").iterdir()}
    stored = range(counters.rows - buffer.buffer_size, counters.rows)
    assert len(seams & set(stored)) >= 2
    cuts = 0
    for row in stored:
        index = row % buffer.buffer_size
        ended, cut = buffer.dones[index] == 1, buffer.timeouts[index] == 1
        # Catch rewards only the last step of an episode.
        np.testing.assert_array_equal(ended & ~cut, buffer.rewards[index] != 0)
        assert ended.all() if row in seams else not cut.any()
        cuts += int(cut.sum())
    assert cuts


def test_derived_seeds_differ() -> None:
    parts = [(a, b, c) for a in range(6) for b in range(6) for c in range(6)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**31 for seed in seeds)


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if kind == "truncated" else bytes(len(data)))


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    make_catch: MakeCatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(make_catch, tmp_path, None)
    assert read_counters(stage.directory) is None
    expected = stage.start()
    for kind, file in itertools.product(("truncated", "zeroed"), ("state.safe*", "replay/*")):
        path = max(stage.directory.glob(file))
        damage(path, kind)
        if path.name == training.STATE:
            with pytest.raises(UserError, match=training.STATE):
                read_counters(stage.directory)
        capsys.readouterr()
        assert_same(expected, stage.start())
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{path} is damaged") and line.endswith("state.previous.safetensors")


def test_without_an_intact_checkpoint_the_error_says_how_to_go_on(
    make_catch: MakeCatch, tmp_path: Path
) -> None:
    stage = Stage(make_catch, tmp_path, None)
    expected = stage.start()
    for path in stage.directory.glob("replay/*"):
        damage(path, "zeroed")
    advice = r" is damaged .*\. Restore .*delete the folder of its stage to train the stage again"
    with pytest.raises(UserError, match=rf"\.npz{advice}"):
        stage.start()
    for path in stage.directory.glob("state*"):
        damage(path, "zeroed")
    with pytest.raises(UserError, match=f"state.previous.safetensors{advice}"):
        stage.start()
    shutil.rmtree(stage.directory)
    assert_same(expected, stage.start())


def test_a_damaged_best_checkpoint_is_replaced_by_the_one_before(
    make_catch: MakeCatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, selection = Stage(make_catch, tmp_path, None), Selection(Scores(1.0, 5.0, 2.0, 0.0))
    stage.start(selection=selection)
    damage(stage.directory / training.BEST, "zeroed")
    capsys.readouterr()
    model, counters = stage.start(selection=selection)
    assert counters.scores == [[40, 1.0], [STEPS, 0.0]], "no file holds the checkpoint of score 2"
    assert torch.equal(model.network.head.weight, selection.score.heads[0])  # type: ignore[attr-defined]
    assert "best.previous.safetensors" in capsys.readouterr().out
    for path in stage.directory.glob("best*"):
        path.unlink()
    with pytest.raises(UserError, match=f"best.safetensors is missing: .*delete {stage.directory}"):
        stage.start(selection=selection)


def test_an_error_of_the_log_does_not_end_the_training(
    make_catch: MakeCatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Stage(make_catch, tmp_path / "a", None).start()
    stage = Stage(make_catch, tmp_path / "b", None)
    stage.directory.mkdir(parents=True)
    (stage.directory / "tensorboard").touch()  # a file in place of the folder
    assert_same(expected, stage.start())
    assert capsys.readouterr().out.count("Training continues without this TensorBoard log") == 1


def test_other_file_is_rejected_as_state(make_catch: MakeCatch, tmp_path: Path) -> None:
    stage = Stage(make_catch, tmp_path, None)
    stage.directory.mkdir(parents=True)
    save_tensors(stage.directory / training.STATE, {"x": torch.zeros(1)}, {"some": 1})
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        read_counters(stage.directory)


class Scores:
    """Function that returns given scores and records the scored networks."""

    def __init__(self, *scores: float):
        self.scores = scores
        self.heads: list[torch.Tensor] = []

    def __call__(self, q_net: SpikingQNetwork) -> float:
        self.heads.append(q_net.network.head.weight.detach().clone())
        return self.scores[len(self.heads) - 1]


@pytest.mark.parametrize("best", range(4))
def test_stage_ends_with_its_best_checkpoint(
    make_catch: MakeCatch, tmp_path: Path, best: int
) -> None:
    values = [0.0, 0.0, 0.0, 0.0]
    values[best] = 1.0
    scores = Scores(*values)
    model, counters = Stage(make_catch, tmp_path, None).start(selection=Selection(scores))
    assert counters.scores == list(map(list, zip([40, 80, 120, STEPS], values, strict=True)))
    assert torch.equal(model.network.head.weight, scores.heads[best])
    others = [head for i, head in enumerate(scores.heads) if i != best]
    assert not any(torch.equal(model.network.head.weight, head) for head in others)


def test_first_of_equal_checkpoints_is_kept(make_catch: MakeCatch, tmp_path: Path) -> None:
    scores = Scores(0.0, 1.0, 1.0, 0.0)
    model, _ = Stage(make_catch, tmp_path, None).start(selection=Selection(scores))
    assert torch.equal(model.network.head.weight, scores.heads[1])


def test_selection_starts_at_its_step_and_ends_at_its_target(
    make_catch: MakeCatch, tmp_path: Path
) -> None:
    stage = Stage(make_catch, tmp_path, None)
    selection = Selection(Scores(3.0, 5.0), start=50, target=5.0)
    _, counters = stage.start(selection=selection)
    assert counters.scores == [[80, 3.0], [120, 5.0]]
    assert counters.steps == 120

    def no_env(seed: int) -> VecEnv:
        raise AssertionError("the stage was trained again")

    stage.start(no_env, selection)


@pytest.mark.parametrize("writes", range(1, 9))
def test_kill_between_the_best_checkpoint_and_the_state(
    make_catch: MakeCatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    def score(q_net: SpikingQNetwork) -> float:
        return float(q_net.network.head.weight.detach().abs().sum())  # grows during training

    whole, killed = (Stage(make_catch, tmp_path / name, None) for name in "ab")
    original, calls = training.save_checkpoint, 0

    def last_is_fatal(*args: Any) -> None:
        nonlocal calls
        original(*args)
        calls += 1
        if calls == writes:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", last_is_fatal)
        with pytest.raises(Killed):
            killed.start(selection=Selection(score))
    expected = whole.start(selection=Selection(score))
    assert len(expected[1].scores) == 4
    assert_same(expected, killed.start(selection=Selection(score)))
