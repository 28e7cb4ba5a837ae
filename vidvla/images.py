"""Uploads: anybody's file -> a square frame, or one clear sentence."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vidvla.worlds.base import Frame

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
MIN_SIDE = 16
KEPT_SIDE = 512
"""Uploads are kept at most this large; the models see less."""


def read_upload(path: Path) -> Frame:
    """The picture in ``path``, upright and cropped to its middle square, (S, S, 3) uint8 with S <= 512.

    Raises:
        ValueError: where the file is no picture, damaged, too large, or smaller than 16 pixels a side.
    """
    _check_size(path.stat().st_size)
    return read_picture(path.read_bytes())


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"expected a picture of at most {MAX_BYTES // 1_000_000} MB, got {size / 1e6:.0f} MB")


def read_picture(data: bytes) -> Frame:
    """The picture in a file's bytes, as :func:`read_upload`."""
    _check_size(len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ValueError(f"expected at most {MAX_PIXELS // 1_000_000} megapixels, got {width}x{height}")
                if min(width, height) < MIN_SIDE:
                    raise ValueError(f"expected a picture of at least {MIN_SIDE} pixels a side, got {width}x{height}")
                upright = ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"expected at most {MAX_PIXELS // 1_000_000} megapixels, got more") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("expected a picture (PNG, JPEG, WebP ...), got a file that does not open as one") from error
    return square(np.asarray(upright))


def square(frame: Frame) -> Frame:
    """The middle square of a picture, at most 512 pixels a side."""
    side = min(frame.shape[:2])
    image = ImageOps.fit(Image.fromarray(frame), (min(side, KEPT_SIDE),) * 2, Image.Resampling.LANCZOS)
    return np.array(image)
