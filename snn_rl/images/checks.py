"""Checks that involve several settings, files, or the dataset."""

from pathlib import Path

from snn_rl.chain.stages import ANN
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.setting import check_settings, value_of
from snn_rl.core.conversion.thresholds import PERCENTILE
from snn_rl.core.surrogate import check_surrogate
from snn_rl.images import distributed
from snn_rl.images.chain import chain, stage_epochs
from snn_rl.images.data.datasets import Dataset
from snn_rl.utils.device import check_device
from snn_rl.utils.errors import UserError


def check_values(config: ClassifyConfig) -> None:
    """Checks the settings before any computation."""
    check_settings(config)
    try:
        check_surrogate(config.iir.surrogate)
    except ValueError as error:
        raise UserError(f"iir.{error}") from None
    check_device(config.device)
    for name in ("fit.batch_size", "iir.batch_size"):
        if value_of(config, name) % distributed.size():
            raise UserError(
                f"{name}={value_of(config, name)} must be a multiple of {distributed.size()}, the "
                "number of workers"
            )
    if config.iir.window and distributed.size() > 1:
        raise UserError(f"iir.window={config.iir.window} cannot be combined with several workers")
    if config.iir.thresholds != PERCENTILE and not config.clip:
        raise UserError(f"iir.thresholds={config.iir.thresholds} requires clip=true")
    for name in ("ann", "iir.thresholds_from"):
        file = value_of(config, name)
        if file is not None and not Path(file).is_file():
            raise UserError(f"{name}={file}: file not found")
    if config.scratch and config.iir.distill:
        raise UserError(
            "scratch=true requires iir.distill=0, because there is no ANN to distill from"
        )
    # A preset may set direct=true, which has no effect on a single stage.
    if config.scratch and (config.prune or config.stages != "iir" or config.ann):
        raise UserError(
            "scratch=true trains a single stage and cannot be combined with ann, stages, or prune"
        )
    if config.iir.thresholds_from and config.iir.threshold_scale != 1.0:
        raise UserError(
            f"iir.threshold_scale={config.iir.threshold_scale:g} must be 1 when "
            "iir.thresholds_from is set, because those thresholds are used unscaled"
        )
    chain(config)


def check_sizes(config: ClassifyConfig, dataset: Dataset) -> None:
    """Raises UserError if a setting exceeds the number of images in the dataset."""
    if (config.test_limit or 0) > len(dataset.test):
        raise UserError(
            f"test_limit={config.test_limit} exceeds the {len(dataset.test)} available test images"
        )
    trained = [stage for stage in chain(config) if stage_epochs(config, stage)]
    for name in {"fit.batch_size" if s.name == ANN else "iir.batch_size" for s in trained}:
        if value_of(config, name) > len(dataset.train):
            raise UserError(
                f"{name}={value_of(config, name)} exceeds the {len(dataset.train)} available "
                "training images"
            )
