"""What happens in a thread beside, as it happens."""

from __future__ import annotations

import contextvars
import threading
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
