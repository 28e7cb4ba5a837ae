"""A trained film model at work: frames in, frames out, with the hidden states that other heads read."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vidvla.families.base import Clock, fit_square
from vidvla.foundation.backbone import BackboneConfig, FilmStep, Scene, denoise, flatten_time
from vidvla.nn.attention import AttentionTrace
from vidvla.nn.codec import FrameCodec
from vidvla.nn.video_dit import VideoActionDiT
from vidvla.pixels import to_float, to_uint8
from vidvla.text import TextTokens, check_instruction, text_encoder
from vidvla.types import Attention, Control, ProgressCallback, Request
from vidvla.worlds.base import Frame

MAX_STEPS = 32
"""Denoising steps that a request may ask for."""
MAX_GUIDANCE = 10.0
GUIDANCE = Control("guidance", "Guidance", low=0.0, high=MAX_GUIDANCE, step=0.25, info="weight of the instruction")
"""The control of families that weigh the instruction; where it is not set, the request's own guidance holds."""


def check_request(request: Request) -> str:
    """The instruction, cleaned; ValueError where a field of ``request`` is out of range."""
    frame = request.frame
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"expected a frame (H, W, 3) uint8, got {frame.dtype} {frame.shape}")
    if not 1 <= request.steps <= MAX_STEPS:
        raise ValueError(f"expected 1 to {MAX_STEPS} denoising steps, got {request.steps}")
    if not 0 <= request.guidance <= MAX_GUIDANCE:
        raise ValueError(f"expected a guidance from 0 to {MAX_GUIDANCE:g}, got {request.guidance:g}")
    if not 0 <= request.seed < 2**31:
        raise ValueError(f"expected a seed from 0 to {2**31 - 1}, got {request.seed}")
    return check_instruction(request.instruction)


@dataclass(frozen=True)
class FilmModel:
    """Codec and film net together.

    Attributes:
        size: side of the frames in pixels.
        device: where the nets are.
    """

    codec: FrameCodec
    net: VideoActionDiT
    config: BackboneConfig
    device: torch.device

    @property
    def size(self) -> int:
        return self.config.grid * self.codec.patch

    def key_times(self) -> tuple[int, ...]:
        """Control steps of a film's frames."""
        return tuple(self.config.stride * (k + 1) for k in range(self.config.frames))

    def scene(self, request: Request) -> Scene:
        """Encode a request's frame and instruction."""
        instruction = check_request(request)
        pixels = to_float(fit_square(request.frame, self.size))[None].to(self.device)
        return Scene(pixels, self.codec.encode(pixels), text_encoder()([instruction]).to(self.device))

    def times(self, *values: int) -> torch.Tensor:
        """Control steps as the net's (1, K)."""
        return torch.tensor([values], device=self.device)

    def film(
        self, scene: Scene, request: Request, clock: Clock, progress: ProgressCallback | None = None
    ) -> tuple[FilmStep, FilmStep]:
        """:meth:`denoise` a film of key frames: the first step (its hidden states saw pure noise) and the last."""
        first: FilmStep | None = None
        with clock.part("film"):
            for step in self.denoise(scene, self.key_times(), request, clock, progress):
                first = first or step
        assert first is not None
        return first, step

    def denoise(
        self,
        scene: Scene,
        times: Sequence[int],
        request: Request,
        clock: Clock,
        progress: ProgressCallback | None = None,
        *,
        image_guidance: float = 1.0,
        over: Scene | None = None,
    ) -> Iterator[FilmStep]:
        """Denoise frames ``times`` control steps from ``scene`` as ``request`` asks, one step at a time.

        ``progress`` hears of every step, with the frames as the net guesses them then, but for the last step: its guess
        is the answer. Looking takes none of the time that ``clock`` says.

        Args:
            image_guidance: weight of the scene's frame.
            over: the scene that looked-at frames are painted over; ``scene`` where None.
        """
        for step in denoise(
            self.net, scene, self.times(*times), steps=request.steps, guidance=request.guidance,
            image_guidance=image_guidance, generator=torch.Generator().manual_seed(request.seed),
        ):  # fmt: skip
            if progress is not None:
                done, steps = step.step + 1, request.steps
                guess = functools.partial(self.decode, step.clean, over or scene) if done < steps else None
                with clock.aside():
                    progress(done / steps, f"denoising {done}/{steps}", guess)
            yield step

    def decode(self, latents: torch.Tensor, scene: Scene) -> Frame:
        """(1, K, C, h, w) -> (K, H, W, 3) uint8, keeping what did not move from the scene's frame."""
        return to_uint8(self.paint(latents, scene))

    def paint(self, latents: torch.Tensor, scene: Scene) -> torch.Tensor:
        """:meth:`decode` with its history: (K, 3, H, W) in [-1, 1]."""
        flat = flatten_time(latents)
        count = len(flat)
        frames, _ = self.codec.decode(
            flat, scene.pixels.expand(count, -1, -1, -1), scene.latents.expand(count, -1, -1, -1)
        )
        return frames

    def attention(self, trace: AttentionTrace | None, text: TextTokens, instruction: str) -> Attention | None:
        """The last network call of ``trace`` with its layout and words; None where nothing was traced."""
        if trace is None:
            return None
        words = ("(none)", *text_encoder().words(check_instruction(instruction)))
        layouts = self.net.layouts(len(words))
        count = len(layouts)
        maps = tuple(m.cpu().numpy() for m in self.net.laid_out([m[0] for m in trace.maps[-count:]], len(words)))
        return Attention(maps, layouts, tuple(trace.layers[-count:]), words)
