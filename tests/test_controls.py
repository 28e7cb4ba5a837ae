"""Families declare controls; requests set them, within what is allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from vidvla.families.base import Clock
from vidvla.families.bc import BehaviourCloning
from vidvla.families.gr2 import READ, Gr2
from vidvla.families.susie import Susie
from vidvla.families.unipi import UniPi
from vidvla.registry import families
from vidvla.service import Service
from vidvla.types import Control, Request, Rollout
from vidvla.worlds.base import Frame


@pytest.fixture(scope="module")
def service() -> Service:
    """Three families at test size."""
    return Service(loaded={name: families()[name].tiny() for name in ("gr2", "unipi", "bc")})


@pytest.mark.parametrize("kind", families().values(), ids=list(families()))
def test_every_control_has_a_name_of_its_own_and_an_allowed_default(kind: Any) -> None:
    names = [control.name for control in kind.controls]
    assert len(set(names)) == len(names)
    request = Request(np.zeros((64, 64, 3), np.uint8), "open the door")
    for control in kind.controls:
        assert "." not in control.name and control.label
        assert kind.option(request, control.name) is not None


def test_numbers_and_choices_are_checked() -> None:
    guidance, head = Control("w", "Weight", 1.0, low=0, high=5, step=0.5), Control("h", "Head", "a", choices=("a", "b"))
    whole = Control("k", "Steps ahead", 4, low=1, high=16, step=1)
    assert guidance.check(2.5, "X") == 2.5 and head.check("b", "X") == "b" and whole.check(4.0, "X") == 4
    with pytest.raises(ValueError, match=r"Weight of X from 0 to 5; got '5\.5'"):
        guidance.check(5.5, "X")
    with pytest.raises(ValueError, match=r"from 1 to 16, a whole number; got '2\.5'"):
        whole.check(2.5, "X")
    with pytest.raises(ValueError, match="among a, b; got 'c'"):
        head.check("c", "X")
    for nonsense in (float("nan"), float("inf"), True, None, "1", [1]):
        with pytest.raises(ValueError, match="Weight of X"):
            guidance.check(nonsense, "X")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gr2.guidance": 11}, "Guidance of GR-2 style from 0 to 10; got '11'"),
        ({"gr2.read": "third step"}, "among first step, last step"),
        ({"unipi.fill": 2.5}, "from 1 to 8, a whole number"),
        ({"gr2.k": 3}, "GR-2 style has no control 'k': expected one among guidance, read, head"),
        ({"bc.guidance": 1}, "Behaviour cloning has no control 'guidance': it has none"),
        ({"gr3.guidance": 1}, "of gr2, "),
        ({"guidance": 1}, "family.control"),
    ],
)
def test_what_is_not_allowed_is_one_sentence(
    service: Service, frame: Frame, options: dict[str, float | str], said: str
) -> None:
    request = Request(frame, "open the door", options=options)
    for name in ("gr2", "unipi", "bc"):  # a question is refused as a whole, whomever it is put to
        with pytest.raises(ValueError) as caught:
            service.predict(name, request)
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("member", [Gr2.tiny(), UniPi.tiny()], ids=["gr2", "unipi"])
def test_own_guidance_stands_in_for_the_requests(member: Gr2 | UniPi, frame: Frame) -> None:
    with torch.no_grad():  # a fresh net predicts that nothing changes, whatever it is told
        member.model.net.film_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    plain = Request(frame, "open the door")
    own = member(replace(plain, options={f"{member.name}.guidance": 3.0}))
    assert (own.frames == member(replace(plain, guidance=3.0)).frames).all()
    assert (own.frames != member(plain).frames).any()
    other = member(replace(plain, options={"somebody.guidance": 3.0}))
    assert (other.frames == member(plain).frames).all()


def test_gr2_reads_actions_at_the_step_that_is_asked_for(frame: Frame) -> None:
    member = Gr2.tiny()
    asked = Request(frame, "open the door", options={"gr2.read": "last step"}, steps=3)
    last, first = member(asked), member(replace(asked, options={}))
    assert last.actions is not None and first.actions is not None
    assert (last.frames == first.frames).all() and (last.actions != first.actions).any()
    assert np.allclose(member.act(asked), last.actions, atol=1e-5)
    assert np.allclose(member.act(replace(asked, options={})), first.actions, atol=1e-5)
    assert READ.default == "first step"


def test_unipi_fills_in_with_as_many_steps_as_asked(frame: Frame) -> None:
    member = UniPi.tiny()
    with torch.no_grad():
        member.model.net.film_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    one, four = (member(Request(frame, "open", options={"unipi.fill": n})) for n in (1, 4))
    assert one.actions is not None and four.actions is not None
    assert (one.actions == member(Request(frame, "open")).actions).all() and (one.actions != four.actions).any()


def test_the_service_says_what_can_be_set(service: Service) -> None:
    offered = {info.name: [control.name for control in info.controls] for info in service.families()}
    assert offered == {"gr2": ["guidance", "read", "head"], "unipi": ["guidance", "fill"], "bc": []}


# looking at a film that takes shape


@pytest.mark.parametrize("member", [Gr2.tiny(), UniPi.tiny()], ids=["gr2", "unipi"])
def test_films_are_seen_until_the_last_step_and_looking_changes_nothing(member: Gr2 | UniPi, frame: Frame) -> None:
    seen: list[Frame] = []

    def look(share: float, what: str, glimpse: Any = None, /) -> None:
        if glimpse is not None:
            seen.append(glimpse())

    with torch.no_grad():  # a fresh net predicts that nothing changes
        member.model.net.film_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    request = Request(frame, "open the door", steps=3)
    rollout = member(request, progress=look)
    assert [film.shape for film in seen] == [(4, 128, 128, 3)] * 2  # what the last step makes is the answer
    assert (rollout.frames == member(request).frames).all()
    times = member.model.key_times()
    keys = [film for film, time in zip(rollout.frames, rollout.times, strict=True) if time in times]
    assert all((film != np.stack(keys)).any() for film in seen)


@pytest.mark.parametrize("k", ["4", "16"])
def test_sub_goals_are_seen_taking_shape_beside_those_before_them(k: str, frame: Frame) -> None:
    member = Susie.tiny()
    with torch.no_grad():  # a fresh net predicts that nothing changes
        member.model.net.film_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    seen: list[Frame] = []
    told: list[tuple[float, str]] = []

    def look(share: float, what: str, glimpse: Any = None, /) -> None:
        told.append((share, what))
        if glimpse is not None:
            seen.append(glimpse())

    request = Request(frame, "open the door", steps=2, options={"susie.k": k})
    rollout = member(request, progress=look)
    count = len(rollout.frames)
    assert count == 16 // int(k) and [len(film) for film in seen] == list(range(1, count + 1))
    assert all((film[:-1] == rollout.frames[: len(film) - 1]).all() for film in seen)
    assert any((film[-1] != rollout.frames[len(film) - 1]).any() for film in seen)
    assert [share for share, _ in told] == pytest.approx([(n + 1) / (2 * count) for n in range(2 * count)])
    assert told[-1][1] == f"sub-goal {count}/{count}, denoising 2/2"
    plain = member(request)
    assert (rollout.frames == plain.frames).all() and rollout.actions is not None
    assert (rollout.actions == plain.actions).all()


def test_looking_takes_no_time_that_is_said() -> None:
    import time

    clock = Clock()
    with clock.part("film"), clock.aside():
        time.sleep(0.05)
    said = clock.done()
    assert said["film"] < 0.04 and said["total"] < 0.04


# running out of memory


class Greedy(BehaviourCloning):
    """Asks for more memory than there is."""

    def __call__(self, request: Request, **more: Any) -> Rollout:
        torch.empty(1 << 60)
        return super().__call__(request, **more)


def test_running_out_of_memory_is_one_sentence(frame: Frame) -> None:
    tiny = BehaviourCloning.tiny()
    service = Service(loaded={"bc": Greedy(tiny.net, tiny.config, tiny.scale, tiny.device)})
    with pytest.raises(ValueError, match="memory for an answer of Behaviour cloning, but it ran out"):
        service.predict("bc", Request(frame, "open the door"))
