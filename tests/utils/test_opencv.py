"""The import of OpenCV."""

import sys

import pytest

from snn_rl.utils.errors import UserError
from snn_rl.utils.opencv import opencv


def test_missing_opencv_is_a_one_line_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="opencv-python-headless") as error:
        opencv()
    assert "\n" not in str(error.value)
