"""Fuzzes the readers of run files: a changed file gives a result or one line, never a traceback.

`pytest tests/faults --fuzz 2000` tries 2,000 random changes per file.
"""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_rl.agents.loading import load_agent
from snn_rl.agents.plan import stage_settings
from snn_rl.chain.records import (
    AgentNotes,
    Counters,
    Evaluation,
    Invocation,
    Score,
    StageEvaluation,
    Trials,
    mark_done,
    read_counters,
    read_image_stages,
    read_stages,
    read_trials,
    write_invocations,
)
from snn_rl.chain.stages import ANN, Stage
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork, SpikingOptions
from snn_rl.core.networks.q_networks import cartpole
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_tensors, save_network, save_tensors
from snn_rl.images.chain import AT_ONE
from snn_rl.papers import runs
from snn_rl.papers.tables import AccuracyTable, Cell
from snn_rl.reports import figures, image_report, model_card, run_report, sweeps
from snn_rl.utils.errors import UserError

DRAWN = (
    *("learning_curves", "evaluation_returns", "spike_rates", "energies", "rates_by_layer"),
    "scores_by_timesteps",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, -1, 0, 1e308, 2**63, float("nan"), float("inf")])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "T1", "ann", "nan", "`|<b>", "'", "\x1b[31m", "x" * 3000, "../.."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in parsed JSON."""
    yield path
    entries = enumerate(data) if isinstance(data, list) else ()
    for key, value in data.items() if isinstance(data, dict) else entries:
        yield from places(value, (*path, key))


def changed(draw: st.DataObject, data: Any) -> Any:
    """Returns parsed JSON with one value replaced, removed, or repeated."""
    *outer, last = (None, *draw.draw(st.sampled_from(list(places(data))), "place"))
    what = draw.draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]), "what")
    if last is None:
        return draw.draw(VALUES, "value")
    data = copy.deepcopy(data)
    parent = data
    for key in outer[1:]:
        parent = parent[key]
    if what == "remove":
        del parent[last]
    elif what == "repeat" and isinstance(parent, list):
        parent.append(parent[last])
    else:
        parent[last] = draw.draw(VALUES, "value")
    return data


def attempt(read: Callable[[], object]) -> None:
    """Calls a reader, which may raise UserError."""
    with suppress(UserError):
        read()


class Run:
    """Files of a run, of which a test changes one at a time."""

    def __init__(self, directory: Path):
        self.directory = directory

    def check(self, draw: st.DataObject, file: str, read: Callable[[Path], object]) -> None:
        """Changes the content of a JSON file, or the notes of a safetensors file, and reads it."""
        path = self.directory / file
        before = path.read_bytes()
        try:
            if path.suffix == ".json":
                data = changed(draw, json.loads(before))
                path.write_text(json.dumps(data))
            else:
                tensors, notes = load_tensors(path)
                notes = changed(draw, notes)
                if not isinstance(notes, dict) or notes.get("schema") != 1:
                    return
                save_tensors(path, tensors, notes)
            attempt(lambda: read(self.directory))
        finally:
            path.write_bytes(before)


@pytest.fixture(autouse=True)
def fast(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    """Neither stores figures nor draws most of them."""
    if "drawn" not in request.node.name:
        for name in DRAWN:
            monkeypatch.setattr(figures, name, lambda *values: None)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run of an agent with two evaluated stages, as publish and train write them."""
    run = tmp_path_factory.mktemp("fuzz") / "CartPole-v1" / "seed0"
    config = compose(Config, ["env=CartPole-v1", "T_start=1"])
    write_invocations(
        run, [Invocation("python -m snn_rl.train", "a", "b", settings=asdict(config))]
    )
    spec = cartpole((3, 40, 120), 2)
    for name, network in (
        (ANN, AnalogNetwork(spec)),
        ("T1", SpikingNetwork(spec, SpikingOptions(1))),
    ):
        directory = run / name
        column = Evaluation([1.0, 2.0], [3, 4], 2, 0, [0.5] * 3, 0.5)
        evaluated = StageEvaluation(
            evaluation=Trials(2, 7, 0.0, 0.25), greedy=column, sticky=column
        )
        evaluated.write(directory / "metrics.json")
        notes = AgentNotes(env=config.env, seed=0, stage=name, steps=1, updates=2, wall_s=3.0)
        own = notes.to_json() | {"scores": [[8, 1.0]], "selection": [{"games": 5, "sticky": 0.25}]}
        save_network(directory / "network.safetensors", network, own)
        write_json(directory / "settings.json", stage_settings(config, Stage.parse(name)))
        write_json(directory / "game.json", {"seed": 1, "return": 2.0, "decisions": 3})
        counters = Counters(steps=8, episodes=[[4, 1.0, 4], [8, 2.0, 4]], scores=[[8, 1.0]])
        save_tensors(directory / "state.safetensors", {}, {"counters": counters.to_json()})
        mark_done(directory)
    return Run(run)


AGENT_FILES = ["run.json", "T1/metrics.json", "T1/settings.json", "T1/network.safetensors"]
AGENT_READERS = {
    "report": (
        run_report.write_report,
        [*AGENT_FILES, "ann/settings.json", "T1/state.safetensors"],
    ),
    "drawn": (run_report.write_report, ["T1/metrics.json", "T1/state.safetensors"]),
    "sweep": (lambda run: sweeps.write_sweep(run.parents[1]), AGENT_FILES[:3]),
    "card": (lambda run: model_card.write_card(run, [], ""), [*AGENT_FILES, "T1/game.json"]),
    "paper": (lambda run: runs.read_agents(run.parents[1], "CartPole-v1"), AGENT_FILES),
    "stages": (read_stages, AGENT_FILES),
    "agent": (lambda run: load_agent(run / "T1"), AGENT_FILES[2:]),
    "counters": (lambda run: read_counters(run / "T1"), ["T1/state.safetensors"]),
    "trials": (lambda run: read_trials(run / "T1" / "metrics.json"), ["T1/metrics.json"]),
    "evaluation": (lambda run: StageEvaluation.read(run / "T1/metrics.json"), ["T1/metrics.json"]),
}
IMAGE_FILES = ["run.json", "T1/metrics.json", "T1/settings.json", "T1/network.safetensors"]
IMAGE_READERS = {
    "report": (image_report.write_report, [*IMAGE_FILES, "T2/at_one_timestep.json"]),
    "sweep": (lambda run: sweeps.write_sweep(run.parents[1]), IMAGE_FILES[:3]),
    "stages": (read_image_stages, IMAGE_FILES),
}


def cases(readers: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(read, file, id=f"{name}-{file}")
        for name, (read, files) in readers.items()
        for file in files
    ]


@pytest.mark.parametrize(("read", "file"), cases(AGENT_READERS))
@given(draw=st.data())
def test_changed_files_of_an_agent(
    agent: Run, read: Callable[[Path], object], file: str, draw: st.DataObject
) -> None:
    agent.check(draw, file, read)


def test_a_model_card_needs_a_known_environment(agent: Run, tmp_path: Path) -> None:
    run = shutil.copytree(agent.directory, tmp_path / "run")
    settings = run / "T1" / "settings.json"
    write_json(settings, json.loads(settings.read_text()) | {"env": ""})
    with pytest.raises(UserError, match="unknown env=: use CartPole-v1"):
        model_card.write_card(run, [], "")


@pytest.fixture
def image(tmp_path: Path, image_stage: Callable[..., str]) -> Run:
    """Run of a classifier with three scored stages."""
    for name in (ANN, "T2", "T1"):
        image_stage("vgg5/seed0", name, epochs=1, updates=2, wall_s=3.0, images=4)
        mark_done(tmp_path / "vgg5" / "seed0" / name)
    run = tmp_path / "vgg5" / "seed0"
    Score(0.5, 200, [0.5, 0.25]).write(run / "T2" / AT_ONE)
    return Run(run)


@pytest.mark.parametrize(("read", "file"), cases(IMAGE_READERS))
@given(draw=st.data())
def test_changed_files_of_a_classifier(
    image: Run, read: Callable[[Path], object], file: str, draw: st.DataObject
) -> None:
    image.check(draw, file, read)


@pytest.mark.parametrize("file", IMAGE_FILES)
@given(draw=st.data())
def test_changed_files_in_a_papers_table(image: Run, file: str, draw: st.DataObject) -> None:
    cell = Cell(90.0, "T1", {"dataset": "cifar10"})
    table = AccuracyTable(runs.PaperSettings("ull"), "accuracy", ["net", "T1"], [["vgg5", cell]])
    image.check(draw, file, lambda run: table(run.parents[1]))


@pytest.mark.parametrize("source", ["x" * 3000, "../.."])
def test_a_source_that_is_no_stage_of_the_run(image: Run, source: str) -> None:
    settings = image.directory / "T1" / "settings.json"
    write_json(settings, json.loads(settings.read_text()) | {"source": source})
    found = runs.read_images(image.directory.parents[1])
    assert next(each for each in found if each.stage.name == "T1").lineage == (source,)
