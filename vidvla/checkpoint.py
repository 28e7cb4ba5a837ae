"""Checkpoints: a folder with ``config.json`` and ``model.safetensors``, read strictly, never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ASSETS = Path(__file__).resolve().parent.parent / "assets"
"""Shipped weights, figures and samples of a source checkout."""
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
LARGE = 4096
"""Numbers in a matrix from which on it is worth a scale for each of its rows."""
SCALE = ":scale"
"""Ends the names of these scales in a file; no weight's name has a colon."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, cut short, or of another shape than its config says."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        config: the model's sizes, its world and its training, as plain JSON values.
        tensors: all weights, float32.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The weights whose names start with ``prefix.``, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}

    def fill(self, net: nn.Module, prefix: str) -> None:
        """Load the part ``prefix`` into ``net``; every name and shape must match."""
        try:
            net.load_state_dict(self.part(prefix), strict=True)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[1:2] or [str(error)]
            said = first[0].strip()  # of many names the first is enough
            said = said if len(said) <= 120 else f"{said[:120].rsplit(', ', 1)[0]} and more"
            raise CheckpointError(
                f"expected weights of {prefix!r} that fit {self.folder.name}/{CONFIG}, got: {said}"
            ) from error


def save(folder: Path, nets: dict[str, nn.Module], config: dict[str, Any], bits: int = 16) -> None:
    """Write ``nets`` by name and ``config`` into ``folder``, whole or not at all.

    Args:
        bits: of a weight: 32, 16 (fp16), or 8 (whole numbers in the large matrices, with a scale for each of their
            rows, and fp16 elsewhere).
    """
    tensors = {}
    for prefix, net in nets.items():
        for name, value in net.state_dict().items():
            kept, full = value.detach().cpu().contiguous(), f"{prefix}.{name}"
            if bits == 32 or not kept.is_floating_point():
                tensors[full] = kept
            elif bits == 8 and kept.dim() > 1 and kept.numel() >= LARGE:
                tensors[full], tensors[f"{full}{SCALE}"] = _to_rows(kept)
            else:
                tensors[full] = kept.half()
    write(folder, tensors, config)


def precision(folder: Path) -> str:
    """In what numbers a checkpoint's weights are written: fp16, int8 and fp16."""
    names = {"I8": "int8", "F16": "fp16", "F32": "fp32"}
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        found = {file.get_slice(key).get_dtype() for key in file.keys() if not key.endswith(SCALE)}  # noqa: SIM118
    return " and ".join(names[kind] for kind in names if kind in found)


def _to_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    """Any (R, ...) -> int8 of the same shape, and the scale (R,) of its rows."""
    rows = value.float().flatten(1)
    scale = (rows.abs().amax(dim=1) / 127).clamp(min=1e-12)
    return (rows / scale[:, None]).round().to(torch.int8).view_as(value), scale


def _from_rows(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are in a file -> in float32, rows with their scales put together."""
    found = {}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(f"{name}{SCALE}")
        if scale is not None:
            value = (value.flatten(1).float() * scale[:, None]).view(value.shape)
        found[name] = value.float() if value.is_floating_point() else value
    return found


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write ``tensors`` (where there are any) and ``config`` into ``folder``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    if tensors:
        partial = folder / f"{WEIGHTS}.partial"
        save_file(tensors, partial)
        partial.replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load(folder: Path) -> Checkpoint:
    """Read a folder written by :func:`save`; raises :class:`CheckpointError` with one clear sentence."""
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    for path in (config_path, weights_path):
        if not path.is_file():
            raise CheckpointError(f"expected a trained checkpoint with {path.name} in {folder}, got none")
    try:
        config = json.loads(config_path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"expected JSON in {config_path}, got: {error}") from error
    try:
        tensors = load_file(weights_path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"expected whole weights in {weights_path}, got a damaged file: {error}") from error
    return Checkpoint(folder, config, _from_rows(tensors))


def flat_records(trained: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The training records of a checkpoint, those that a later one went on from before it."""
    flat = []
    for record in trained:
        flat += [*flat_records(record.get("earlier", [])), record]
    return flat


def fingerprint(folder: Path) -> str:
    """Short hash of a checkpoint's weights, to name what was derived from them."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` -> the device; ValueError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA GPU for device 'cuda', got none (use 'auto' or 'cpu')")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"expected a device among auto, cpu, cuda; got {name!r}")
    return torch.device(name)
