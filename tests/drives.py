"""What tests of drives share: a tiny service, and messages of the socket."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vidvla.families.wma import WorldModel
from vidvla.foundation.reader import Reader, ReaderConfig, ReaderNet
from vidvla.registry import families
from vidvla.service import Service

START = {"type": "start", "source": "Scene", "task": "door-open", "seed": 900_001, "model": "wma"}


def tiny_service() -> Service:
    """A world model at test size whose dreams follow its actions, policies that know nothing, and a reader for them."""
    model = WorldModel.tiny()
    torch.manual_seed(0)
    for weights in model.net.parameters():  # fresh nets end in zeros, and would dream the same of everything
        weights.data.add_(0.05 * torch.randn_like(weights))
    made = Service(loaded={"wma": model, "gr2": families()["gr2"].tiny(), "bc": families()["bc"].tiny()})
    config = ReaderConfig(tasks=("door-open",))
    made.__dict__["_reader"] = Reader(ReaderNet(config).eval(), config)
    if made.simulator_problem is not None:
        pytest.skip(made.simulator_problem)
    return made


def actions_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Actions (count, 4) within the limits."""
    spec = Service.action_spec
    return np.random.default_rng(seed).uniform(spec.low, spec.high, (count, 4)).astype(np.float32)


def reply(connection: Any) -> dict[str, Any]:
    """The next message, its pictures decoded."""
    event = connection.receive()
    if event.get("text") is not None:
        return json.loads(event["text"])
    data = event["bytes"]
    size = int.from_bytes(data[:4], "big")
    header, at = json.loads(data[4 : 4 + size]), 4 + size
    for _, length in header["pictures"]:
        assert Image.open(io.BytesIO(data[at : at + length])).size == (128, 128)
        at += length
    assert at == len(data)
    return header


def begun(connection: Any, **change: Any) -> str:
    """Start a drive; returns the socket's token."""
    token: str = reply(connection)["token"]
    connection.send_json({**START, **change})
    assert reply(connection)["type"] == "started" and reply(connection)["step"] == 0
    return token


def act(*values: float) -> dict[str, Any]:
    return {"type": "act", "action": list(values)}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), "teal").save(buffer, "JPEG")
    return buffer.getvalue()
