"""Frames from a frame and an instruction, actions from pairs of frames: first the film, then the acts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidvla.nn.conv import ResBlock

GROUPS = 8
"""Groups of every group norm here; widths are multiples of it."""


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(GROUPS, outputs), nn.SiLU())


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(GROUPS, outputs), nn.SiLU()
    )


class VideoPredictor(nn.Module):
    """Future frames from a frame and an instruction, in one pass and without noise.

    Trained by squared error it gives the mean of the possible futures: it blurs what could go two ways.

    Args:
        img_channels: channels C of a frame.
        hidden_dim: channels at the coarsest scale; a multiple of 32.
        n_future: future frames K, one decoder each.
        lang_dim: width of the instruction's vector.

    Raises:
        ValueError: ``hidden_dim`` is no multiple of 32.
    """

    def __init__(self, img_channels: int = 3, hidden_dim: int = 256, n_future: int = 4, *, lang_dim: int = 256) -> None:
        super().__init__()
        if hidden_dim % (4 * GROUPS):
            raise ValueError(f"expected hidden_dim to be a multiple of {4 * GROUPS}, got {hidden_dim}")
        quarter, half = hidden_dim // 4, hidden_dim // 2
        self.encoder = nn.Sequential(_down(img_channels, quarter), _down(quarter, half), _down(half, hidden_dim))
        self.language = nn.Linear(lang_dim, hidden_dim)
        self.mix = ResBlock(hidden_dim, GROUPS)
        self.decoders = nn.ModuleList(
            nn.Sequential(
                _up(hidden_dim, half),
                _up(half, quarter),
                nn.ConvTranspose2d(quarter, img_channels, 4, stride=2, padding=1),
            )
            for _ in range(n_future)
        )

    def forward(self, current_frame: Tensor, lang_embed: Tensor) -> Tensor:
        """current_frame (B, C, H, W) in [0, 1], lang_embed (B, lang_dim) -> (B, n_future, C, H, W) in [0, 1].

        Raises:
            ValueError: H or W is no multiple of 8, which three halvings need.
        """
        height, width = current_frame.shape[-2:]
        if height % 8 or width % 8:
            raise ValueError(f"expected height and width to be multiples of 8, got {height} x {width}")
        x = self.encoder(current_frame)  # (B, hidden_dim, H / 8, W / 8)
        x = self.mix(x + self.language(lang_embed)[:, :, None, None])
        return torch.stack([decoder(x) for decoder in self.decoders], dim=1).sigmoid()


class InverseDynamics(nn.Module):
    """The action between two frames, as UniPi reads its film plans (Du et al. 2023, arXiv 2302.00111).

    The features keep where they are up to the last layers: a mean over the whole picture could say how many
    pixels something moved, but in perspective a pixel is a longer way far from the camera than near it.
    Frames may be in any range, always the same one: the families pass [-1, 1], the baseline [0, 1].

    Args:
        img_channels: channels C of a frame.
        action_dim: numbers A of an action.
        hidden: width of the layers after the convolutions.
        base: channels at half the resolution, doubled at a quarter and at an eighth; a multiple of 8.
            32 costs 0.31 billion multiplications a pair of 128-pixel frames.

    Raises:
        ValueError: ``base`` is no multiple of 8.
    """

    def __init__(self, img_channels: int = 3, action_dim: int = 7, hidden: int = 256, *, base: int = 32) -> None:
        super().__init__()
        if base % GROUPS:
            raise ValueError(f"expected base to be a multiple of {GROUPS}, got {base}")
        grid, kept = 8, 32  # half as many kept channels stay longer on the plateau of predicting no motion
        self.features = nn.Sequential(
            nn.Conv2d(3 * img_channels, base, 4, stride=2, padding=1), ResBlock(base, GROUPS),
            nn.Conv2d(base, 2 * base, 4, stride=2, padding=1), ResBlock(2 * base, GROUPS),
            nn.Conv2d(2 * base, 4 * base, 4, stride=2, padding=1), ResBlock(4 * base, GROUPS),
            nn.GroupNorm(GROUPS, 4 * base), nn.SiLU(),
            nn.AdaptiveAvgPool2d(grid), nn.Conv2d(4 * base, kept, 1), nn.GroupNorm(GROUPS, kept), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(kept * grid * grid, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, action_dim),
        )  # fmt: skip

    def forward(self, current: Tensor, next_frame: Tensor) -> Tensor:
        """current and next_frame (B, C, H, W) of one range, H and W at least 16 -> (B, action_dim).

        Raises:
            ValueError: the frames differ in shape, or are smaller than 16 pixels.
        """
        if current.shape != next_frame.shape:
            raise ValueError(
                f"expected two frames of one shape, got {tuple(current.shape)} and {tuple(next_frame.shape)}"
            )
        if min(current.shape[-2:]) < 16:
            raise ValueError(f"expected frames of at least 16 x 16 pixels, got {tuple(current.shape[-2:])}")
        # The difference adds nothing new; it spares the first layer learning to subtract two almost equal frames.
        pair = torch.cat([current, next_frame, next_frame - current], dim=1)  # (B, 3C, H, W)
        actions: Tensor = self.head(self.features(pair).flatten(1))
        return actions


def _squared_error(what: str, prediction: Tensor, target: Tensor) -> Tensor:
    if target.shape != prediction.shape:  # broadcasting would hide it
        raise ValueError(f"expected {what} of shape {tuple(prediction.shape)}, got {tuple(target.shape)}")
    return F.mse_loss(prediction, target)


class VideoToActionPipeline(nn.Module):
    """A film of the future, then the actions that lead from each of its frames to the next.

    Args:
        action_dim: numbers A of an action.
        n_future: future frames K.
        lang_dim: width of the instruction's vector.
        img_channels: channels C of a frame.
        hidden_dim: of :class:`VideoPredictor`.
        hidden: of :class:`InverseDynamics`.
        base: of :class:`InverseDynamics`.
    """

    def __init__(
        self,
        action_dim: int = 7,
        n_future: int = 4,
        *,
        lang_dim: int = 256,
        img_channels: int = 3,
        hidden_dim: int = 256,
        hidden: int = 256,
        base: int = 32,
    ) -> None:
        super().__init__()
        self.video = VideoPredictor(img_channels, hidden_dim, n_future, lang_dim=lang_dim)
        self.inverse_dynamics = InverseDynamics(img_channels, action_dim, hidden, base=base)

    def actions_between(self, current_frame: Tensor, futures: Tensor) -> Tensor:
        """Actions along the chain current -> first future -> second ...

        Args:
            current_frame: (B, C, H, W).
            futures: (B, K, C, H, W).

        Returns:
            (B, K, action_dim).
        """
        before = torch.cat([current_frame[:, None], futures[:, :-1]], dim=1)
        actions: Tensor = self.inverse_dynamics(before.flatten(0, 1), futures.flatten(0, 1))
        return rearrange(actions, "(b k) a -> b k a", k=futures.shape[1])

    def forward(
        self,
        current_frame: Tensor,
        lang_embed: Tensor,
        gt_futures: Tensor | None = None,
        gt_actions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared errors of the parts whose targets are given.

        The actions are learnt on true pairs of frames (teacher forcing), not on the film's mistakes.

        Args:
            current_frame: (B, C, H, W) in [0, 1].
            lang_embed: (B, lang_dim).
            gt_futures: (B, n_future, C, H, W) in [0, 1].
            gt_actions: (B, n_future, action_dim), action k from frame k to frame k + 1; needs ``gt_futures``.

        Returns:
            Scalar losses: "video" where ``gt_futures`` is given, "action" where ``gt_actions`` is too.

        Raises:
            ValueError: ``gt_actions`` without ``gt_futures``, or a target shaped unlike its prediction.
        """
        if gt_futures is None:
            if gt_actions is not None:
                raise ValueError("expected gt_futures with gt_actions, got gt_actions alone")
            return {}
        losses = {"video": _squared_error("gt_futures", self.video(current_frame, lang_embed), gt_futures)}
        if gt_actions is not None:
            actions = self.actions_between(current_frame, gt_futures)
            losses["action"] = _squared_error("gt_actions", actions, gt_actions)
        return losses

    @torch.no_grad()
    def predict(self, current_frame: Tensor, lang_embed: Tensor) -> Tensor:
        """Actions read off the predicted film, without gradient.

        Args:
            current_frame: (B, C, H, W) in [0, 1].
            lang_embed: (B, lang_dim).

        Returns:
            (B, n_future, action_dim).
        """
        return self.actions_between(current_frame, self.video(current_frame, lang_embed))
