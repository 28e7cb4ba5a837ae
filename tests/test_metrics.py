"""Metrics and intervals against values known in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from vidvla.eval.benchmark import check_seeds, read_benchmark, write_benchmark
from vidvla.eval.metrics import Estimate, Row, mean, proportion, psnr, ssim


def test_psnr_of_a_constant_error() -> None:
    black, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 51, np.uint8)
    assert psnr(grey, black) == pytest.approx(20 * math.log10(5))
    assert psnr(black, black) == math.inf
    with pytest.raises(ValueError, match="one shape"):
        psnr(black, black[:4])


def test_ssim_is_one_for_equal_frames_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert ssim(frame, frame) == pytest.approx(1)
    assert ssim(frame, rng.permuted(frame, axis=0)) < 0.5


def test_wilson_interval() -> None:
    found = proportion(8, 10)  # textbook: 0.490 to 0.943
    assert (found.value, found.low, found.high) == (0.8, pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert proportion(0, 10).low == 0 and proportion(10, 10).high == 1


def test_mean_interval() -> None:
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - found.value == pytest.approx(1.96 / math.sqrt(3), abs=1e-3)


def test_training_seeds_are_never_measured_on() -> None:
    with pytest.raises(ValueError, match="held-out"):
        check_seeds(range(10, 20))
    assert check_seeds(range(500_000, 500_010)).start == 500_000


def test_a_benchmark_file_keeps_rows_of_other_families(tmp_path: Path) -> None:
    path, estimate = tmp_path / "film.json", Estimate(1.0, 5, 0.5, 1.5)
    for family, command in (("a", "one"), ("b", "two"), ("a", "three")):
        write_benchmark(path, [Row.of(family, "all", "psnr_t1", "dB", estimate)], command, range(500_000, 500_005), "w")
    data = read_benchmark(path)
    assert sorted(row["family"] for row in data["rows"]) == ["a", "b"]
    assert set(data["rows"][0]) == {"family", "task", "metric", "value", "unit", "n", "low", "high"}
    assert set(data["meta"]) == {"command", "date", "versions", "machine", "world", "seeds"}
