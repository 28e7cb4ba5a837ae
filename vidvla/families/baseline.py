"""The course's pipeline: predict frames by regression, then read actions by inverse dynamics."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vidvla.data.demos import DemoBatch
from vidvla.families.base import Clock, fit_square
from vidvla.foundation.film import check_request
from vidvla.foundation.one_net import DemoConfig, DemoStage, OneNetFamily
from vidvla.nn.predictor import VideoToActionPipeline
from vidvla.pixels import to_float, to_uint8
from vidvla.saliency import Traced
from vidvla.text import TEXT_DIM, TextTokens, text_encoder
from vidvla.types import ProgressCallback, Request, Rollout

TRAIN = "baseline.pipeline"


class BaselineConfig(DemoConfig):
    """Sizes of the pipeline; one inverse-dynamics call gives the ``stride`` actions between two frames.

    Attributes:
        size: side of the frames that it sees and paints, pixels; they are shown at twice that.
    """

    size: int = 64
    frames: int = 4
    stride: int = 4
    hidden_dim: int = 32
    hidden: int = 32
    base: int = 8

    def window(self) -> tuple[int, int]:
        return self.frames, self.stride

    def net(self, action_dim: int) -> PipelineNet:
        return PipelineNet(self, action_dim)


class PipelineNet(nn.Module):
    """Mean instruction token -> ``lang_embed``, then the contract's :class:`VideoToActionPipeline`."""

    def __init__(self, config: BaselineConfig, action_dim: int) -> None:
        super().__init__()
        self.language = nn.Sequential(nn.LayerNorm(TEXT_DIM), nn.Linear(TEXT_DIM, 256), nn.GELU())
        self.pipeline = VideoToActionPipeline(
            config.stride * action_dim, config.frames,
            hidden_dim=config.hidden_dim, hidden=config.hidden, base=config.base,
        )  # fmt: skip

    def embed(self, text: TextTokens) -> Tensor:
        """(B, 256) of the instructions."""
        return self.language(mean_token(text))

    def forward(self, frame: Tensor, text: TextTokens, future: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Losses of frames in [0, 1] and unit-scale actions (B, K, S * A)."""
        losses: dict[str, Tensor] = self.pipeline(frame, self.embed(text), future, actions)
        return losses


def mean_token(text: TextTokens) -> Tensor:
    """(B, 384): the mean of an instruction's visible tokens."""
    weight = text.mask.float()[..., None]
    return (text.tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def unit_pixels(frames: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) in [0, 1], the contract's range."""
    return (to_float(frames) + 1) / 2


class BaselineStage(DemoStage):
    """Film and inverse dynamics of the pipeline, learned together on clean demonstrations."""

    name = TRAIN

    def loss(self, model: nn.Module, batch: DemoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        # after an episode's end nothing moves on: the last action stands in, as the recorded frame does
        actions = (batch.actions * batch.action_mask[..., None]).flatten(2)
        values = model(unit_pixels(batch.frame), batch.text, unit_pixels(batch.future), actions)
        return {"loss": 10 * values["video"] + values["action"], **values}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        batch = self.demos.batch(6, torch.Generator().manual_seed(7))
        assert isinstance(model, PipelineNet)
        films = model.pipeline.video(unit_pixels(batch.frame), model.embed(batch.text))
        rows = []
        for start, true, film in zip(batch.frame.numpy(), batch.future.numpy(), films, strict=True):
            rows += [
                np.concatenate([start, *true], axis=1),
                np.concatenate([start, *to_uint8(film * 2 - 1)], axis=1),
            ]
        return np.concatenate(rows)


class Baseline(OneNetFamily):
    """``VideoPredictor`` and ``InverseDynamics`` of the course notes, trained on the same demonstrations."""

    name: ClassVar[str] = "baseline"
    title: ClassVar[str] = "Baseline"
    order: ClassVar[int] = 80
    source: ClassVar[str] = "course notes: VideoPredictor + InverseDynamics"
    summary: ClassVar[str] = "Regresses future frames with a small convolutional net, then inverse dynamics."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    sizes: ClassVar[type[BaselineConfig]] = BaselineConfig
    stage: ClassVar[type[BaselineStage]] = BaselineStage
    published: ClassVar[dict[str, str]] = {"net": TRAIN}
    net: PipelineNet
    config: BaselineConfig

    def traced(self, request: Request) -> Traced:
        instruction, pipeline = check_request(request), self.net.pipeline
        text, pixels = text_encoder()([instruction]).to(self.device), self._pixels(request).requires_grad_()
        words = text.tokens.clone().requires_grad_()
        film = pipeline.video(pixels, self.net.embed(TextTokens(words, text.mask)))[0]
        reads = torch.cat([pixels, film])
        chunks = pipeline.actions_between(reads[:1], reads[None, 1:])[0]
        actions = chunks.unflatten(-1, (self.config.stride, -1)).flatten(0, 1)
        return Traced(pixels, film, actions, reads, words, text_encoder().words(instruction))

    def _pixels(self, request: Request) -> Tensor:
        """(1, 3, size, size) in [0, 1]."""
        frame = fit_square(request.frame, self.config.size)
        return unit_pixels(torch.from_numpy(frame.copy()))[None].to(self.device)

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, instruction = Clock(), check_request(request)
        with clock.part("encode"):
            frame = self._pixels(request)
            language = self.net.embed(text_encoder()([instruction]).to(self.device))
        with clock.part("film"):
            film = self.net.pipeline.video(frame, language)[0]
        with clock.part("actions"):
            chunks = self.net.pipeline.actions_between(frame, film[None])[0]
            unit = chunks.unflatten(-1, (self.config.stride, -1)).flatten(0, 1)
            actions = self.scale.to_world(unit.float().cpu().numpy())
        side = 2 * self.config.size  # shown at the size of the others
        shown = [Image.fromarray(f).resize((side, side), Image.Resampling.BILINEAR) for f in to_uint8(film * 2 - 1)]
        times = tuple(self.config.stride * (k + 1) for k in range(self.config.frames))
        return Rollout(np.stack([np.asarray(f) for f in shown]), times, actions, None, clock.done())


FAMILY = Baseline
