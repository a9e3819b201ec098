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
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import SpikingDQN, SpikingQNetwork, training
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.tracking import stage_logger
from snn_rl.agents.training import Duration, Selection, resume, train_stage
from snn_rl.chain.records import Counters, read_counters
from snn_rl.core.networks import AnalogNetwork
from snn_rl.files.checkpoint import save_tensors
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed

MakeCatch = Callable[..., VecEnv]

STEPS, SEGMENT, ENVS = 130, 40, 2  # the last segment is shorter
SEED = 7


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
        model.set_logger(stage_logger(self.directory, counters.steps))
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


class Whole:
    """A run of two stages that nothing interrupts, and what the tests compare with."""

    def __init__(self, make_catch: MakeCatch, directory: Path):
        self.make_catch, self.directory = make_catch, directory
        self.seeds: list[int] = []  # of all segments
        self.ends = {
            timesteps: Stage(make_catch, directory, timesteps).start(self._recording)
            for timesteps in (None, 2)
        }

    def _recording(self, seed: int) -> VecEnv:
        self.seeds.append(seed)
        return self.make_catch(ENVS, seed)

    def copied(self, directory: Path) -> Stage:
        """Returns a copy of the finished first stage."""
        shutil.copytree(self.directory / "ann", directory / "ann")
        return Stage(self.make_catch, directory, None)

    def new(self, directory: Path, timesteps: int | None) -> Stage:
        """Returns a stage that has not started; the one before a later stage is finished."""
        if timesteps is not None:
            self.copied(directory)
        return Stage(self.make_catch, directory, timesteps)


@pytest.fixture(scope="module")
def whole(make_catch: MakeCatch, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(make_catch, tmp_path_factory.mktemp("whole"))


LENGTH = SEGMENT // ENVS  # calls


@pytest.mark.parametrize("timesteps", [None, 2])
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([(13, 0)], id="in the first segment"),
        pytest.param(
            [
                (0, 0),  # at the first step
                (LENGTH, 1),  # at the first step after a segment
                (LENGTH + 1, 2),  # at the second step after a segment
                (LENGTH + 2, 3),  # in the last segment
            ],
            id="in every segment",
        ),
    ],
)
def test_resumed_stage_ends_like_an_uninterrupted_one(
    make_catch: MakeCatch,
    make_fragile: Callable[[VecEnv, int], VecEnv],
    kill: type[BaseException],
    whole: Whole,
    tmp_path: Path,
    timesteps: int | None,
    kills: list[tuple[int, int]],
) -> None:
    """Each kill is a number of calls, and the segments finished by then."""
    killed = whole.new(tmp_path, timesteps)
    for lifetime, finished in kills:
        left = lifetime

        def fragile(seed: int) -> VecEnv:
            nonlocal left
            env = make_fragile(make_catch(ENVS, seed), left)
            left -= LENGTH
            return env

        with pytest.raises(kill):
            killed.start(fragile)
        counters = read_counters(killed.directory)
        assert (counters.segment if counters else 0) == finished
    assert_same(whole.ends[timesteps], killed.start())


@pytest.mark.parametrize("timesteps", [None, 2])
def test_kill_during_a_checkpoint(
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill: type[BaseException],
    timesteps: int | None,
) -> None:
    killed = whole.new(tmp_path, timesteps)
    stage = killed.directory.name
    last_chunk = max((whole.directory / stage / "replay").iterdir()).name
    for where, name, fatal, finished in (
        (Journal, "append", 2, 1),  # before the rows
        (training, "save_checkpoint", 2, 2),  # before the state
        (Journal, "prune", 1, 3),  # after the state
    ):
        original, left = getattr(where, name), fatal

        def one_is_fatal(*args: Any, original: Callable[..., None] = original) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                # Partial files of a killed process
                (killed.directory / ".state.safetensors.x.tmp").write_bytes(b"half")
                (killed.directory / "replay" / f".{last_chunk}.x.tmp").write_bytes(b"half")
                raise kill
            original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(where, name, one_is_fatal)
            with pytest.raises(kill):
                killed.start()
        counters = read_counters(killed.directory)
        assert counters is not None and counters.segment == finished
    assert_same(whole.ends[timesteps], killed.start())
    assert not list(tmp_path.glob("**/*.tmp"))


def test_finished_stage_is_not_trained_again(whole: Whole, tmp_path: Path) -> None:
    def no_env(seed: int) -> VecEnv:
        raise AssertionError("the stage was trained again")

    assert_same(whole.ends[None], whole.copied(tmp_path).start(no_env))


def test_all_segments_of_all_stages_and_runs_have_different_seeds(
    make_catch: MakeCatch, whole: Whole, tmp_path: Path
) -> None:
    seeds = list(whole.seeds)

    def recording(seed: int) -> VecEnv:
        seeds.append(seed)
        return make_catch(ENVS, seed)

    runs = [
        *whole.ends.values(),
        *(Stage(make_catch, tmp_path, stage, SEED + 1).start(recording) for stage in (None, 2)),
    ]
    assert len(seeds) == sum(counters.segment for _, counters in runs)
    assert len(set(seeds)) == len(seeds)


def test_counters_match_the_training(whole: Whole) -> None:
    model, counters = whole.ends[None]
    assert counters.steps == STEPS == model.num_timesteps
    assert counters.segment == -(-STEPS // SEGMENT)
    assert counters.calls == counters.rows
    # The last step of a segment is not stored.
    assert STEPS // ENVS - counters.segment <= counters.rows <= STEPS // ENVS
    # One update per two calls, after learning_starts steps
    assert 0 < counters.updates == model._n_updates <= counters.calls // 2
    assert counters.episodes, "no episodes [step, return, length]"
    assert all(value in (-1.0, 1.0) and length == 6 for _, value, length in counters.episodes)
    assert read_counters(whole.directory / "ann") == counters


def test_segments_truncate_their_episodes_and_never_terminate(whole: Whole) -> None:
    model, counters = whole.ends[None]
    buffer = model.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    seams = {int(chunk.stem) - 1 for chunk in (whole.directory / "ann" / "replay").iterdir()}
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
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_counters(tmp_path / "ann") is None
    stage, expected = whole.copied(tmp_path), whole.ends[None]
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
    whole: Whole, tmp_path: Path
) -> None:
    stage = whole.copied(tmp_path)
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
    assert_same(whole.ends[None], stage.start())


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
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = whole.new(tmp_path, None)
    stage.directory.mkdir(parents=True)
    (stage.directory / "tensorboard").touch()  # a file in place of the folder
    assert_same(whole.ends[None], stage.start())
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


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((1.0, 0.0, 0.0, 0.0), 0),
        ((0.0, 1.0, 1.0, 0.0), 1),  # the first of equal checkpoints
        ((0.0, 0.0, 0.0, 1.0), 3),
    ],
)
def test_stage_ends_with_its_best_checkpoint(
    make_catch: MakeCatch, tmp_path: Path, values: tuple[float, ...], best: int
) -> None:
    scores = Scores(*values)
    model, counters = Stage(make_catch, tmp_path, None).start(selection=Selection(scores))
    assert counters.scores == list(map(list, zip([40, 80, 120, STEPS], values, strict=True)))
    assert torch.equal(model.network.head.weight, scores.heads[best])
    others = [head for i, head in enumerate(scores.heads) if i != best]
    assert not any(torch.equal(model.network.head.weight, head) for head in others)


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


def test_kill_between_the_best_checkpoint_and_the_state(
    make_catch: MakeCatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill: type[BaseException],
) -> None:
    def score(q_net: SpikingQNetwork) -> float:
        return float(q_net.network.head.weight.detach().abs().sum())  # grows during training

    expected = Stage(make_catch, tmp_path / "a", None).start(selection=Selection(score))
    assert len(expected[1].scores) == 4
    killed = Stage(make_catch, tmp_path / "b", None)
    original = training.save_checkpoint
    for segment, writes in itertools.product(range(4), (1, 2)):
        left = writes

        def last_is_fatal(*args: Any) -> None:
            nonlocal left
            original(*args)
            left -= 1
            if left == 0:
                raise kill

        with monkeypatch.context() as patch:
            patch.setattr(training, "save_checkpoint", last_is_fatal)
            with pytest.raises(kill):
                killed.start(selection=Selection(score))
        counters = read_counters(killed.directory)
        assert (counters.segment if counters else 0) == segment + (writes == 2)
    assert_same(expected, killed.start(selection=Selection(score)))
