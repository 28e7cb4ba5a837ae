"""What the next frame shows, given the last ones and what the robot was told to do."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla.nn.arm import MAPS, PLACE_DIM, ArmNet, Camera, HandNet, hand_maps, place_features, seen_at
from vidvla.nn.conv import ResBlock
from vidvla.nn.dit import DiTBlock, grid_positions, sinusoidal

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


class DynamicsNet(nn.Module):
    """A U-Net whose coarsest level is a transformer, where the actions enter.

    Beside the picture the net keeps the hand's place, as robots' world models keep their proprioception: it predicts
    the next place first, draws the arm there (:class:`~vidvla.nn.arm.ArmNet`), and fits the scene around it.

    The next frame is blended, pixel by pixel, from six: the newest frame moved along a predicted flow (what moves
    keeps its looks: Finn et al. 2016, arXiv 1605.07157), the same moved as the hand moves in the picture, the anchor
    and the backdrop (what was hidden shows again as it was), one that is painted, and the arm. The backdrop keeps what
    was last seen where the arm was not in the way. Actions enter the transformer in the middle by ``concat``, as tokens
    of its sequence, or by ``cross``, cross-attention of every block (UnifoLM-WMA-0).

    Args:
        history: frames that are looked at, at least 2.
        told: actions that are told, newest first.
        action_dim: A.
        width: channels of the finest level; the others have three, six and ten times as many.
        layers: blocks of the transformer.
        entry: how actions enter.
        size: side of the frames in pixels.
        camera: projects places to the picture.
    """

    positions: Tensor
    camera: Tensor

    def __init__(
        self, history: int, told: int, action_dim: int, width: int = 16, layers: int = 4, entry: ActionEntry = "concat",
        *, size: int, camera: Camera,
    ) -> None:  # fmt: skip
        super().__init__()
        self.history, self.told, self.action_dim, self.entry = history, told, action_dim, entry
        c1, c2, c3, d = width, 3 * width, 6 * width, 10 * width
        self.enter_64 = nn.Conv2d(3 * (history + 2) + 5, c1, 4, stride=2, padding=1)
        self.enter_32 = nn.Sequential(nn.SiLU(), nn.Conv2d(c1, c2, 4, stride=2, padding=1), ResBlock(c2))
        self.enter_16 = nn.Sequential(nn.Conv2d(c2, c3, 4, stride=2, padding=1), ResBlock(c3))
        self.enter_8 = nn.Conv2d(c3, d, 4, stride=2, padding=1)
        self.register_buffer("positions", grid_positions(8, d), persistent=False)
        self.register_buffer("camera", torch.tensor(camera), persistent=False)
        self.action = nn.Sequential(nn.Linear(action_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.order = nn.Parameter(0.02 * torch.randn(1, told, d))
        self.level = nn.Sequential(nn.Linear(64, d), nn.SiLU(), nn.Linear(d, d))
        self.hand = HandNet(told, action_dim)
        self.arm = ArmNet(size // 16, told - 1, width, camera=camera)
        self.place = nn.Sequential(nn.Linear(2 * PLACE_DIM, d), nn.SiLU(), nn.Linear(d, d))
        self.aim = nn.Linear(d, d)
        heads = max(d // 32, 1)
        self.blocks = nn.ModuleList(
            DiTBlock(d, heads, d, label=f"block {i + 1}", cross=entry == "cross") for i in range(layers)
        )
        self.up_16 = nn.Sequential(nn.Conv2d(d, 4 * c3, 1), nn.PixelShuffle(2))
        self.mix_16 = nn.Sequential(nn.Conv2d(2 * c3 + 2 * MAPS, c3, 3, padding=1), ResBlock(c3))
        self.up_32 = nn.Sequential(nn.Conv2d(c3, 4 * c2, 1), nn.PixelShuffle(2))
        self.mix_32 = nn.Sequential(nn.Conv2d(2 * c2 + 2 * MAPS, c2, 3, padding=1), ResBlock(c2))
        self.up_64 = nn.Sequential(nn.Conv2d(c2, 4 * c1, 1), nn.PixelShuffle(2))
        self.mix_64 = nn.Sequential(
            nn.Conv2d(2 * c1 + 2 * MAPS, 2 * c1, 3, padding=1), nn.GroupNorm(8, 2 * c1), nn.SiLU()
        )
        self.paint = nn.Conv2d(2 * c1, 4 * 11, 3, padding=1)
        nn.init.zeros_(self.paint.weight)
        assert self.paint.bias is not None
        nn.init.zeros_(self.paint.bias)
        with torch.no_grad():  # begins with the newest frame as it is
            self.paint.bias[4 * 2 : 4 * 3] = 2.0

    def forward(
        self, frames: Tensor, anchor: Tensor, backdrop: Tensor, places: Tensor, targets: Tensor, actions: Tensor,
        level: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The next frame (B, 3, H, W), the hand's place in it (B, 3), and the backdrop (B, 3, H, W) of the newest.

        Frames are in [-1, 1] where the net has learned.

        Args:
            frames: (B, history, 3, H, W) in [-1, 1], newest last; H and W are multiples of 16.
            anchor: (B, 3, H, W), a true frame of the same scene.
            backdrop: (B, 3, H, W) that was returned a step ago, or the anchor.
            places: (B, history, 3) of the hand in each frame, about unit scale.
            targets: (B, 2, 3) where the hand had been sent by the newest frame, and where it is sent now: it lags
                behind, and how far it still has to go is what it moves by.
            actions: (B, told, A) unit scale, newest first: the first of them leads to the next frame.
            level: (B,) standard deviation of the noise in ``frames``.
        """
        newest, now, place = frames[:, -1], places[:, -1], self.hand(places, targets, actions)
        drawn = place.detach()
        covered, arm, covers = self._arms(places, drawn, targets, actions)
        backdrop = backdrop + (1 - covered) * (newest - backdrop)
        shape = covers.sigmoid()
        given = torch.cat([frames.flatten(1, 2), anchor, backdrop, covered, shape * arm, shape], dim=1)
        x_64 = self.enter_64(given)
        x_32 = self.enter_32(x_64)
        x_16 = self.enter_16(x_32)
        x_8 = self.enter_8(x_16)
        told = torch.cat([place_features(now), place_features(drawn)], dim=1)
        x_8 = self._think(x_8, actions, self.place(told), level)
        before, after = seen_at(now, self.camera), seen_at(drawn, self.camera)
        x = self.mix_16(torch.cat([self.up_16(x_8), x_16, hand_maps(before, x_16), hand_maps(after, x_16)], dim=1))
        x = self.mix_32(torch.cat([self.up_32(x), x_32, hand_maps(before, x_32), hand_maps(after, x_32)], dim=1))
        x = self.mix_64(torch.cat([self.up_64(x), x_64, hand_maps(before, x_64), hand_maps(after, x_64)], dim=1))
        flow, blend, painted = F.pixel_shuffle(self.paint(x), 2).split([2, 6, 3], dim=1)
        moved = warp(newest, LARGEST_FLOW * flow)
        pixels = torch.tensor(frames.shape[:-3:-1], device=flow.device) - 1
        carried = warp(newest, (0.5 * (before - after) * pixels)[:, :, None, None].expand_as(flow))
        share = torch.cat([blend[:, :5], blend[:, 5:] + covers], dim=1).softmax(dim=1)
        sources = (moved, anchor, carried, painted, backdrop, arm)
        shown = torch.stack([share[:, k : k + 1] * source for k, source in enumerate(sources)]).sum(dim=0)
        return shown, place, backdrop

    def _arms(self, places: Tensor, place: Tensor, targets: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the arm covers in the newest frame, from 0 to 1; in the next its colours, and a logit of the same."""
        grips = actions[..., -1]
        colours, covers = self.arm(
            torch.cat([places[:, -1], place]),
            torch.cat([places[:, -2], places[:, -1]]),
            torch.cat([targets[:, 0], targets[:, 1]]),
            torch.cat([grips[:, 1:], grips[:, :-1]]),
        )
        (before, after), arm = covers.chunk(2), colours.chunk(2)[1]
        return before.sigmoid(), arm, after

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
