"""Conversion of a trained analog network into a spiking network."""

from snn_rl.core.conversion.batch_norm import fuse_batch_norm
from snn_rl.core.conversion.convert import convert
from snn_rl.core.conversion.integer_grid import integers, quantize
from snn_rl.core.conversion.layer_table import (
    LayerReport,
    activity_rates,
    format_table,
    layer_table,
    spike_rates,
)
from snn_rl.core.conversion.prune import apply_masks_, magnitude_masks
from snn_rl.core.conversion.thresholds import ConversionError, ThresholdSearch

__all__ = [
    "ConversionError",
    "LayerReport",
    "ThresholdSearch",
    "activity_rates",
    "apply_masks_",
    "convert",
    "format_table",
    "fuse_batch_norm",
    "integers",
    "layer_table",
    "magnitude_masks",
    "quantize",
    "spike_rates",
]
