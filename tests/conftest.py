"""What tests share: one thread, tiny families, a tiny recorded folder."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from vidvla.data.record import How, record
from vidvla.worlds.base import Frame

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def physics_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of physics clips, recorded for real."""
    folder = tmp_path_factory.mktemp("data") / "physics"
    record(folder, "physics", ["bounce", "fall"], range(3))
    return folder


@pytest.fixture(scope="session")
def robot_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task's episodes of every kind, recorded in the simulator."""
    from vidvla.worlds.metaworld import simulator_problem

    if simulator_problem() is not None:
        pytest.skip(str(simulator_problem()))
    folder = tmp_path_factory.mktemp("data") / "metaworld"
    for kind in ("expert", "recover", "play"):
        record(folder, "metaworld", ["handle-press"], range(2), How(kind))
    return folder


@pytest.fixture
def frame() -> Frame:
    """A random picture, (128, 128, 3)."""
    return np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
