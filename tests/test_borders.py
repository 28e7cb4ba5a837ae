"""Pixels, actions, text and uploads: the places where the outside becomes tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidvla.actions import HARDLY, ActionScale, stillness
from vidvla.images import read_upload
from vidvla.pixels import to_float, to_uint8
from vidvla.text import check_instruction, phrase_book, text_encoder
from vidvla.worlds.base import ActionSpec


def test_every_pixel_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert (to_uint8(to_float(levels)) == levels).all()


def test_pixels_are_in_unit_range_and_channels_first() -> None:
    value = to_float(np.full((2, 4, 6, 3), 255, np.uint8))
    assert value.shape == (2, 3, 4, 6)
    assert value.max() == 1 and to_float(np.zeros((4, 6, 3), np.uint8)).min() == -1


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)])
def test_wrong_pixels_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        to_float(wrong)


def test_actions_round_trip_and_clip() -> None:
    scale = ActionScale((-5, -5, -5, -1), (5, 5, 5, 1))
    actions = np.random.default_rng(0).uniform(-1, 1, (7, 4)).astype(np.float32) * scale.high
    assert np.allclose(scale.to_world(scale.to_unit(actions)), actions, atol=1e-5)
    assert np.allclose(scale.to_world(np.full(4, 3, np.float32)), scale.high)
    assert ActionScale(**scale.saved()).high.tolist() == scale.high.tolist()


def test_only_actions_that_go_next_to_nowhere_are_said_to() -> None:
    there_and_back = np.tile(np.float32([[2, 0, 0, 1], [-2, 0, 0, 1]]), (8, 1))
    assert "0.0 cm" in (stillness(there_and_back) or "")
    assert stillness(np.float32([[HARDLY + 0.1, 0, 0, -1]])) is None


SPEC = ActionSpec(("x", "y"), ("cm", "cm"), (-1.0, -1.0), (1.0, 1.0))


@pytest.mark.parametrize("wrong", [[0.0], [0.0, np.nan], [0.0, 1.5], [[0.0, 0.0]]])
def test_wrong_actions_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SPEC.check(np.asarray(wrong))


@pytest.mark.parametrize("wrong", ["", "   ", "open " * 1000, "открой дверь", "打开门", "12345"])
def test_unusable_instructions_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected an instruction"):
        check_instruction(wrong)


def test_instructions_are_tidied() -> None:
    assert check_instruction("  open \n the   door ") == "open the door"


def test_phrase_book_holds_out_phrasings_of_every_task() -> None:
    book = phrase_book()
    assert len(book) == 50
    seen: set[str] = set()
    for phrases in book.values():
        assert len(phrases.train) >= 12 and len(phrases.test) == 3
        for phrase in (*phrases.train, *phrases.test):
            assert check_instruction(phrase) == phrase
            assert phrase.lower() not in seen
            seen.add(phrase.lower())


def test_text_tokens_do_not_depend_on_their_neighbours() -> None:
    encoder = text_encoder()
    alone = encoder(["open the door"])
    padded = encoder(["open the door", "put the blue cube onto the wooden shelf please"])
    length = alone.tokens.shape[1]
    assert torch.equal(alone.tokens[0], padded.tokens[0, :length])
    assert padded.mask.sum(dim=1).tolist() == [length, padded.tokens.shape[1]]
    assert len(encoder.words("open the door")) == length


def test_opposites_differ_as_tokens() -> None:
    tokens = text_encoder()(["open the door", "close the door"]).tokens
    assert (tokens[0, 1] - tokens[1, 1]).norm() > 1  # the verbs


def _save(path: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, (10, 200, 30)).save(path)
    return path


def test_upload_is_cropped_to_a_square(tmp_path: Path) -> None:
    frame = read_upload(_save(tmp_path / "wide.png", (640, 300)))
    assert frame.shape == (300, 300, 3) and frame.dtype == np.uint8
    assert read_upload(_save(tmp_path / "large.png", (2000, 1500))).shape == (512, 512, 3)


def test_unusable_uploads_are_refused_in_one_sentence(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(_save(tmp_path / "whole.png", (300, 300)).read_bytes()[:120])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    one = _save(tmp_path / "one.png", (1, 1))
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    for path in (damaged, text, one, bomb):
        with pytest.raises(ValueError, match="expected") as caught:
            read_upload(path)
        assert "\n" not in str(caught.value)
