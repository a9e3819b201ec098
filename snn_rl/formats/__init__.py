"""Export formats: ONNX, NIR, `torch.export` programs and the event-driven engine.

Every format is a function that writes a network to a file and returns the engines that run the
file. Packages that a format needs are imported when the format is used.
"""

from snn_rl.formats.registry import FORMATS, Engine, optional, register_format

__all__ = ["FORMATS", "Engine", "optional", "register_format"]
