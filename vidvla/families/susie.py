"""SuSIE-style: an edited picture is the next sub-goal, a goal-conditioned policy reaches it, and the next is edited.

The editor is an instruction-following image editor (InstructPix2Pix, Brooks et al. 2023, arXiv 2211.09800) in the
codec's latents: the given frame in the channels, the instruction by cross-attention, both dropped in training, so that
each has a guidance weight of its own. As in the shared film net the clean picture is predicted as a change of the given
frame: that is what a few denoising steps and a short training need.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise
from vidvla.foundation.film import GUIDANCE, MAX_GUIDANCE, FilmModel
from vidvla.foundation.goals import GoalStage, PolicyConfig, PolicyStage, check_horizons, film_windows, one_frame
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    PHYSICS,
    WORLD,
    backbone_config,
    backbone_phases,
    load_codec,
    publish_codec,
    unit_actions,
)
from vidvla.nn.codec import FrameCodec
from vidvla.nn.edit_dit import EditDiT
from vidvla.nn.goal_policy import GoalPolicy
from vidvla.pixels import to_float
from vidvla.saliency import Traced
from vidvla.text import TEXT_DIM, TextTokens, check_instruction, text_encoder
from vidvla.train.loop import TrainConfig
from vidvla.types import Control, ProgressCallback, Request, Rollout

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
    net, saved = edit_net(sizes), checkpoint.load(folder)
    if not any(".cross" in name for name in saved.tensors):
        saved.tensors.update({f"net.{name}": value for name, value in net.state_dict().items() if ".cross" in name})
    saved.fill(net, "net")
    return net


class Susie(Family):
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
    attends: ClassVar[bool] = False
    targets: ClassVar[Control | None] = K
    controls: tuple[Control, ...] = (GUIDANCE, IMAGE_GUIDANCE, K)
    published: ClassVar[dict[str, str]] = {"net": EDIT, "policy": REACH}

    def __init__(self, model: FilmModel, policy: GoalPolicy, scale: ActionScale) -> None:
        self.model, self.policy, self.scale = model, policy, scale

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        table, sizes = read_config(cls.name, size), backbone_config(size)
        horizons, policy = check_horizons(HORIZONS, sizes), PolicyConfig(**table["policy"])

        def edit(context: Context) -> GoalStage:
            return GoalStage(
                EDIT, context, film_windows(sizes, table["drop_text"], table["windows"]),
                lambda own: load_editor(own or context.weights(FILM), sizes), table["full_noise"], horizons,
                table["drop_image"],
            )  # fmt: skip

        def reach(context: Context) -> PolicyStage:
            return PolicyStage(
                REACH, context, policy, film_windows(sizes, 0.0, table["windows"]), horizons,
                lambda: load_editor(context.weights(EDIT), sizes), table["imagined"], table["noise"],
            )  # fmt: skip

        plans = {name: TrainConfig(**plan) for name, plan in table["train"].items()}
        return [
            *backbone_phases(size),
            Phase(EDIT, edit, plans["edit"], (CODEC, FILM)),
            Phase(REACH, reach, plans["reach"], (CODEC, FILM, EDIT)),
        ]

    @classmethod
    def publish(cls, context: Context) -> None:
        table, sizes, scale = read_config(cls.name, context.size), backbone_config(context.size), unit_actions()
        config = PolicyConfig(**table["policy"])
        policy = config.net(sizes, len(scale.low))
        checkpoint.load(context.weights(REACH)).fill(policy, "net")
        described = context.description(
            cls.name, WORLD, [CODEC, PHYSICS, FILM, EDIT, REACH], model=sizes.model_dump(),
            policy=config.model_dump(), actions=scale.saved(),
        )  # fmt: skip
        nets = {"net": load_editor(context.weights(EDIT), sizes), "policy": policy}
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, described)
        publish_codec(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Susie:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder)
        sizes, scale = BackboneConfig(**saved.config["model"]), ActionScale(**saved.config["actions"])
        policy = PolicyConfig(**saved.config["policy"]).net(sizes, len(scale.low))
        saved.fill(policy, "policy")
        net = load_editor(folder, sizes).eval().to(device)
        model = FilmModel(load_codec(checkpoints / "codec").to(device), net, one_frame(sizes), device)
        family = cls(model, policy.eval().to(device), scale)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> Susie:
        sizes, scale = BackboneConfig(), unit_actions()
        codec = FrameCodec(latent_channels=sizes.latent_channels, width=8).eval()
        model = FilmModel(codec, edit_net(sizes).eval(), one_frame(sizes), torch.device("cpu"))
        policy = PolicyConfig(head="diffusion").net(sizes, len(scale.low))
        return cls(model, policy.eval(), scale)

    def nets(self) -> dict[str, nn.Module]:
        return {"codec": self.model.codec, "net": self.model.net, "policy": self.policy}

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request, k = Clock(), self.own(request), self._k(request)
        with clock.part("encode"):
            given = scene = self.model.scene(request)
        count, pictures, actions = self.policy.steps // k, [], []
        for index in range(count):
            with clock.part("sub-goals"):
                goal = self._edit(scene, request, k)
            with clock.part("actions"):
                actions.append(self._to_world(self._reach(scene, goal, k, request.seed)))
            with clock.part("decode"):
                (picture,) = self.model.decode(goal[:, None], given)
            pictures.append(picture)
            # the sub-goal is what is seen once it is reached
            scene = Scene(to_float(picture)[None].to(self.model.device), goal, given.text)
            if progress is not None:
                progress((index + 1) / count, f"sub-goal {index + 1}/{count}")
        return Rollout(
            np.stack(pictures), tuple(range(k, k * count + 1, k)), np.concatenate(actions), None, clock.done(),
            target=pictures[0], target_time=k,
        )  # fmt: skip

    def _k(self, request: Request) -> int:
        return int(self.option(request, K.name))

    def _edit(self, scene: Scene, request: Request, k: int) -> Tensor:
        """Latents (1, C, h, w) of the sub-goal ``k`` control steps from ``scene``."""
        *_, last = denoise(
            self.model.net, scene, self.model.times(k), steps=request.steps, guidance=request.guidance,
            image_guidance=float(self.option(request, IMAGE_GUIDANCE.name)),
            generator=torch.Generator().manual_seed(request.seed),
        )  # fmt: skip
        return last.clean[:, 0]

    def _reach(self, scene: Scene, goal: Tensor, k: int, seed: int) -> Tensor:
        """The ``k`` unit-scale actions (k, A) that lead to the sub-goal."""
        asked, generator = torch.tensor([k], device=self.model.device), torch.Generator().manual_seed(seed)
        return self.policy.sample(scene.pixels, scene.latents, goal, asked, generator)[0, :k]

    def _to_world(self, unit: Tensor) -> NDArray[np.float32]:
        return self.scale.to_world(unit.float().cpu().numpy())

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        """The actions up to the sub-goal: who looks again then asks for the next one."""
        request, k = self.own(request), self._k(request)
        scene = self.model.scene(request)
        return self._to_world(self._reach(scene, self._edit(scene, request, k), k, request.seed))

    def traced(self, request: Request) -> Traced:
        """The chain of edits and actions; sub-goals are passed on as they are painted, without rounding."""
        request, k = self.own(request), self._k(request)
        with torch.no_grad():
            seen = self.model.scene(request)
        pixels, words = (value.clone().requires_grad_() for value in (seen.pixels, seen.text.tokens))
        given = scene = Scene(pixels, self.model.codec.encode(pixels), TextTokens(words, seen.text.mask))
        film, actions = [], []
        with sdpa_kernel(SDPBackend.MATH):  # the one that can be derived twice
            for _ in range(self.policy.steps // k):
                goal = self._edit(scene, request, k)
                actions.append(self._reach(scene, goal, k, request.seed))
                film.append(self.model.paint(goal[:, None], given))
                scene = Scene(film[-1], goal, given.text)
        labels = text_encoder().words(check_instruction(request.instruction))
        return Traced(pixels, torch.cat(film), torch.cat(actions), None, words, labels)


FAMILY = Susie
