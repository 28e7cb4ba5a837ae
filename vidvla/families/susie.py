"""SuSIE-style: an edited picture is the next sub-goal, a goal-conditioned policy reaches it, and the next is edited.

The editor is an instruction-following image editor (InstructPix2Pix, Brooks et al. 2023, arXiv 2211.09800) in the
codec's latents: the given frame in the channels, the instruction by cross-attention, both dropped in training, so that
each has a guidance weight of its own. As in the shared film net the clean picture is predicted as a change of the given
frame: that is what a few denoising steps and a short training need.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vidvla.families.base import Clock
from vidvla.foundation.backbone import BackboneConfig, Scene
from vidvla.foundation.film import GUIDANCE, MAX_GUIDANCE
from vidvla.foundation.goals import GoalFamily, PolicyConfig
from vidvla.foundation.stages import fill_film_net
from vidvla.nn.attention import capture_attention
from vidvla.nn.edit_dit import EditDiT
from vidvla.pixels import to_float
from vidvla.text import TEXT_DIM
from vidvla.types import Attention, Control, Glimpse, ProgressCallback, Request, Rollout
from vidvla.worlds.base import Frame

EDIT, REACH = "susie.edit", "susie.reach"
HORIZONS = (8, 4, 16)
"""Control steps to a sub-goal that can be asked for; the first is its own choice."""
K = Control(
    "k", "Sub-goal ahead", str(HORIZONS[0]), choices=tuple(map(str, sorted(HORIZONS))),
    info="control steps k to a sub-goal, and until the next one",
)  # fmt: skip
IMAGE_GUIDANCE = Control(
    "image_guidance", "Image guidance", 1.0, high=MAX_GUIDANCE, step=0.25, info="weight of the given frame"
)


def edit_net(sizes: BackboneConfig) -> EditDiT:
    """The editor at the film net's sizes."""
    return EditDiT(
        sizes.grid, sizes.d_model, sizes.n_heads, sizes.n_layers, TEXT_DIM,
        channels=sizes.latent_channels, fine_dim=sizes.fine_dim, fine_layers=sizes.fine_layers,
    )  # fmt: skip


def load_editor(folder: Path, sizes: BackboneConfig) -> EditDiT:
    """The editor from a checkpoint folder: its own, or a film net's, which has no cross-attention yet."""
    net = edit_net(sizes)
    fill_film_net(net, folder, ".cross")
    return net


class DiffusionConfig(PolicyConfig):
    """As in the paper, the policy makes actions by diffusion."""

    head: str = "diffusion"


class Susie(GoalFamily):
    """Sub-goals by image editing, one after the other."""

    name: ClassVar[str] = "susie"
    title: ClassVar[str] = "SuSIE style"
    order: ClassVar[int] = 40
    source: ClassVar[str] = "Black et al. 2023, arXiv 2310.10639"
    summary: ClassVar[str] = "Edits the frame into the next sub-goal as told; a goal-conditioned policy reaches it."
    differs: ClassVar[str] = (
        "SuSIE edits with a pretrained InstructPix2Pix in fifty steps; this editor begins with the shared film net,"
        " knows one robot, and takes two. Its film is a chain: each sub-goal is edited from the one before."
    )
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    horizons: ClassVar[tuple[int, ...]] = HORIZONS
    targets: ClassVar[Control] = K
    controls: tuple[Control, ...] = (GUIDANCE, IMAGE_GUIDANCE, K)
    part: ClassVar[str] = "policy"
    sizes: ClassVar[type[PolicyConfig]] = DiffusionConfig
    published: ClassVar[dict[str, str]] = {"net": EDIT, "policy": REACH}

    @classmethod
    def film_net(cls, sizes: BackboneConfig, folder: Path | None = None) -> EditDiT:
        return edit_net(sizes) if folder is None else load_editor(folder, sizes)

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request, k = Clock(), self.own(request), self.horizon(request)
        with clock.part("encode"):
            given = scene = self.model.scene(request)
        count, actions = self.actor.steps // k, []
        pictures: list[Frame] = []
        told = None if progress is None else _of_chain(progress, pictures, count)
        maps: Attention | None = None
        for index in range(count):
            look = attention and not index  # at the first edit, which is what is acted on
            with capture_attention() if look else nullcontext() as trace, clock.part("sub-goals"):
                goal = self.goal(scene, request, clock, told, over=given)
            maps = maps or self.model.attention(trace, scene.text, request.instruction)
            with clock.part("actions"):
                actions.append(self.to_world(self.reach(scene, goal, request)))
            with clock.part("decode"):
                pictures += [*self.model.decode(goal[:, None], given)]
            # the sub-goal is what is seen once it is reached
            scene = Scene(to_float(pictures[-1])[None].to(self.model.device), goal, given.text)
        return Rollout(
            np.stack(pictures), tuple(range(k, k * count + 1, k)), np.concatenate(actions), maps, clock.done(),
            target=pictures[0], target_time=k,
        )  # fmt: skip

    def image_guidance(self, request: Request) -> float:
        return float(self.option(request, IMAGE_GUIDANCE.name))

    def commits(self, request: Request) -> int:
        """Until the sub-goal is to be reached."""
        return self.horizon(request)

    def reach(self, scene: Scene, goal: Tensor, request: Request) -> Tensor:
        """The actions up to the sub-goal alone: who looks again then asks for the next one."""
        return super().reach(scene, goal, request)[: self.horizon(request)]


def _of_chain(progress: ProgressCallback, pictures: Sequence[Frame], count: int) -> ProgressCallback:
    """Tells ``progress`` of a chain of ``count`` sub-goals when told of one of them.

    Args:
        pictures: the sub-goals (H, W, 3) that are done, as many as there are then; they stay in view.
    """

    def tell(share: float, what: str, glimpse: Glimpse | None = None, /) -> None:
        done = len(pictures)
        shown = None if glimpse is None else lambda: np.stack([*pictures, *glimpse()])
        progress((done + share) / count, f"sub-goal {done + 1}/{count}, {what}", shown)

    return tell


FAMILY = Susie
