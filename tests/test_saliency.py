"""Gradient saliency: known gradients are found, and every family without attention can be asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidvla.pixels import to_uint8
from vidvla.registry import families
from vidvla.saliency import CELLS, Traced, action_saliency, place_saliency, word_saliency, word_shares
from vidvla.service import Service
from vidvla.types import Request
from vidvla.worlds.base import Frame

BLIND = [name for name, kind in families().items() if not kind.attends]


def pixels(side: int = 32) -> torch.Tensor:
    return torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_a_place_depends_on_where_its_colours_come_from() -> None:
    given = pixels()
    moved = torch.roll(given, (4, -8), dims=(2, 3))  # two cells down, four to the left
    traced = Traced(given, torch.cat([torch.zeros_like(moved), moved]), given.new_zeros(0, 4))
    seen = place_saliency(traced, 2, (0.5, 0.25))
    assert seen.shape == (CELLS, CELLS) and seen.sum() == pytest.approx(1)
    assert np.unravel_index(seen.argmax(), seen.shape) == (8 - 2, 4 + 4) and seen.max() == pytest.approx(1)
    assert place_saliency(traced, 1, (0.5, 0.25)).sum() == 0  # a frame that depends on nothing
    with pytest.raises(ValueError, match="frame from 1 to 2, got 3"):
        place_saliency(traced, 3, (0, 0))
    with pytest.raises(ValueError, match="place"):
        place_saliency(traced, 1, (0, float("nan")))


def test_a_word_changes_the_pixels_that_it_feeds() -> None:
    words = torch.ones((1, 3, 5), requires_grad=True)
    given, mask = pixels(), torch.zeros(2, 3, 32, 32)
    mask[1, :, 16:18, 30:32] = 1
    film = given + mask * words[0, 1].square().sum()
    traced = Traced(given, film, given.new_zeros(0, 4), words=words)
    seen = word_saliency(traced, 1)
    assert seen.shape == (2, CELLS, CELLS) and seen[1, 8, 15] == pytest.approx(1)
    assert word_saliency(traced, 0).sum() == 0
    with pytest.raises(ValueError, match="word from 0 to 2, got 3"):
        word_saliency(traced, 3)


def test_actions_depend_on_what_they_are_read_from() -> None:
    given, words = pixels(), torch.ones((1, 2, 5), requires_grad=True)
    reads = torch.cat([given, 2 * given])
    actions = torch.stack([reads[1, 0, 0, 0] + 3 * words[0, 1].sum(), reads[0, 1, 31, 31] + words[0, 0].sum()])[None]
    seen = action_saliency(Traced(given, given[:0], actions, reads, words))
    assert seen.shape == (2, CELLS, CELLS)
    assert (seen[1, 0, 0], seen[0, 15, 15]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert action_saliency(Traced(given, given[:0], actions, None, words)).shape == (1, CELLS, CELLS)
    assert word_shares(Traced(given, given[:0], actions, reads, words)) == pytest.approx([0.25, 0.75])
    with pytest.raises(ValueError, match="with actions"):
        action_saliency(Traced(given, given[:0], given.new_zeros(0, 4)))


@pytest.mark.parametrize("name", BLIND)
def test_what_is_traced_is_what_is_answered(name: str, frame: Frame) -> None:
    torch.manual_seed(0)
    service = Service(loaded={name: families()[name].tiny()})
    with torch.no_grad():
        for net in service.family(name).nets().values():
            for weight in net.parameters():
                if not weight.any():  # what begins at zero hides what an answer depends on
                    weight.normal_(std=0.1)
    request = Request(frame, "open the door", steps=1)
    rollout = service.predict(name, request)  # first: what is kept of it may not stand in the way
    traced = service.gradients(name, request, lambda traced: traced)
    assert len(traced.film) == len(rollout.frames)
    assert len(traced.actions) == (0 if rollout.actions is None else len(rollout.actions))
    if len(traced.film):
        side = traced.film.shape[-1]
        shown = to_uint8(traced.film[:1] if traced.pixels.min() < 0 else 2 * traced.film[:1] - 1)
        if rollout.frames.shape[1] == side:
            assert np.abs(shown.astype(int) - rollout.frames[:1].astype(int)).max() <= 1
        assert np.isfinite(place_saliency(traced, 1, (0.5, 0.5))).all()
    if len(traced.actions):
        assert action_saliency(traced).sum() == pytest.approx(1)
    if traced.words is not None:
        assert len(traced.labels) == traced.words.shape[1]
        assert word_shares(traced).sum() == pytest.approx(1)
        if len(traced.film):
            assert word_saliency(traced, 2).sum() == pytest.approx(1)
    assert all(p.grad is None for net in service.family(name).nets().values() for p in net.parameters())


def test_inverse_dynamics_is_traced_to_the_plan_that_it_reads(frame: Frame) -> None:
    member = families()["unipi"].tiny()
    request = Request(frame, "open the door", steps=1)
    traced = member.traced(request)
    actions = member(request).actions
    assert actions is not None and traced.reads is not None and len(traced.reads) == len(actions) + 1
    assert np.allclose(member.scale.to_world(traced.actions.detach().numpy()), actions, atol=1e-5)  # type: ignore[attr-defined]
    assert action_saliency(traced).shape[0] == 17


def test_families_that_cannot_be_traced_say_so(frame: Frame) -> None:
    with pytest.raises(ValueError, match="traced to what they depend on, got gr2"):
        families()["gr2"].tiny().traced(Request(frame, "open the door"))
