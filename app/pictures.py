"""Frames and drives -> bytes for a browser: pictures, heat maps, and files to keep. Knows no page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from app.show import HEAT, film_bytes
from vidvla.drive import Recording
from vidvla.worlds.base import Frame

QUALITY = 92
"""Of JPEG pictures; colours are kept at full resolution."""
CAPTION = 16
"""Height of the line of text over exported films, pixels of a frame 128 high."""


def jpeg(frame: Frame) -> bytes:
    """A frame (H, W, 3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def image(frame: Frame, alt: str) -> str:
    """A frame as an ``<img>`` that needs no file."""
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg(frame)).decode()}">'


def stills(captioned: Sequence[tuple[str, Frame]]) -> str:
    """(caption, frame) beside one another."""
    figures = (
        f'<figure>{image(frame, caption)}<figcaption title="{escape(caption)}">{escape(caption)}</figcaption></figure>'
        for caption, frame in captioned
    )
    return f'<div class="vv-stills">{"".join(figures)}</div>'


def heat(values: NDArray[np.float32], top: float) -> Frame:
    """A map (H, W) in colours, 0 darkest and ``top`` or more brightest; one scale, so that maps compare."""
    level = np.clip(values / top, 0, 1)
    anchors = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(level, anchors, HEAT[:, channel]) for channel in range(3)], axis=2)
    return np.round(colours).astype(np.uint8)


def message(header: dict[str, Any], pictures: Sequence[tuple[str, Frame]]) -> bytes:
    """One binary message: the header's length (4 bytes, big endian), the header as JSON, the pictures' bytes.

    The header gets ``pictures``: (name, length) of each, in their order.
    """
    encoded = [(name, jpeg(frame)) for name, frame in pictures]
    full = {**header, "pictures": [(name, len(data)) for name, data in encoded]}
    head = json.dumps(full, allow_nan=False).encode()
    return len(head).to_bytes(4, "big") + head + b"".join(data for _, data in encoded)


def _captioned(recording: Recording) -> list[Frame]:
    """Each dreamed frame, its truth to its right where there is one, under a line that says which is which."""
    names, shown = ["dream"], recording.dream
    if recording.truth is not None:
        names, shown = ["dream", "simulator"], np.concatenate([recording.dream, recording.truth], axis=2)
    height, width = shown.shape[1:3]
    bar = Image.new("RGB", (width, CAPTION * height // 128 // 2 * 2), (15, 23, 42))
    draw = ImageDraw.Draw(bar)
    for index, name in enumerate(names):
        draw.text((index * width // len(names) + 5, 2), name, fill=(226, 232, 240))
    return list(np.concatenate([np.broadcast_to(np.asarray(bar), (len(shown), *np.asarray(bar).shape)), shown], axis=1))


def film(recording: Recording, steps_per_second: float) -> bytes:
    """The drive as mp4, as fast as the robot moves."""
    return film_bytes(_captioned(recording), steps_per_second, hold=0, slowdown=1)


def gif(recording: Recording, steps_per_second: float) -> bytes:
    """The drive as an endless GIF, as fast as the robot moves."""
    first, *others = [Image.fromarray(frame) for frame in _captioned(recording)]
    buffer = io.BytesIO()
    first.save(
        buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / steps_per_second), loop=0,
        optimize=False,
    )  # fmt: skip
    return buffer.getvalue()


def arrays(recording: Recording, steps_per_second: float) -> bytes:
    """The drive as npz: ``dream`` and ``truth`` (N + 1, H, W, 3), ``actions`` (N, A), ``steps_per_second``."""
    buffer = io.BytesIO()
    kept: dict[str, Any] = {"dream": recording.dream, "actions": recording.actions}
    if recording.truth is not None:
        kept["truth"] = recording.truth
    np.savez_compressed(buffer, **kept, steps_per_second=steps_per_second)
    return buffer.getvalue()


EXPORTS: dict[str, tuple[str, Callable[[Recording, float], bytes]]] = {
    "mp4": ("video/mp4", film),
    "gif": ("image/gif", gif),
    "npz": ("application/octet-stream", arrays),
}
"""What a drive is exported as, by its ending: (media type, maker)."""
