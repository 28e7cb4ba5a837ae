"""The one softmax(QK) of the package, and how to look at it without touching it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass
class AttentionTrace:
    """Attention maps in the order of the calls.

    Attributes:
        maps: one (B, heads, queries, keys) float32 tensor a layer and network call; rows sum to 1.
        layers: the name that each map's layer gave itself.
    """

    maps: list[Tensor] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)


_trace: ContextVar[AttentionTrace | None] = ContextVar("vidvla_attention_trace", default=None)


@contextmanager
def capture_attention() -> Iterator[AttentionTrace]:
    """Record the attention maps of this thread's calls inside the block; answers stay bit for bit the same."""
    trace = AttentionTrace()
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)


def _keep(q: Tensor, k: Tensor, mask: Tensor | None, label: str) -> None:
    """Add the map of queries (B, h, N, d) over keys (B, h, M, d) to the trace, where one is recorded."""
    trace = _trace.get()
    if trace is None:
        return
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    trace.maps.append(scores.softmax(dim=-1).detach())
    trace.layers.append(label)


class SelfAttention(nn.Module):
    """Multi-head self-attention with normalised queries and keys (Dehghani et al. 2023, ViT-22B).

    Args:
        d_model: width D of the tokens.
        n_heads: heads; must divide ``d_model``.
        label: the name under which traces keep this layer's maps.
    """

    def __init__(self, d_model: int, n_heads: int, label: str = "attention") -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"expected n_heads to divide d_model, got {n_heads} and {d_model}")
        self.n_heads = n_heads
        self.label = label
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.q_norm = nn.RMSNorm(d_model // n_heads)
        self.k_norm = nn.RMSNorm(d_model // n_heads)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x (B, N, D); visible (B, N) bool says which tokens may be looked at, all where None -> (B, N, D)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.n_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        mask = None if visible is None else visible[:, None, None, :]
        _keep(q, k, mask, self.label)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to another, normalised like :class:`SelfAttention`.

    Its output starts at zero, so that a trained net that is given one answers as before.

    Args:
        d_model: width D of both sequences.
        n_heads: heads; must divide ``d_model``.
        label: the name under which traces keep this layer's maps, (B, heads, N, M).
    """

    def __init__(self, d_model: int, n_heads: int, label: str = "cross-attention") -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"expected n_heads to divide d_model, got {n_heads} and {d_model}")
        self.n_heads = n_heads
        self.label = label
        self.q, self.kv = nn.Linear(d_model, d_model), nn.Linear(d_model, 2 * d_model)
        self.q_norm = nn.RMSNorm(d_model // n_heads)
        self.k_norm = nn.RMSNorm(d_model // n_heads)
        self.out = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, memory: Tensor, visible: Tensor | None = None) -> Tensor:
        """x (B, N, D) looks at memory (B, M, D), at what ``visible`` (B, M) bool says or at all -> (B, N, D)."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.n_heads)
        k, v = rearrange(self.kv(memory), "b m (two h d) -> two b h m d", two=2, h=self.n_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        mask = None if visible is None else visible[:, None, None, :]
        _keep(q, k, mask, self.label)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))
