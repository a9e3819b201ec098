"""Decoding of image files of bounded size."""

import io
import warnings

from PIL import Image

from snn_rl.utils.errors import UserError

MAX_FILE = 2**26  # bytes of an image file
_MAX_PIXELS = 2**26  # about ten times the median image of ImageNet in both directions
_FORMATS = ("JPEG", "PNG", "WEBP")

# `decode` has its own limit
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(data: bytes, name: str) -> Image.Image:
    """Decodes an image file as RGB; `name` stands for the file in error messages."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            copies = 1 if image.mode in ("RGB", "L") else 2  # other modes take a copy as large
            limit = _MAX_PIXELS // copies
            if image.width * image.height <= limit:
                image.load()
                return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # decoders raise many types on damaged bytes
        reason = str(error) if str(error) and "BytesIO" not in str(error) else "not an image"
        raise UserError(f"{name} is damaged: {reason}") from None
    raise UserError(
        f"{name} has {image.width}x{image.height} pixels, but at most {limit:,} are decoded"
    )
