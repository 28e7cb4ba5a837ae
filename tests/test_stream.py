"""Work beside what shows it: who may think when, and what is said meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from app.session import Asked, Event, Failed, Forming
from app.stream import streamed
from vidvla.turns import Turns


def test_turns_are_taken_by_so_many_at_once() -> None:
    turns, entered, leave = Turns(2), threading.Semaphore(0), threading.Event()

    def hold() -> None:
        with turns, turns:  # who holds it may take it again
            entered.release()
            assert leave.wait(timeout=60)

    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(hold) for _ in range(3)]
        assert entered.acquire(timeout=60) and entered.acquire(timeout=60)
        assert not entered.acquire(timeout=0.2)  # the third waits
        leave.set()
        for one in held:
            one.result()
    with turns:  # all have left
        pass


def test_what_is_sent_arrives_while_work_goes_on() -> None:
    seen, shape = threading.Event(), Forming("gr2", ())

    def work(send: Callable[[Event], None]) -> None:
        send(shape)
        assert seen.wait(timeout=60)  # would never come if the first were held back until the end
        send(Failed("gr2", "Done."))

    bursts = streamed(work)
    (first,) = next(bursts)
    assert first is shape
    seen.set()
    assert list(bursts) == [[Failed("gr2", "Done.")]]


def test_what_happened_meanwhile_comes_at_once() -> None:
    asked, said = threading.Event(), threading.Event()

    def work(send: Callable[[Event], None]) -> None:
        send(Asked("gr2"))
        assert asked.wait(timeout=60)
        send(Asked("bc"))
        send(Failed("bc", "Done."))
        said.set()

    bursts = streamed(work)
    assert next(bursts) == [Asked("gr2")]
    asked.set()
    assert said.wait(timeout=60)
    assert list(bursts) == [[Asked("bc"), Failed("bc", "Done.")]]


def test_work_ends_where_nobody_listens_any_more() -> None:
    listening, sent = threading.Event(), []

    def work(send: Callable[[Event], None]) -> None:
        send(Asked("gr2"))
        assert listening.wait(timeout=60)
        for name in ("unipi", "bc"):
            send(Asked(name))
            sent.append(name)

    events = streamed(work)
    next(events)
    threading.Timer(0.2, listening.set).start()
    events.close()  # as Gradio does where a browser has left
    assert sent == []
