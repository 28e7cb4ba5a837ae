"""Diffusion transformer blocks (Peebles and Xie 2023, arXiv 2212.09748)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidvla.nn.attention import CrossAttention, SelfAttention


def sinusoidal(value: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """value (...) -> (..., dim): sines and cosines of geometrically spaced periods (Vaswani et al. 2017)."""
    half = dim // 2
    rate = torch.exp(-math.log(longest) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float()[..., None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def grid_positions(side: int, dim: int) -> Tensor:
    """(side * side, dim) fixed two-dimensional positions, row by row."""
    line = torch.arange(side, dtype=torch.float32)
    rows = sinusoidal(line, dim // 2, longest=100.0)[:, None].expand(side, side, -1)
    columns = sinusoidal(line, dim // 2, longest=100.0)[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, -1)


class AdaLayerNorm(nn.Module):
    """Layer norm without its own affine, scaled and shifted by a condition.

    Args:
        d_model: width D of the tokens.
        cond_dim: width of the condition.
    """

    def __init__(self, d_model: int, cond_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, elementwise_affine=False)
        self.modulation = nn.Linear(cond_dim, 2 * d_model)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor, rows: Tensor | None = None) -> Tensor:
        """x (B, N, D); cond (B, cond_dim), or (B, N, cond_dim), or (B, R, cond_dim) with ``rows`` (N,) that
        names the condition of each token -> (B, N, D)."""
        modulation = self.modulation(cond if cond.ndim == 3 else cond[:, None])
        if rows is not None:
            modulation = modulation[:, rows]
        scale, shift = modulation.chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class DiTBlock(nn.Module):
    """Adaptive norm, self-attention, adaptive norm, feed-forward; each branch gated by the condition.

    Args:
        d_model: width D of the tokens.
        n_heads: attention heads.
        cond_dim: width of the condition.
        label: name of the self-attention in traces; that of the cross-attention says ``words`` after it.
        cross: also look at a second sequence, between self-attention and feed-forward.
    """

    def __init__(
        self, d_model: int, n_heads: int, cond_dim: int, *, label: str = "attention", cross: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(d_model, cond_dim)
        self.attention = SelfAttention(d_model, n_heads, label)
        self.norm2 = AdaLayerNorm(d_model, cond_dim)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU("tanh"), nn.Linear(4 * d_model, d_model))
        self.gates = nn.Linear(cond_dim, 2 * d_model)
        nn.init.zeros_(self.gates.weight)
        nn.init.constant_(self.gates.bias, 0.5)  # not adaLN-zero's 0: short trainings start faster half open
        self.cross_norm = nn.LayerNorm(d_model) if cross else None
        self.cross = CrossAttention(d_model, n_heads, f"{label}, words") if cross else None

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        rows: Tensor | None = None,
        visible: Tensor | None = None,
        memory: Tensor | None = None,
        memory_visible: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, D) -> (B, N, D); ``cond`` and ``rows`` as in :class:`AdaLayerNorm`; ``visible`` (B, N) bool
        says which tokens may be looked at; ``memory`` (B, M, D) is the second sequence of a block with ``cross``,
        ``memory_visible`` (B, M) the same of it."""
        gates = self.gates(cond if cond.ndim == 3 else cond[:, None])
        if rows is not None:
            gates = gates[:, rows]
        gate1, gate2 = gates.chunk(2, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x, cond, rows), visible)
        if self.cross is not None and self.cross_norm is not None:
            if memory is None:
                raise ValueError("expected a memory for a block with cross-attention, got none")
            x = x + self.cross(self.cross_norm(x), memory, memory_visible)
        return x + gate2 * self.mlp(self.norm2(x, cond, rows))
