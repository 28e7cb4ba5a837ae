"""The one border between a world's action units and the unit scale that nets see."""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import ActionSpec


class ActionScale:
    """Linear map of each axis from [low, high] to [-1, 1]; lives in the checkpoint as ``low`` and ``high``."""

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        if len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"expected one low below each high, got {low} and {high}")
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)

    @classmethod
    def of(cls, spec: ActionSpec) -> ActionScale:
        """The scale of a world's axes."""
        return cls(spec.low, spec.high)

    def saved(self) -> dict[str, list[float]]:
        """The arguments that make this scale again, as plain JSON values."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    def to_unit(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., A) in world units -> [-1, 1]."""
        return (2 * (actions - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def told(self, actions: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
        """What someone asks for, (N, A) in world units, N up to ``longest`` -> [-1, 1], clipped; ValueError if not."""
        if actions.ndim != 2 or actions.shape[1] != len(self.low) or not 1 <= len(actions) <= longest:
            raise ValueError(f"expected actions (N, {len(self.low)}), N up to {longest}, got {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError("expected finite actions, got NaN or infinity")
        return self.to_unit(actions).clip(-1, 1)

    def to_world(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., A) in unit scale, clipped to [-1, 1] -> world units."""
        return ((np.clip(unit, -1, 1) + 1) / 2 * (self.high - self.low) + self.low).astype(np.float32)


HARDLY = 5.0
"""Centimetres: actions that bring the hand less far are pointed out. The largest command of one step is as long."""


def stillness(actions: NDArray[np.float32]) -> str | None:
    """A sentence where the hand goes next to nowhere in ``actions`` (N, A), cm a control step; otherwise None."""
    far = float(np.linalg.norm(actions[:, :3].sum(axis=0)))
    if far >= HARDLY:
        return None
    why = "perhaps what is asked for is not in this scene, is so already, or is not understood"
    return f"Hardly moves ({far:.1f} cm): {why}."


MAX_FILE = 1_000_000
"""Bytes of an action file, unpacked."""
MAX_STEPS = 1024
"""Control steps of an action file."""


def read_actions(data: bytes, spec: ActionSpec) -> NDArray[np.float32]:
    """Actions (N, A) in world units from a file's bytes: npz (its ``actions``), npy, JSON rows, or CSV.

    A JSON object is read by its ``actions``; a CSV file may begin with a line of names.

    Raises:
        ValueError: where it is none of these, too large, has no rows, more than 1024, or rows that are no actions.
    """
    if len(data) > MAX_FILE:
        raise ValueError(f"expected an action file of at most {MAX_FILE // 1_000_000} MB, got {len(data) / 1e6:.1f} MB")
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("actions.npy") as member:
                rows = _read_npy(member, len(spec))
        elif data[:6] == b"\x93NUMPY":
            rows = _read_npy(io.BytesIO(data), len(spec))
        else:
            rows = np.asarray(_read_text(data.decode("utf-8")), np.float64)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, SyntaxError, tokenize.TokenError,
            EOFError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise ValueError(
            f"expected a file of actions (N, {len(spec)}) as npz, npy, json or csv, got one that does not read so"
        ) from error
    if rows.ndim != 2 or rows.shape[1] != len(spec) or not 1 <= len(rows) <= MAX_STEPS:
        raise ValueError(f"expected actions (N, {len(spec)}), N from 1 to {MAX_STEPS}, got {rows.shape}")
    return np.stack([spec.check(row) for row in rows])


def _read_npy(file: IO[bytes], axes: int) -> NDArray[Any]:
    """An array of numbers, its shape looked at before its memory is taken."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if len(shape) != 2 or shape[1] != axes or shape[0] > MAX_STEPS or dtype.kind not in "fiu":
        raise ValueError(f"expected numbers (N, {axes}) with N up to {MAX_STEPS}, got {shape} of {dtype}")
    size = shape[0] * shape[1] * dtype.itemsize
    flat = np.frombuffer(file.read(size), dtype)
    return flat.reshape(shape, order="F" if fortran else "C").astype(np.float64)


def _read_text(text: str) -> Any:
    """Rows of numbers from JSON or CSV."""
    if text.lstrip()[:1] in ("[", "{"):
        found = json.loads(text)
        return found["actions"] if isinstance(found, dict) else found
    lines = [line.replace(";", ",").split(",") for line in text.splitlines() if line.strip()]
    named = bool(lines) and any(cell.strip()[:1].isalpha() and cell.strip() != "nan" for cell in lines[0])
    return [[float(cell) for cell in line] for line in lines[named:]]
