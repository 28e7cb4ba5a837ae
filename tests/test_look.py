"""Heat maps from attention: the right rows and columns, averaged as promised, and clear errors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vidvla.look import (
    LayerMass,
    action_gaze,
    action_layers,
    action_mass_by_layer,
    finest_layers,
    future_frames,
    look_from,
    mass_by_layer,
    place_gaze,
    word_map,
)
from vidvla.types import Attention, TokenLayout

FRAMES, HEADS = 3, 2


def layout(side: int, actions: int = 0) -> TokenLayout:
    """Two words, one given and two future frames, perhaps action tokens."""
    starts = [2 + side * side * t for t in range(FRAMES + 1)]
    frames = tuple(range(a, b) for a, b in pairwise(starts))
    return TokenLayout(range(2), frames, range(starts[-1], starts[-1] + actions), side)


def even(of: TokenLayout) -> np.ndarray:
    """(heads, queries, keys): every token looks at every token equally."""
    return np.full((HEADS, len(of), len(of)), 1 / len(of), np.float32)


def attention(*layouts: TokenLayout) -> Attention:
    """Even attention in layers of these layouts."""
    names = tuple(f"layer {i}" for i in range(len(layouts)))
    return Attention(tuple(even(one) for one in layouts), layouts, names, ("open", "door"))


def point(maps: np.ndarray, head: int, query: int, key: int) -> None:
    """Let one head's query look at one key only."""
    maps[head, query] = 0
    maps[head, query, key] = 1


def test_a_place_finds_what_its_token_looks_at() -> None:
    fine = layout(4)
    looked = attention(fine)
    query, key = fine.frames[2][1 * 4 + 3], fine.frames[0][2 * 4 + 0]
    for head in range(HEADS):
        point(looked.maps[0], head, query, key)
    seen = look_from(looked, 2, (0.3, 0.9))  # row 1, column 3 of 4
    expected = np.zeros((4, 4))
    expected[2, 0] = 1
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_allclose(look_from(looked, 1, (0.3, 0.9)), np.full((4, 4), 1 / 50))


def test_corners_of_a_frame_are_places() -> None:
    fine = layout(4)
    looked = attention(fine)
    point(looked.maps[0], 0, fine.frames[1][15], fine.frames[0][0])
    assert look_from(looked, 1, (1.0, 1.0), head=0)[0, 0] == 1
    assert look_from(looked, 1, (0.0, 0.0), head=0)[0, 0] == pytest.approx(1 / 50)


def test_the_finest_layers_are_averaged_and_one_can_be_picked() -> None:
    coarse, fine = layout(2, actions=2), layout(4)
    looked = attention(fine, coarse, fine)
    assert finest_layers(looked) == (0, 2)
    point(looked.maps[2], 0, fine.frames[1][0], fine.frames[0][5])
    both = look_from(looked, 1, (0, 0))
    assert both.shape == (4, 4)
    assert both[1, 1] == pytest.approx((2 / 50 + 1 + 1 / 50) / 4)  # two layers of two heads
    assert look_from(looked, 1, (0, 0), layer=2, head=0)[1, 1] == 1
    assert look_from(looked, 1, (0, 0), layer=1).shape == (2, 2)


def test_a_word_is_looked_at_from_places() -> None:
    fine = layout(4)
    looked = attention(fine)
    np.testing.assert_allclose(word_map(looked, 1), np.full((4, 4), 1 / 16), rtol=1e-5)
    for head in range(HEADS):
        looked.maps[0][head, list(fine.frames[0]), 1] = 0
        looked.maps[0][head, fine.frames[0][6], 1] = 0.5
    assert word_map(looked, 1)[1, 2] == 1
    assert word_map(looked, 1).sum() == pytest.approx(1)
    np.testing.assert_allclose(word_map(looked, 0), np.full((4, 4), 1 / 16), rtol=1e-5)
    np.testing.assert_allclose(word_map(looked, 1, frame=1), np.full((4, 4), 1 / 16), rtol=1e-5)


def test_a_word_that_nothing_looks_at_gives_zeros() -> None:
    looked = attention(layout(2))
    looked.maps[0][:, :, 0] = 0
    np.testing.assert_array_equal(word_map(looked, 0), np.zeros((2, 2)))


def test_shares_of_even_attention_are_shares_of_tokens() -> None:
    of = layout(2, actions=4)  # 2 words, 3 frames of 4 tokens, 4 action tokens: 18
    (mass,) = mass_by_layer(attention(of))
    assert mass == LayerMass(
        "layer 0", pytest.approx(4 / 18), pytest.approx(8 / 18), pytest.approx(2 / 18), pytest.approx(4 / 18)
    )


def test_shares_sum_to_one_and_follow_the_looks() -> None:
    of = layout(2)
    looked = attention(of)
    maps = np.random.default_rng(0).random((HEADS, len(of), len(of))).astype(np.float32)
    looked.maps[0][:] = maps / maps.sum(axis=2, keepdims=True)
    (mass,) = mass_by_layer(looked)
    assert mass.within + mass.across + mass.text + mass.actions == pytest.approx(1)
    for t in (1, 2):
        for query in of.frames[t]:
            for head in range(HEADS):
                point(looked.maps[0], head, query, of.frames[0][0])
    assert mass_by_layer(looked)[0] == LayerMass("layer 0", 0, pytest.approx(1), 0, 0)


def test_only_the_given_frame_has_no_future() -> None:
    one = TokenLayout(range(2), (range(2, 6),), range(6, 6), 2)
    looked = attention(one)
    assert future_frames(looked) == 0
    assert word_map(looked, 0).shape == (2, 2)
    with pytest.raises(ValueError, match="future frames"):
        mass_by_layer(looked)
    with pytest.raises(ValueError, match="predicted frame"):
        look_from(looked, 1, (0, 0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frame": 0}, "predicted frame from 1 to 2, got 0"),
        ({"frame": 3}, "predicted frame"),
        ({"place": (-0.1, 0.5)}, "place"),
        ({"place": (0.5, 1.1)}, "place"),
        ({"place": (float("nan"), 0.5)}, "place"),
        ({"layer": 1}, "layer from 0 to 0, got 1"),
        ({"layer": -1}, "layer"),
        ({"head": 2}, "head from 0 to 1, got 2"),
    ],
)
def test_what_is_out_of_range_says_so(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        look_from(**{"attention": attention(layout(2)), "frame": 1, "place": (0.5, 0.5), **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(("word", "frame"), [(-1, 0), (2, 0), (0, -1), (0, 3)])
def test_words_and_frames_out_of_range(word: int, frame: int) -> None:
    with pytest.raises(ValueError, match="expected a"):
        word_map(attention(layout(2)), word, frame)


def test_a_gaze_says_where_and_in_which_frame() -> None:
    of = layout(4, actions=2)
    looked = attention(of)
    gaze = place_gaze(looked, 0, (0, 0))
    assert sum(float(seen.sum()) for seen in gaze.frames) + gaze.words.sum() + gaze.actions == pytest.approx(1)
    for head in range(HEADS):
        point(looked.maps[0], head, of.frames[2][15], of.frames[1][6])
    gaze = place_gaze(looked, 2, (1.0, 1.0))
    assert gaze.frames[1][1, 2] == 1 and gaze.frames[0].sum() == 0 and gaze.actions == 0
    with pytest.raises(ValueError, match="frame from 0 to 2, got 3"):
        place_gaze(looked, 3, (0, 0))


def test_action_tokens_have_a_gaze_where_there_are_any() -> None:
    fine, wide = layout(4), layout(2, actions=2)
    looked = attention(fine, wide)
    assert action_layers(looked) == (1,)
    for head in range(HEADS):
        point(looked.maps[1], head, wide.actions[0], wide.frames[1][3])
        point(looked.maps[1], head, wide.actions[1], 1)
    gaze = action_gaze(looked)
    assert gaze.frames[1][1, 1] == 0.5 and gaze.words.tolist() == [0, 0.5]
    assert action_mass_by_layer(looked) == (LayerMass("layer 1", 0.5, 0, 0.5, 0),)
    with pytest.raises(ValueError, match="layer with action tokens, 1; got 0"):
        action_gaze(looked, 0)
    with pytest.raises(ValueError, match="none here"):
        action_gaze(attention(fine))
