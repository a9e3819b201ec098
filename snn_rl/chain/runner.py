"""Running the stages of a chain one after the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snn_rl.chain.stages import Stage
from snn_rl.files.atomic import read_json, write_json
from snn_rl.utils.errors import UserError

DONE = "done.json"


SETTINGS = "settings.json"  # what a stage is trained with, in its directory


# Settings that a stage's file may lack because it is older than they are: then they say nothing
RECORDED_LATER = frozenset({"training_images"})


def is_done(directory: Path) -> bool:
    """Whether a stage has finished in this directory."""
    return (directory / DONE).exists()


def run_chain(
    run_dir: Path,
    chain: list[Stage],
    settings: Callable[[Stage], dict[str, Any]],
    fit: Callable[[Stage], None],
    begin: Callable[[], None] | None = None,
    writes: bool = True,
) -> None:
    """Runs the stages that are not done yet.

    A stage's settings are written before it starts; a stage that was started with other settings
    is refused, and nothing of it is touched.

    Args:
        run_dir: Each stage has the directory `run_dir / stage.name`.
        chain: From `schedule`.
        settings: What a stage's result depends on, as plain JSON types.
        fit: Trains one stage; it resumes by itself what it finds half done.
        begin: Called when no stage is refused, before any starts; also where all are done.
        writes: False for a process that takes part in a run whose files another one writes; `fit`
            has to begin by waiting for that one, and `begin` is not called.

    Raises:
        UserError: A stage of this run was started with other settings.
    """
    for stage in chain:
        check_settings(run_dir / stage.name, settings(stage))
    if begin and writes:
        begin()
    # looked up before anything is written: all processes of a run have to come to the same list
    for stage in [stage for stage in chain if not is_done(run_dir / stage.name)]:
        directory = run_dir / stage.name
        if writes:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / SETTINGS, settings(stage))
        fit(stage)
        if writes:
            write_json(directory / DONE, {"stage": stage.name})


def check_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Refuses settings other than those this stage was started with, naming the difference."""
    path = directory / SETTINGS
    if not path.exists():
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise UserError(f"{path} is damaged: it holds no settings")
    changes = [
        f"{key} was {before.get(key, 'absent')}, now {settings.get(key, 'absent')}"
        for key in sorted(before.keys() | settings.keys())
        if before.get(key) != settings.get(key)  # None is no other setting than none at all
        and not (key in RECORDED_LATER and key not in before)
    ]
    if changes:
        raise UserError(
            f"{directory} was started with other settings: {'; '.join(changes)}. Use the old "
            "ones, or another run_dir"
        )
