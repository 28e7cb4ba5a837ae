"""How many models may think at once."""

from __future__ import annotations

import os
import threading
from types import TracebackType

import torch

SEATS = 2
"""Answers at once: nets of this size gain little from many cores, two of them beside each other use twice as many."""


def share_cores() -> None:
    """Give each answer that may be thought of its share of the cores."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // SEATS)))


class Turns:
    """A lock that ``seats`` threads may hold at once; who holds it may take it again."""

    def __init__(self, seats: int = SEATS) -> None:
        self._free, self._mine = threading.BoundedSemaphore(seats), threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        if not depth:
            self._free.acquire()
        self._mine.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mine.depth -= 1
        if not self._mine.depth:
            self._free.release()
