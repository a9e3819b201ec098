"""Execution of the stages of a chain, and functions shared by all chains."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from snn_rl.chain import run_directory
from snn_rl.chain.records import AgentNotes, ImageNotes, is_done, mark_done, read_settings
from snn_rl.chain.stages import Stage
from snn_rl.core.conversion import (
    ConversionError,
    ThresholdSearch,
    convert,
    format_table,
    layer_table,
)
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork, SpikingOptions, State
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.utils.errors import UserError

# Settings that older stages do not store; such stages are not checked for these settings
RECORDED_LATER = frozenset({"training_images"})


def run_chain(
    run_dir: Path,
    chain: list[Stage],
    settings: Callable[[Stage], dict[str, Any]],
    fit: Callable[[Stage], None],
    begin: Callable[[], None] | None = None,
    writes: bool = True,
) -> None:
    """Runs the unfinished stages of a chain.

    The settings of a stage are written before the stage starts.

    Args:
        run_dir: Directory of the run; each stage has the directory `run_dir / stage.name`.
        chain: Stages from `schedule`.
        settings: Function that returns the settings that a stage's result depends on, as
            JSON-compatible types.
        fit: Function that trains one stage or resumes an interrupted stage.
        begin: Function called once before the first stage starts, even if all stages have finished.
        writes: False for a distributed worker that must not write files. In this case `begin` is
            not called, and `fit` must wait for the worker that writes.

    Raises:
        UserError: A stage of this run was started with other settings, or a finished stage lacks
            files.
    """
    for stage in chain:
        check_settings(run_dir / stage.name, settings(stage))
    # Evaluated before any file is written, so that all workers get the same list
    unfinished = [stage for stage in chain if not is_done(run_dir / stage.name)]
    if begin and writes:
        begin()
    for stage in unfinished:
        directory = run_dir / stage.name
        if writes:
            write_json(directory / run_directory.SETTINGS, settings(stage))
        fit(stage)
        if writes:
            mark_done(directory)


def check_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Checks that a stage was started with the same settings.

    Raises:
        UserError: The settings differ; the message names each difference.
    """
    if not (directory / run_directory.SETTINGS).exists():
        return
    before = read_settings(directory)
    changes = [
        _change(key, before.get(key, "absent"), settings.get(key, "absent"))
        for key in sorted(before.keys() | settings.keys())
        if before.get(key) != settings.get(key)  # None equals a missing setting
        and not (key in RECORDED_LATER and key not in before)
    ]
    if changes:
        raise UserError(
            f"{directory} was started with other settings: {'; '.join(changes)}. Use the previous "
            "settings or another run_dir"
        )


def _change(key: str, before: Any, now: Any) -> str:
    if key == "bf16":  # the stored form of the setting `precision`
        key, names = "precision", {True: "bfloat16", False: "float32"}
        before, now = names.get(before, before), names.get(now, now)
    return f"{key} was {before}, now {now}"


def load_stage(run_dir: Path, name: str) -> AnalogNetwork | SpikingNetwork:
    """Loads the network of a finished stage."""
    return load_network(run_dir / name / run_directory.NETWORK)[0]


def converted(
    analog: AnalogNetwork, images: Tensor, options: SpikingOptions, search: ThresholdSearch
) -> SpikingNetwork:
    """Calls `convert` and re-raises a ConversionError as a UserError."""
    try:
        return convert(analog, images, options, search)
    except ConversionError as error:
        raise UserError(f"the ANN cannot be converted: {error}") from None


def save_stage(
    directory: Path,
    network: AnalogNetwork | SpikingNetwork,
    notes: AgentNotes | ImageNotes,
    samples: Callable[[], tuple[Tensor, State]],
) -> None:
    """Saves the network of a stage. For a spiking network, also prints and stores a layer table.

    Args:
        directory: Directory of the stage.
        network: Trained network.
        notes: Training metadata.
        samples: Function that returns images [N, channels, height, width] on which spikes are
            counted, and the initial membrane potentials.
    """
    if isinstance(network, SpikingNetwork):
        table = layer_table(network.eval(), *samples())
        print(f"\n{directory.name}\n{format_table(table)}")
        notes = replace(notes, layers=table)
    save_network(directory / run_directory.NETWORK, network, notes.to_json())
