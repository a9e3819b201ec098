"""What the schema's types cannot say of the settings, checked before anything is done."""

from collections.abc import Collection
from pathlib import Path

from snn_rl.chain.stages import ANN
from snn_rl.configs.compose import value_of
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.conversion.thresholds import (
    BLOCK_THRESHOLDS,
    METHODS,
    PERCENTILE,
    PERCENTILES_OVER,
)
from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.networks import IMAGE_NETWORKS
from snn_rl.core.surrogate import check_surrogate
from snn_rl.images import distributed
from snn_rl.images.chain import POOLINGS, chain, stage_epochs
from snn_rl.images.data.datasets import DATASETS, PIXELS, Dataset
from snn_rl.images.fitting import SCHEDULES
from snn_rl.utils.device import check_device
from snn_rl.utils.errors import UserError, did_you_mean
from snn_rl.utils.plugins import is_reference

_CHOICES: dict[str, Collection[str]] = {
    "dataset": DATASETS,
    "pooling": POOLINGS,
    "pixels": PIXELS,
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "float32", "bfloat16"),
    "fit.schedule": SCHEDULES,
    "iir.schedule": SCHEDULES,
    "iir.thresholds": METHODS,
    "iir.percentile_over": PERCENTILES_OVER,
    "iir.block_thresholds": BLOCK_THRESHOLDS,
    "iir.encoding": ENCODINGS,
}
_AT_LEAST: dict[str, float] = {
    "seed": 0,
    "threads": 0,
    "fit.epochs": 1,
    "fit.batch_size": 1,
    "fit.weight_decay": 0,
    "iir.epochs": 1,
    "iir.t1_epochs": 0,
    "iir.batch_size": 1,
    "iir.weight_decay": 0,
    "iir.conversion_samples": 1,
    "iir.conversion_timesteps": 0,
    "iir.window": 0,
}
_ABOVE_ZERO = (
    *("fit.lr", "iir.lr", "fit.decay", "iir.decay"),
    *("iir.temperature", "iir.percentile", "iir.threshold_scale"),
)
_FRACTIONS = (
    "prune",
    "fit.decay",
    "iir.decay",
    "fit.dropout",
    "fit.label_smoothing",
    "iir.dropout",
    "iir.label_smoothing",
    "iir.distill",
)


def check_values(config: ClassifyConfig) -> None:
    """Checks choices and ranges.

    Raises:
        UserError: One of them is impossible; it says what would be right.
    """
    if not config.dataset:
        raise UserError("dataset is missing: say for example dataset=cifar10")
    for name, choices in _CHOICES.items():
        value = value_of(config, name)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            raise UserError(f"{name}={value}: must be one of {', '.join(choices)}{hint}")
    try:
        check_surrogate(config.iir.surrogate)
    except ValueError as error:
        raise UserError(f"iir.surrogate={config.iir.surrogate}: {error}") from None
    if config.net not in IMAGE_NETWORKS and not is_reference(config.net):
        hint = did_you_mean(config.net, IMAGE_NETWORKS)
        raise UserError(f"net={config.net}: must be one of {', '.join(IMAGE_NETWORKS)}{hint}")
    check_device(config.device)
    for name, least in _AT_LEAST.items():
        if not value_of(config, name) >= least:
            raise UserError(f"{name}={value_of(config, name)}: must be {least:g} or more")
    for name in _ABOVE_ZERO:
        if not 0 < value_of(config, name) < float("inf"):
            raise UserError(f"{name}={value_of(config, name)}: must be above 0")
    for name in _FRACTIONS:
        if not 0 <= value_of(config, name) <= 1:
            raise UserError(f"{name}={value_of(config, name)}: must lie in 0 to 1")
    for name in ("fit.batch_size", "iir.batch_size"):
        value = value_of(config, name)
        if value % distributed.size():
            raise UserError(
                f"{name}={value}: it is shared out among {distributed.size()} workers "
                "and must be a multiple of that"
            )
    if config.iir.window and distributed.size() > 1:
        raise UserError(f"iir.window={config.iir.window}: windows are for one worker only")
    if config.fit.dropout == 1 or config.iir.dropout == 1:
        raise UserError("a dropout of 1 leaves nothing: it must be below 1")
    if config.prune == 1:
        raise UserError("prune=1.0 leaves nothing: it must be below 1")
    if config.iir.percentile > 100:
        raise UserError(f"iir.percentile={config.iir.percentile}: must be 100 or less")
    if config.iir.thresholds != PERCENTILE and not config.clip:
        raise UserError(
            f"iir.thresholds={config.iir.thresholds} needs clip=true: it takes them from the clips"
        )
    if config.limit is not None and config.limit < 1:
        raise UserError(f"limit={config.limit}: must be 1 or more")
    if config.test_limit is not None and config.test_limit < 1:
        raise UserError(f"test_limit={config.test_limit}: must be 1 or more")
    for name, file in (("ann", config.ann), ("iir.thresholds_from", config.iir.thresholds_from)):
        if file is not None and not Path(file).is_file():
            raise UserError(f"{name}={file}: no such file")
    if config.scratch and config.iir.distill:
        raise UserError("scratch=true has no ANN to teach it: say iir.distill=0")
    # a preset may say direct=true; of one stage it means nothing
    if config.scratch and (config.prune or config.stages != "iir" or config.ann):
        raise UserError("scratch=true is one stage: without ann, stages and prune")
    if config.iir.thresholds_from and config.iir.threshold_scale != 1.0:
        raise UserError(
            f"iir.thresholds_from takes thresholds as they are: leave out iir.threshold_scale="
            f"{config.iir.threshold_scale:g} (say iir.threshold_scale=1)"
        )
    chain(config)


def check_sizes(config: ClassifyConfig, dataset: Dataset) -> None:
    """Checks what the settings ask of the images that are there.

    Raises:
        UserError: More images are asked for than there are.
    """
    if (config.test_limit or 0) > len(dataset.test):
        raise UserError(
            f"test_limit={config.test_limit}: there are {len(dataset.test)} test images"
        )
    trained = [stage for stage in chain(config) if stage_epochs(config, stage)]
    for name in {"fit.batch_size" if s.name == ANN else "iir.batch_size" for s in trained}:
        if value_of(config, name) > len(dataset.train):
            raise UserError(
                f"{name}={value_of(config, name)}: there are {len(dataset.train)} training images"
            )
