"""What a family looks at, as rows of heat maps over frames: pure functions over the service, without a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from app import show
from app.session import Form, find_start, read_request
from vidvla.look import (
    Gaze,
    HeatMap,
    action_gaze,
    action_layers,
    future_frames,
    holds_both,
    place_gaze,
    word_map,
)
from vidvla.saliency import Traced, action_saliency, place_saliency, word_saliency, word_shares
from vidvla.service import Service
from vidvla.types import Attention, Request, Rollout
from vidvla.views import FamilyInfo
from vidvla.worlds.base import Frame

SHOWN = 4
"""Predicted frames that are shown at most; of more, as many spread evenly."""
Place = tuple[float, float]
Question = Callable[[Traced], NDArray[np.float32]]


@dataclass(frozen=True)
class Inspection:
    """One family's answer, to look into.

    Attributes:
        request: what was asked, to ask for gradients of the same answer.
        attention: its maps, or None: gradients then stand in.
        numbers: which of the frames are shown, 0 for the given one, in the attention's own numbers (or the film's).
        times: control steps of the shown frames.
        pictures: the shown frames.
        labels: the instruction's tokens as text; none where the family is not told any.
    """

    family: FamilyInfo
    request: Request
    attention: Attention | None
    numbers: tuple[int, ...]
    times: tuple[int, ...]
    pictures: tuple[Frame, ...]
    labels: tuple[str, ...]

    @property
    def clickable(self) -> bool:
        """Whether anything is known of single places."""
        return self.attention is not None or len(self.pictures) > 1

    @property
    def first_place(self) -> tuple[int, Place]:
        """Where to look first: the shown frame and the place in it where most has changed."""
        last = len(self.pictures) - 1
        if not last:
            return 0, (0.5, 0.5)
        return last, show.most_changed(self.pictures[0], self.pictures[last])


@dataclass(frozen=True)
class Row:
    """Heat maps over the shown frames.

    Attributes:
        maps: one a shown frame, on one scale; None where nothing is known of a frame.
        shares: of the attention that goes to each of them, in [0, 1]; empty where that says nothing.
        said: what else is to be known, in a few words.
    """

    maps: tuple[HeatMap | None, ...]
    shares: tuple[float, ...]
    said: str = ""


def inspect(service: Service, family: str, form: Form) -> Inspection:
    """Ask a family and keep what can be looked into.

    Raises:
        ValueError: one sentence, where the family or the question is not usable.
    """
    infos = {info.name: info for info in service.families()}
    if family not in infos:
        raise ValueError(f"expected a family among {', '.join(infos)}; got {str(family)[:40]!r}")
    start = find_start(service, form)
    request = read_request(service, start.frame, form.instruction, form.noise_seed, form.steps, form.guidance)
    rollout = own_film(service.predict(family, request, attention=True))
    attention = rollout.attention
    if attention is not None:
        count, labels = future_frames(attention), attention.words
    else:
        count = len(rollout.frames)
        labels = service.gradients(family, request, lambda traced: traced.labels)
    shown = _spread(count) if len(rollout.frames) else ()
    indices = [_film_index(rollout, number, count) for number in shown]
    return Inspection(
        infos[family], request, attention, (0, *shown), (0, *(rollout.times[i] for i in indices)),
        (start.frame, *(rollout.frames[i] for i in indices)), labels,
    )  # fmt: skip


def own_film(rollout: Rollout) -> Rollout:
    """``rollout`` with the target image in place of its film where attention is of that image alone, or of one that
    another family dreamed, or of none."""
    films = bool(len(rollout.frames)) and not rollout.dreamed_by
    alone = rollout.attention is not None and future_frames(rollout.attention) == 1
    if rollout.target is None or rollout.target_time is None or (films and not alone):
        return rollout
    return replace(rollout, frames=rollout.target[None], times=(rollout.target_time,), dreamed_by="")


def _spread(count: int) -> tuple[int, ...]:
    """At most :data:`SHOWN` numbers from 1 to ``count``, the last one among them."""
    picked = min(count, SHOWN)
    return tuple(round((index + 1) * count / picked) for index in range(picked))


def _film_index(rollout: Rollout, number: int, count: int) -> int:
    """The film's frame that number ``number`` of ``count`` stands for: a family may fill in frames between them."""
    return show.shown_at(rollout.times, round(rollout.times[-1] * number / count))


def words_of(labels: Sequence[str]) -> list[tuple[str, int]]:
    """(text, index) of the instruction's own tokens; markers such as [CLS] are left out."""
    chips = [(word.removeprefix("##"), i) for i, word in enumerate(labels) if not re.fullmatch(r"[\[(<].*[\])>]", word)]
    return chips or [(word, i) for i, word in enumerate(labels)]


# the rows


def from_place(
    service: Service, seen: Inspection, column: int, place: Place, layer: int | None, head: int | None
) -> Row:
    """What a place of a shown frame looks at in every frame, or depends on in the given one."""
    if seen.attention is not None:
        gaze = place_gaze(seen.attention, seen.numbers[column], place, layer, head)
        return _of_gaze(seen, gaze)
    if column == 0:
        return _unknown(seen, "Gradients run from what is predicted: click a later frame." if len(seen.pictures) > 1
                        else "It predicts no film: see what its actions depend on.")  # fmt: skip
    number = seen.numbers[column]
    found = _gradients(service, seen, lambda traced: place_saliency(traced, number, place))
    return Row((found, *[None] * (len(seen.pictures) - 1)), ())


def from_word(service: Service, seen: Inspection, word: int, layer: int | None, head: int | None) -> Row:
    """The places that look at a word, or that change with it, in every shown frame."""
    if seen.attention is not None:
        maps = tuple(word_map(seen.attention, word, number, layer, head) for number in seen.numbers)
        if not any(heat.any() for heat in maps):
            return _unknown(seen, "This layer looks at no words: choose one that is named after them.")
        return Row(maps, (), "each frame on its own scale")
    if not seen.labels:
        return _unknown(seen, "It is not told any words.")
    if len(seen.pictures) == 1:
        shares = _gradients(service, seen, word_shares)
        return _unknown(seen, f"It predicts no film; its actions depend on “{seen.labels[word]}” "
                              f"by {percent(shares[word])} of what they depend on words.")  # fmt: skip
    found = _gradients(service, seen, lambda traced: word_saliency(traced, word))
    maps = tuple(found[number - 1] for number in seen.numbers[1:])
    return Row((None, *maps), ())


def from_actions(service: Service, seen: Inspection, layer: int | None, head: int | None) -> Row:
    """What the action head reads: what its tokens look at, or what its actions depend on."""
    if not seen.family.acts:
        return _unknown(seen, "It predicts no actions: it is told them.")
    if reads_tokens(seen):
        assert seen.attention is not None
        if layer in action_layers(seen.attention):
            return _of_gaze(seen, action_gaze(seen.attention, layer, head))
        row = _of_gaze(seen, action_gaze(seen.attention))
        return row if layer is None and head is None else replace(row, said=f"{row.said}; mean of their own layers")
    found = _gradients(service, seen, action_saliency)
    groups = _groups(len(found), len(seen.pictures))
    maps = tuple(found[list(group)].sum(axis=0) for group in groups)
    shares = tuple(float(heat.sum()) for heat in maps)
    blank: list[HeatMap | None] = [None] * (len(seen.pictures) - len(maps))
    return Row((*maps, *blank), shares if len(shares) > 1 else ())


def reads_tokens(seen: Inspection) -> bool:
    """Whether the actions are read from tokens that attention knows of."""
    return seen.attention is not None and bool(action_layers(seen.attention))


def _groups(count: int, shown: int) -> list[range]:
    """The given frame alone, and ``count`` - 1 following ones in as many groups as following frames are shown."""
    if count == 1 or shown == 1:
        return [range(count)]
    ends = [1 + (count - 1) * index // (shown - 1) for index in range(shown)]
    return [range(1), *(range(a, b) for a, b in pairwise(ends))]


def _of_gaze(seen: Inspection, gaze: Gaze) -> Row:
    maps = tuple(gaze.frames[number] for number in seen.numbers)
    rest = [f"{percent(float(gaze.words.sum()))} on words"]
    if known := words_of(seen.labels):
        word, index = max(known, key=lambda chip: gaze.words[chip[1]])
        rest[0] += f" (“{word}” {percent(gaze.words[index])})"
    if seen.attention is not None and holds_both(seen.attention):
        rest.append("the same patches hold both frames")
    if gaze.actions:
        rest.append(f"{percent(gaze.actions)} on action tokens")
    return Row(maps, tuple(float(heat.sum()) for heat in maps), ", ".join(rest))


def _unknown(seen: Inspection, said: str) -> Row:
    return Row((None,) * len(seen.pictures), (), said)


def _gradients(service: Service, seen: Inspection, ask: Question) -> NDArray[np.float32]:
    return service.gradients(seen.family.name, seen.request, ask)


def percent(share: float) -> str:
    """A share in [0, 1]: 31 %, 0.4 %."""
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"


# as pictures

COLUMNS = SHOWN + 1
"""Frames that a row has room for."""
SIDE, GAP = 208, 6
"""Of one frame of a row, and between two, pixels."""


def marked(seen: Inspection, column: int, place: Place) -> Frame:
    """The shown frames side by side, a ring around the place where anything is known of it."""
    frames = [show.enlarge(picture, SIDE) for picture in seen.pictures]
    if seen.clickable:
        frames[column] = show.mark(seen.pictures[column], place)
    return _strip(frames)


def heated(seen: Inspection, row: Row) -> Frame:
    """The shown frames side by side under a row's maps; grey where nothing is known."""
    known = [heat for heat in row.maps if heat is not None]
    joint = bool(row.shares)
    top = max((float(heat.max()) for heat in known), default=0.0) if joint else None
    frames = []
    for picture, heat in zip(seen.pictures, row.maps, strict=True):
        if heat is None:
            grey = show.enlarge(picture, SIDE).mean(axis=2, keepdims=True).round().astype(np.uint8)
            frames.append(np.repeat(grey, 3, axis=2))
        else:
            frames.append(show.overlay(picture, heat, top))
    return _strip(frames)


def _strip(frames: list[Frame]) -> Frame:
    """Frames side by side, always as wide as :data:`COLUMNS` of them."""
    strip = show.strip([frames], SIDE, GAP)
    missing = (COLUMNS - len(frames)) * (SIDE + GAP)
    return np.pad(strip, ((0, 0), (0, missing), (0, 0)))


def pointed(x: float, y: float, columns: int) -> tuple[int, Place]:
    """The shown frame and the place in it at a pixel of :func:`marked`; a gap belongs to the frame on its left."""
    column = min(max(int(x // (SIDE + GAP)), 0), columns - 1)
    across = (x - column * (SIDE + GAP)) / SIDE
    return column, (min(max(y / SIDE, 0.0), 1.0), min(max(across, 0.0), 1.0))
