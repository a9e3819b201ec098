"""Train an image classifier that decides in one timestep.

    python -m snn_rl.classify dataset=cifar10 net=vgg6 T=1 data=PATH

Trains an ANN, converts it into a spiking network, and retrains the spiking
network in stages with fewer timesteps (T=5, 4, 3, 2, 1), as snn_rl.train does
for agents. Scores every stage on the test images. Writes the results to
runs/<dataset>-<net>/seed<seed>/report.md. Rerun the same command to resume an
interrupted run.

-m seed=0,1,2 runs a sweep (docs/sweeps.md). Several GPUs or machines
(docs/imagenet.md): torchrun --nproc-per-node 8 -m snn_rl.classify ...

Presets in snn_rl/configs/settings override the defaults below for a dataset, a
network, or a paper. --help all lists all settings, and --cfg job prints the
settings of a run without starting it.
"""

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from snn_rl.chain import run_directory
from snn_rl.chain.records import record_invocation
from snn_rl.chain.runner import run_chain
from snn_rl.configs.compose import run_command
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.images import distributed
from snn_rl.images.chain import ImageChain, chain, directory_of, stage_settings
from snn_rl.images.checks import check_sizes, check_values
from snn_rl.images.data.datasets import PIXELS, open_dataset
from snn_rl.reports.image_report import write_report
from snn_rl.utils.process_memory import keep_freed_memory
from snn_rl.utils.threads import use_threads

_MAIN_SETTINGS = (
    *("dataset", "data", "net", "T", "seed", "preset", "T_start", "T_step", "direct", "stages"),
    *("scratch", "run_dir", "prune", "ann", "batch_norm", "pooling", "clip", "pixels"),
    *("test_limit", "limit", "threads", "fit.epochs", "iir.epochs", "iir.t1_epochs"),
    *("iir.distill", "iir.thresholds", "iir.surrogate", "iir.encoding", "iir.window"),
)


def results(config: ClassifyConfig) -> dict[Path, dict[str, Any]]:
    """Returns the directories of the stages and the settings that their results depend on."""
    directory = directory_of(config)
    others: dict[str, Any] = {"test_limit": config.test_limit, "threads": config.threads}
    return {directory / s.name: stage_settings(config, "", s) | others for s in chain(config)}


def main(config: ClassifyConfig) -> None:
    """Trains and scores all stages, and writes the report."""
    check_values(config)
    use_threads(config.threads)
    keep_freed_memory()
    stages = chain(config)
    folder = config.data or str(Path(os.environ.get("SNN_RL_DATA", "data")) / config.dataset)
    dataset = PIXELS[config.pixels](
        open_dataset(config.dataset, Path(folder), config.image_size, config.limit)
    )
    check_sizes(config, dataset)
    directory = directory_of(config)
    first = distributed.is_first()
    with run_directory.lock(directory) if first else nullcontext():
        trainer = ImageChain(config, dataset, directory)
        settings = partial(stage_settings, config, dataset.train.fingerprint())
        record = partial(record_invocation, directory, config, distributed.launcher())
        run_chain(directory, stages, settings, trainer.fit, record, writes=first)
        for stage in stages:
            score = trainer.score(stage)
            if first:
                kind = "TRAINING images (no test set)" if score.test_is_train else "test images"
                print(f"{stage.name}: {score.accuracy:.2%} of {score.images} {kind}")
            trainer.score_at_one(stage)
        if first:
            print(f"report: {write_report(directory)}")


if __name__ == "__main__":
    with distributed.workers():
        run_command(
            *(ClassifyConfig, main, __doc__, _MAIN_SETTINGS),
            complain=distributed.complain,
            results=results,
        )
