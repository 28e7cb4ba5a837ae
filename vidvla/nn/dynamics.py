"""What the next frame shows, given the last ones and what the robot was told to do."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla.nn.arm import MAPS, PLACE_DIM, ArmNet, Camera, HandNet, JointNet, Links, features, hand_maps, seen_at
from vidvla.nn.conv import ResBlock
from vidvla.nn.dit import DiTBlock, grid_positions, sinusoidal
from vidvla.nn.touch import FIRST, THINGS

ActionEntry = Literal["concat", "cross"]

LARGEST_FLOW = 8.0
"""Pixels that one unit of the net's flow moves a pixel."""


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Each place of (B, C, H, W) shows what is ``flow`` (B, 2, H, W) pixels (x, y) from it; edges are held on."""
    height, width = frames.shape[-2:]
    ys = torch.linspace(-1, 1, height, device=flow.device).view(1, height, 1).expand(len(flow), -1, width)
    xs = torch.linspace(-1, 1, width, device=flow.device).view(1, 1, width).expand(len(flow), height, -1)
    x = xs + flow[:, 0] * (2 / (width - 1))
    y = ys + flow[:, 1] * (2 / (height - 1))
    return F.grid_sample(frames, torch.stack([x, y], dim=-1), padding_mode="border", align_corners=True)


class Next(NamedTuple):
    """A dream's next control step, as :class:`DynamicsNet` has it.

    Attributes:
        frame: (B, 3, H, W).
        pose: (B, 3 + J) of the robot in it.
        backdrop: (B, 4, H, W) of the frame before it: colours, and how far they are known, from 0 to 1.
        covered: (B, 1, H, W) what the arm covers in it, from 0 to 1.
    """

    frame: Tensor
    pose: Tensor
    backdrop: Tensor
    covered: Tensor


class DynamicsNet(nn.Module):
    """A U-Net whose coarsest level is a transformer, where the actions enter.

    Beside the picture the net keeps the robot's pose, as robots' world models keep their proprioception: it predicts
    the next pose first, draws the arm in it (:class:`~vidvla.nn.arm.ArmNet`), and fits the scene around it.

    The next frame has two layers. The arm is in front, but for what the net shows before it (things that are held, or
    nearer). The scene behind it is blended, pixel by pixel, from seven: the newest frame moved along a predicted flow
    (what moves keeps its looks: Finn et al. 2016, arXiv 1605.07157), the same moved as the hand moves in the picture,
    the anchor and the backdrop (what was hidden shows again as it was), one that is painted, the newest frame moved as
    the scene's thing moves, and the anchor moved as that has moved since and along another flow, for what turns: it is
    as sharp in a dream's last frame as in its first. The backdrop keeps what was last seen where the arm was not in the
    way, and where that is. Actions enter the transformer in the middle by ``concat``, as tokens of its sequence, or by
    ``cross``, cross-attention of every block (UnifoLM-WMA-0).

    Args:
        history: frames that are looked at, at least 2.
        told: actions that are told, newest first.
        action_dim: A.
        width: channels of the finest level; the others have three, six and ten times as many.
        layers: blocks of the transformer.
        entry: how actions enter.
        joints: J, of the robot.
        size: side of the frames in pixels.
        camera: projects places to the picture.
        links: the robot's forward kinematics.
    """

    positions: Tensor
    camera: Tensor
    room: Tensor

    def __init__(
        self, history: int, told: int, action_dim: int, width: int = 16, layers: int = 4, entry: ActionEntry = "concat",
        *, joints: int, size: int, camera: Camera, links: Links,
    ) -> None:  # fmt: skip
        super().__init__()
        self.history, self.told, self.action_dim, self.entry = history, told, action_dim, entry
        c1, c2, c3, d = width, 3 * width, 6 * width, 10 * width
        self.enter_64 = nn.Conv2d(3 * (history + 2) + 6, c1, 4, stride=2, padding=1)
        self.enter_32 = nn.Sequential(nn.SiLU(), nn.Conv2d(c1, c2, 4, stride=2, padding=1), ResBlock(c2))
        self.enter_16 = nn.Sequential(nn.Conv2d(c2, c3, 4, stride=2, padding=1), ResBlock(c3))
        self.enter_8 = nn.Conv2d(c3, d, 4, stride=2, padding=1)
        self.register_buffer("positions", grid_positions(8, d), persistent=False)
        self.register_buffer("camera", torch.tensor(camera), persistent=False)
        self.register_buffer("room", torch.zeros(3, size, size))
        self.action = nn.Sequential(nn.Linear(action_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.order = nn.Parameter(0.02 * torch.randn(1, told, d))
        self.level = nn.Sequential(nn.Linear(64, d), nn.SiLU(), nn.Linear(d, d))
        self.hand = HandNet(told, action_dim)
        self.joints = JointNet(joints, told)
        self.arm = ArmNet(size // 16, joints, width, camera=camera, links=links)
        self.place = nn.Sequential(nn.Linear(2 * PLACE_DIM, d), nn.SiLU(), nn.Linear(d, d))
        self.aim = nn.Linear(d, d)
        heads = max(d // 32, 1)
        self.blocks = nn.ModuleList(
            DiTBlock(d, heads, d, label=f"block {i + 1}", cross=entry == "cross") for i in range(layers)
        )
        self.up_16 = nn.Sequential(nn.Conv2d(d, 4 * c3, 1), nn.PixelShuffle(2))
        self.stand = nn.Linear(3 * THINGS, d)
        self.mix_16 = nn.Sequential(nn.Conv2d(2 * c3 + 4 * MAPS, c3, 3, padding=1), ResBlock(c3))
        self.up_32 = nn.Sequential(nn.Conv2d(c3, 4 * c2, 1), nn.PixelShuffle(2))
        self.mix_32 = nn.Sequential(nn.Conv2d(2 * c2 + 4 * MAPS, c2, 3, padding=1), ResBlock(c2))
        self.up_64 = nn.Sequential(nn.Conv2d(c2, 4 * c1, 1), nn.PixelShuffle(2))
        self.mix_64 = nn.Sequential(
            nn.Conv2d(2 * c1 + 4 * MAPS, 2 * c1, 3, padding=1), nn.GroupNorm(8, 2 * c1), nn.SiLU()
        )
        self.paint = nn.Conv2d(2 * c1, 4 * 15, 3, padding=1)
        nn.init.zeros_(self.paint.weight)
        assert self.paint.bias is not None
        nn.init.zeros_(self.paint.bias)
        with torch.no_grad():  # begins with the newest frame as it is, and the arm before it
            self.paint.bias[4 * 2 : 4 * 3] = 2.0
            self.paint.bias[4 * 9 : 4 * 10] = -4.0

    def forward(
        self, frames: Tensor, anchor: Tensor, backdrop: Tensor, covered: Tensor, now: Tensor, pose: Tensor,
        things: Tensor, actions: Tensor, level: Tensor,
    ) -> Next:  # fmt: skip
        """One control step on.

        Frames are in [-1, 1] where the net has learned.

        Args:
            frames: (B, history, 3, H, W) in [-1, 1], newest last; H and W are multiples of 16.
            anchor: (B, 3, H, W), a true frame of the same scene.
            backdrop: (B, 4, H, W) that was returned a step ago, or :meth:`behind` the anchor.
            covered: (B, 1, H, W) that was returned a step ago, or :meth:`covers` of the newest frame.
            now: (B, 3 + J) the robot's pose in the newest frame, about unit scale.
            pose: (B, 3 + J) in which it is next, from :meth:`reach`; in training the true one: what is drawn is then
                never blurred to make up for a hand that is a little off.
            things: (B, 3, THINGS) where things are in the anchor, in the newest frame and next, about unit scale; in
                training the true ones.
            actions: (B, told, A) unit scale, newest first: the first of them leads to the next frame.
            level: (B,) standard deviation of the noise in ``frames``.
        """
        newest, here, place = frames[:, -1], now[:, :3], pose[:, :3]
        arm, shape = self._arm(pose)
        backdrop = self.behind(newest, covered, backdrop)
        given = torch.cat([frames.flatten(1, 2), anchor, backdrop, covered, shape * arm, shape], dim=1)
        x_64 = self.enter_64(given)
        x_32 = self.enter_32(x_64)
        x_16 = self.enter_16(x_32)
        x_8 = self.enter_8(x_16)
        told = self.place(torch.cat([features(here), features(place)], dim=1)) + self.stand(things.flatten(1))
        x_8 = self._think(x_8, actions, told, level)
        before, after = seen_at(here, self.camera), seen_at(place, self.camera)
        started, stood, stands = (seen_at(at, self.camera) for at in things[..., FIRST].unbind(dim=1))
        marks = (before, after, stood, stands)
        x = self.mix_16(torch.cat([self.up_16(x_8), x_16, *(hand_maps(at, x_16) for at in marks)], dim=1))
        x = self.mix_32(torch.cat([self.up_32(x), x_32, *(hand_maps(at, x_32) for at in marks)], dim=1))
        x = self.mix_64(torch.cat([self.up_64(x), x_64, *(hand_maps(at, x_64) for at in marks)], dim=1))
        flow, blend, front, painted, turn = F.pixel_shuffle(self.paint(x), 2).split([2, 7, 1, 3, 2], dim=1)
        moved = warp(newest, LARGEST_FLOW * flow)
        pixels = torch.tensor(frames.shape[:-3:-1], device=flow.device) - 1

        def along(start: Tensor, end: Tensor) -> Tensor:
            return (0.5 * (start - end) * pixels)[:, :, None, None].expand_as(flow)

        carried, pushed = warp(newest, along(before, after)), warp(newest, along(stood, stands))
        turned = warp(anchor, along(started, stands) + LARGEST_FLOW * turn)
        sources = torch.stack([moved, anchor, carried, painted, backdrop[:, :3], pushed, turned], dim=2)
        scene = (blend.softmax(dim=1)[:, None] * sources).sum(dim=2)
        return Next(torch.lerp(scene, arm, shape * (-front).sigmoid()), pose, backdrop, shape)

    def reach(self, poses: Tensor, place: Tensor, actions: Tensor) -> Tensor:
        """The next pose (B, 3 + J) after poses (B, history, 3 + J), of a robot whose hand goes to ``place`` (B, 3), all
        about unit scale; actions (B, told, A)."""
        return torch.cat([place, self.joints(poses, place, actions)], dim=1)

    def covers(self, pose: Tensor) -> Tensor:
        """What the arm covers in ``pose`` (B, 3 + J), about unit scale, from 0 to 1, (B, 1, H, W)."""
        return self._arm(pose)[1]

    def behind(self, frame: Tensor, covered: Tensor, backdrop: Tensor | None = None) -> Tensor:
        """What ``frame`` (B, 3, H, W) shows beside the arm, over an earlier backdrop, and how far that is known.

        Without an earlier one nothing is known but how the empty room looks.
        """
        now = torch.cat([frame, torch.ones_like(covered)], dim=1)
        return torch.lerp(now, F.pad(self.room[None], (0, 0, 0, 0, 0, 1)) if backdrop is None else backdrop, covered)

    def _arm(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """The arm's colours in ``pose`` (B, 3 + J), (B, 3, H, W), and what it covers, from 0 to 1, (B, 1, H, W)."""
        colours, covers = self.arm(pose)
        return colours.float(), covers.float().sigmoid()  # lerp wants one precision, whatever the layers are run in

    def _think(self, x: Tensor, actions: Tensor, place: Tensor, level: Tensor) -> Tensor:
        """The transformer over the coarsest level (B, D, h, w) and the actions, for where the hand goes (B, D)."""
        side = x.shape[-1]
        grid = x.flatten(2).transpose(1, 2)
        count = grid.shape[1]
        positions = self.positions if count == len(self.positions) else grid_positions(side, x.shape[1]).to(x.device)
        tokens, told = grid + positions + self.aim(place)[:, None], self.action(actions) + self.order
        cond = self.level(sinusoidal(100 * level, 64)) + place
        concat = self.entry == "concat"
        sequence = torch.cat([tokens, told], dim=1) if concat else tokens
        for block in self.blocks:
            sequence = block(sequence, cond, memory=None if concat else told)
        return (grid + sequence[:, :count]).transpose(1, 2).unflatten(2, (-1, side))
