"""Limits of image files."""

import io

import pytest
from PIL import Image

from snn_rl.images.data import decoding
from snn_rl.utils.errors import UserError


@pytest.mark.parametrize(("mode", "limit"), [("RGB", 64), ("L", 64), ("P", 32)])
def test_the_limit_counts_the_copy_of_other_modes(
    mode: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_MAX_PIXELS", 64)

    def image(height: int) -> bytes:
        file = io.BytesIO()
        Image.new(mode, (8, height)).save(file, "PNG")
        return file.getvalue()

    assert decoding.decode(image(limit // 8), "x").size == (8, limit // 8)
    with pytest.raises(UserError, match=f"x has 8x9 pixels, but at most {limit} are decoded"):
        decoding.decode(image(9), "x")
