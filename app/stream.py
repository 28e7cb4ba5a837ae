"""What happens in a thread beside, as it happens."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Send = Callable[[T], None]


class _Left(BaseException):
    """Nobody listens any more. No error that families catch."""


def _waiting(events: SimpleQueue[T | None]) -> list[T]:
    """All that is there, and at least one event; none once the end, a None, is next."""
    burst: list[T] = []
    while not (burst and events.empty()):
        event = events.get()
        if event is None:
            if burst:
                events.put(None)  # the last one: still to be found
            break
        burst.append(event)
    return burst


def streamed(work: Callable[[Send[T]], None]) -> Iterator[list[T]]:
    """What ``work`` sends while it runs in a thread beside, all that waits at once, none of it None.

    It ends at its next event where nobody listens any more.
    """
    events: SimpleQueue[T | None] = SimpleQueue()
    left = threading.Event()

    def send(event: T) -> None:
        if left.is_set():
            raise _Left
        events.put(event)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vidvla-answer") as beside:
        done = beside.submit(contextvars.copy_context().run, work, send)
        done.add_done_callback(lambda _: events.put(None))
        try:
            while burst := _waiting(events):
                yield burst
        finally:
            left.set()
        done.result()


PACE = 0.25
"""Seconds between two reports of progress: the browser marks every part of the page as waiting at each of them."""


def paced(tell: Callable[[float, str], None], seconds: float = PACE) -> Callable[[float, str], None]:
    """``tell`` of a share in [0, 1] and what is being done, but once in so many ``seconds``; the end is always told."""
    due = 0.0

    def told(share: float, what: str) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due or share >= 1:
            due = now + seconds
            tell(share, what)

    return told
