"""Import of OpenCV with a clear error message."""

from types import ModuleType

from snn_rl.utils.errors import UserError


def opencv() -> ModuleType:
    """Imports OpenCV."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"OpenCV cannot be loaded ({error}); on a machine without libGL run "
            "`pip uninstall opencv-python` and `pip install opencv-python-headless`"
        ) from None
    return cv2
