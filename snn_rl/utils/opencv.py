"""Import of OpenCV with a clear error."""

from types import ModuleType

from snn_rl.utils.errors import UserError


def opencv() -> ModuleType:
    """Returns the cv2 module.

    Raises:
        UserError: OpenCV is not installed or cannot be loaded.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"cannot import OpenCV ({error}): on a machine without libGL, replace opencv-python "
            "by opencv-python-headless"
        ) from None
    return cv2
