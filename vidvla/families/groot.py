"""GR00T-style: a slow planner imagines one target image, a fast actor gets there.

The dual system as the course has it. Planner: a transformer over the frame's places, the instruction's words and the
target's places, forked from the shared film net. Actor: flow matching over a chunk of actions, from the frame and the
target alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import torch

from vidvla.families.base import Clock
from vidvla.foundation.film import GUIDANCE
from vidvla.foundation.goals import GoalFamily
from vidvla.nn.attention import capture_attention
from vidvla.types import Control, ProgressCallback, Request, Rollout

TARGET, ACT = "groot.target", "groot.act"
HORIZONS = (16, 8)
"""Control steps ahead that a target image can show; the first is its own choice."""
HORIZON = Control(
    "horizon", "Target ahead", str(HORIZONS[0]), choices=tuple(map(str, sorted(HORIZONS))),
    info="control steps until the scene is to look like the target image",
)  # fmt: skip


class Groot(GoalFamily):
    """One image of what should be so, then the actions that make it so."""

    name: ClassVar[str] = "groot"
    title: ClassVar[str] = "GR00T style"
    order: ClassVar[int] = 30
    source: ClassVar[str] = "course notes; GR00T N1, Bjorck et al. 2025, arXiv 2503.14734"
    summary: ClassVar[str] = "A planner imagines one target image, a flow-matching actor the actions that get there."
    differs: ClassVar[str] = (
        "The real GR00T N1 imagines no picture: System 2, a pretrained vision-language model, hands its hidden features"
        " to System 1, a diffusion transformer that makes the actions by flow matching. A target image in between is"
        " the course's reading; planner and actor here are trained apart and are a hundred times smaller."
    )
    films: ClassVar[bool] = False
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    horizons: ClassVar[tuple[int, ...]] = HORIZONS
    targets: ClassVar[Control] = HORIZON
    controls: tuple[Control, ...] = (GUIDANCE, HORIZON)
    part: ClassVar[str] = "actor"
    published: ClassVar[dict[str, str]] = {"net": TARGET, "actor": ACT}

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request = Clock(), self.own(request)
        with clock.part("encode"):
            scene = self.model.scene(request)
        with capture_attention() if attention else nullcontext() as trace, clock.part("target"):
            target = self.goal(scene, request, clock, progress)
        with clock.part("actions"):
            actions = self.to_world(self.reach(scene, target, request))
        with clock.part("decode"):
            (picture,) = self.model.decode(target[:, None], scene)
        maps = self.model.attention(trace, scene.text, request.instruction)
        none = np.zeros((0, *picture.shape), np.uint8)
        return Rollout(none, (), actions, maps, clock.done(), target=picture, target_time=self.horizon(request))


FAMILY = Groot
