"""OpenCV, imported with a clear message where it is broken."""

from types import ModuleType

from snn_rl.utils.errors import UserError


def opencv() -> ModuleType:
    """OpenCV.

    Raises:
        UserError: It is not there, or cannot be loaded.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"OpenCV does not load ({error}): on a machine without libGL, "
            "`pip uninstall opencv-python` and `pip install opencv-python-headless`"
        ) from None
    return cv2
