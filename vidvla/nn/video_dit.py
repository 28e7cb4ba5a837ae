"""The space-time diffusion transformer that films are made with, and its action head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidvla.nn.conv import ResBlock
from vidvla.nn.dit import AdaLayerNorm, DiTBlock, grid_positions, sinusoidal
from vidvla.types import TokenLayout


class PixelStem(nn.Module):
    """Features of the given frame that its latents are too coarse for: (B, 3, H, W) -> (B, side * side, width)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.net = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), ResBlock(64),
            nn.Conv2d(64, 96, 4, stride=2, padding=1), ResBlock(96),
            nn.Conv2d(96, width, 4, stride=2, padding=1), ResBlock(width),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.net(pixels), self.side).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Hidden:
    """Hidden states after the transformer.

    Attributes:
        patches: (B, n_future, P, D_fine) of the future frames, for the film head.
        frames: (B, n_future, d_model) mean over each future frame's tokens.
        actions: (B, n_future, d_model) of the action tokens, or None.
    """

    patches: Tensor
    frames: Tensor
    actions: Tensor | None


class VideoActionDiT(nn.Module):
    """Future frames and actions from a first frame, an instruction and a noise level (GR-2, arXiv 2410.06158).

    All frames' patches and the instruction's tokens form one sequence with full attention. With ``fine_layers``
    the patches pass through narrow layers before and after wide layers at half the resolution. The instruction's mean
    is part of every layer's condition as well (as in Stable Diffusion 3, arXiv 2403.03206).

    Args:
        img_size: side of the frames, in pixels or in latents.
        patch_size: side of a patch.
        n_future: future frames K.
        d_model: width of the wide layers.
        n_heads: heads of the wide layers.
        n_layers: number of the wide layers.
        lang_dim: width of the instruction's vector or tokens.
        action_dim: A; 0 builds no action head.
        channels: channels of a frame.
        fine_dim: width of the narrow layers.
        fine_layers: narrow layers on either side of the wide ones; 0 for none.
        action_chunk: actions a future frame.
        action_tokens: read the actions from tokens of their own besides each future frame's mean.
        pixel_stem: look at the given frame's pixels too (pass ``pixels``).
        cross: blocks with cross-attention, for nets that keep the instruction out of the sequence.
    """

    outer_positions: Tensor
    inner_positions: Tensor

    def __init__(
        self,
        img_size: int = 64,
        patch_size: int = 8,
        n_future: int = 4,
        d_model: int = 256,
        n_heads: int = 8,
        n_layers: int = 6,
        lang_dim: int = 128,
        action_dim: int = 7,
        *,
        channels: int = 3,
        fine_dim: int = 128,
        fine_layers: int = 0,
        action_chunk: int = 1,
        action_tokens: bool = False,
        pixel_stem: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(f"expected patch_size to divide img_size, got {patch_size} and {img_size}")
        self.patch_size, self.n_future, self.channels = patch_size, n_future, channels
        self.action_dim, self.action_chunk = action_dim, action_chunk
        self.side = img_size // patch_size
        self.outer_dim = fine_dim if fine_layers else d_model
        if fine_layers and self.side % 2:
            raise ValueError(f"expected an even number of patches a side for fine layers, got {self.side}")
        inner_side = self.side // 2 if fine_layers else self.side
        pixels = channels * patch_size**2
        self.embed = nn.Linear(pixels, self.outer_dim)
        self.given_to_future = nn.Linear(self.outer_dim, self.outer_dim)
        self.stem = PixelStem(self.side, self.outer_dim) if pixel_stem else None
        self.register_buffer("outer_positions", grid_positions(self.side, self.outer_dim), persistent=False)
        self.register_buffer("inner_positions", grid_positions(inner_side, d_model), persistent=False)
        self.text = nn.Sequential(nn.LayerNorm(lang_dim), nn.Linear(lang_dim, d_model))
        self.no_text = nn.Parameter(torch.zeros(1, 1, d_model))
        self.condition = nn.Sequential(nn.Linear(3 * 64, d_model), nn.SiLU(), nn.Linear(d_model, d_model))
        says_nothing = nn.Linear(d_model, d_model)  # at first: a trained net that is given one answers as before
        nn.init.zeros_(says_nothing.weight)
        nn.init.zeros_(says_nothing.bias)
        self.heard = nn.Sequential(nn.Linear(d_model, d_model), nn.SiLU(), says_nothing)
        self.time_outer = nn.Linear(64, self.outer_dim)
        fine_heads = max(fine_dim // 32, 1)
        self.text_outer = nn.Linear(d_model, self.outer_dim) if fine_layers else None
        self.fine_in = nn.ModuleList(
            DiTBlock(fine_dim, fine_heads, d_model, label=f"fine in {i + 1}", cross=cross) for i in range(fine_layers)
        )
        self.merge = nn.Linear(4 * fine_dim, d_model) if fine_layers else None
        self.time_inner = nn.Linear(64, d_model) if fine_layers else None
        self.blocks = nn.ModuleList(
            DiTBlock(d_model, n_heads, d_model, label=f"wide {i + 1}", cross=cross) for i in range(n_layers)
        )
        self.split = nn.Linear(d_model, 4 * fine_dim) if fine_layers else None
        self.fine_out = nn.ModuleList(
            DiTBlock(fine_dim, fine_heads, d_model, label=f"fine out {i + 1}", cross=cross) for i in range(fine_layers)
        )
        self.film_norm = AdaLayerNorm(self.outer_dim, d_model)
        self.film_head = nn.Linear(self.outer_dim, pixels)
        nn.init.zeros_(self.film_head.weight)
        nn.init.zeros_(self.film_head.bias)
        self.action_query = (
            nn.Parameter(0.02 * torch.randn(1, n_future, d_model)) if action_tokens and action_dim else None
        )
        width = 2 * d_model if self.action_query is not None else d_model
        self.action_head = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, d_model),
                nn.GELU(),
                nn.Linear(d_model, action_chunk * action_dim),
            )
            if action_dim
            else None
        )

    def patchify(self, frames: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, T * P, C * p * p)."""
        p = self.patch_size
        return rearrange(frames, "b t c (h p) (w q) -> b (t h w) (c p q)", p=p, q=p)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, T * P, C * p * p) -> (B, T, C, H, W)."""
        p, side = self.patch_size, self.side
        return rearrange(patches, "b (t h w) (c p q) -> b t c (h p) (w q)", h=side, w=side, p=p, q=p, c=self.channels)

    def layouts(self, text_tokens: int) -> tuple[TokenLayout, ...]:
        """The layout of every traced map's sequence, in the order of the maps."""
        fine = self._layout(text_tokens, self.side, with_actions=False)
        wide = self._layout(text_tokens, self.side // 2 if self.merge else self.side, with_actions=True)
        return (*[fine] * len(self.fine_in), *[wide] * len(self.blocks), *[fine] * len(self.fine_out))

    def laid_out(self, maps: Sequence[Tensor], text_tokens: int) -> list[Tensor]:
        """Traced maps (heads, queries, keys) of one call, their rows and columns as :meth:`layouts` says."""
        return list(maps)

    def _layout(self, text_tokens: int, side: int, with_actions: bool) -> TokenLayout:
        starts = [text_tokens + side * side * t for t in range(self.n_future + 2)]
        frames = tuple(range(a, b) for a, b in itertools.pairwise(starts))
        count = self.n_future if with_actions and self.action_query is not None else 0
        return TokenLayout(range(text_tokens), frames, range(starts[-1], starts[-1] + count), side)

    def _rows(self, layout: TokenLayout, device: torch.device) -> Tensor:
        """Which condition each token takes: row t of frame t, text as the given frame, action t as frame t."""
        rows = torch.zeros(len(layout), dtype=torch.long)
        for t, frame in enumerate(layout.frames):
            rows[frame.start : frame.stop] = t
        for t, token in enumerate(layout.actions):
            rows[token] = t + 1
        return rows.to(device)

    def encode_text(self, lang: Tensor, lang_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """lang (B, lang_dim) or (B, L, lang_dim), mask (B, L) bool -> tokens (B, 1 + L, d_model), mask.

        A learned token that stands for "no instruction" comes first, so that no row of attention is ever empty.
        """
        tokens = self.text(lang if lang.ndim == 3 else lang[:, None])
        if lang_mask is None:
            lang_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        tokens = torch.cat([self.no_text.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens, F.pad(lang_mask, (1, 0), value=True)

    def hidden(
        self,
        cond_frame: Tensor,
        noisy_futures: Tensor,
        timestep: Tensor,
        lang: Tensor,
        *,
        lang_mask: Tensor | None = None,
        times: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> tuple[Hidden, Tensor]:
        """Hidden states and the condition (B, 1 + n_future, d_model) of the frames; arguments as in ``forward``."""
        cond, moment = self._conditions(timestep, times, noisy_futures)
        text, visible = self.encode_text(lang, lang_mask)
        seen = visible[:, :, None]
        cond = cond + self.heard((text * seen).sum(dim=1) / seen.sum(dim=1))[:, None]
        return self._layers(self._places(cond_frame, noisy_futures, pixels), moment, cond, text, visible), cond

    def _layers(self, places: Tensor, moment: Tensor, cond: Tensor, text: Tensor, visible: Tensor) -> Hidden:
        """All layers over ``places`` (B, 1 + K, P, D), each frame's at its ``moment``, and the words ``text``."""
        x = places + self.time_outer(moment)[:, :, None]
        if self.merge is None:
            x, actions = self._wide(x, text, cond, visible)
            return Hidden(x[:, 1:], x[:, 1:].mean(dim=2), actions)
        layout = self._layout(text.shape[1], self.side, with_actions=False)
        rows, mask = self._rows(layout, x.device), self._visible(visible, layout)
        narrow = self.text_outer(text)  # type: ignore[misc]
        x = torch.cat([narrow, x.flatten(1, 2)], dim=1)
        for block in self.fine_in:
            x = block(x, cond, rows, mask)
        start = layout.frames[0].start
        wide, actions = self._wide(self._merged(x[:, start:], moment), text, cond, visible)
        x = torch.cat([x[:, :start], x[:, start:] + self._parted(wide)], dim=1)
        for block in self.fine_out:
            x = block(x, cond, rows, mask)
        patches = x[:, start:].unflatten(1, (self.n_future + 1, -1))[:, 1:]
        return Hidden(patches, wide[:, 1:].mean(dim=2), actions)

    def _conditions(self, timestep: Tensor, times: Tensor | None, futures: Tensor) -> tuple[Tensor, Tensor]:
        """Condition (B, 1 + K, d_model) and moment (B, 1 + K, 64) of the given frame, clean and now, and of futures."""
        batch, count, device = len(futures), self.n_future, futures.device
        if futures.shape[1] != count:
            raise ValueError(f"expected {count} future frames, got {futures.shape[1]}")
        if times is None:
            times = torch.arange(1, count + 1, device=device).expand(batch, -1)
        levels = timestep[:, None].expand(-1, count) if timestep.ndim == 1 else timestep
        moment = sinusoidal(F.pad(times.float(), (1, 0)), 64, longest=200.0)
        given = torch.zeros(batch, count + 1, 64, device=device)
        given[:, 0] = 1
        parts = [sinusoidal(F.pad(levels.float(), (1, 0)), 64), moment, given]
        return self.condition(torch.cat(parts, dim=-1)), moment

    def _places(self, given: Tensor, futures: Tensor, pixels: Tensor | None) -> Tensor:
        """Tokens (B, 1 + K, P, D) of the given frame's and the futures' places."""
        if (pixels is None) != (self.stem is None):
            raise ValueError("expected pixels exactly where the net has a pixel stem")
        x = self.embed(self.patchify(torch.cat([given[:, None], futures], dim=1)))
        x = x.unflatten(1, (self.n_future + 1, -1))
        first = x[:, :1]
        if self.stem is not None and pixels is not None:
            first = first + self.stem(pixels)[:, None]
        # Every future place starts out knowing what the given frame shows there (as AVDC and UniPi concatenate it):
        # finding the same place by attention first has to be learned, which takes longer than a short training.
        return torch.cat([first, x[:, 1:] + self.given_to_future(first)], dim=1) + self.outer_positions

    def _merged(self, x: Tensor, moment: Tensor) -> Tensor:
        """Places (B, T * P, fine_dim) at ``moment`` (B, T, 64) -> those of the wide layers, (B, T, P / 4, d_model)."""
        half = self.side // 2
        x = rearrange(x, "b (t h p w q) d -> b t (h w) (p q d)", t=moment.shape[1], h=half, p=2, w=half, q=2)
        return self.merge(x) + self.inner_positions + self.time_inner(moment)[:, :, None]  # type: ignore[misc]

    def _parted(self, wide: Tensor) -> Tensor:
        """What wide places (B, T, P / 4, d_model) add to the narrow ones, (B, T * P, fine_dim)."""
        half = self.side // 2
        back: Tensor = self.split(wide)  # type: ignore[misc]
        return rearrange(back, "b t (h w) (p q d) -> b (t h p w q) d", h=half, w=half, p=2, q=2)

    def _visible(self, text_visible: Tensor, layout: TokenLayout) -> Tensor | None:
        if bool(text_visible.all()):
            return None
        return F.pad(text_visible, (0, len(layout) - len(layout.text)), value=True)

    def _wide(self, x: Tensor, text: Tensor, cond: Tensor, visible: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, 1 + K, P, D) -> the same shape, and the action tokens (B, K, D) where the net has them."""
        frames, count = x.shape[1], x.shape[2]
        layout = self._layout(text.shape[1], int(count**0.5), with_actions=True)
        parts = [text, x.flatten(1, 2)]
        if self.action_query is not None:
            parts.append(self.action_query.expand(len(x), -1, -1) + cond[:, 1:])
        sequence, rows = torch.cat(parts, dim=1), self._rows(layout, x.device)
        mask = self._visible(visible, layout)
        for block in self.blocks:
            sequence = block(sequence, cond, rows, mask)
        start, stop = layout.frames[0].start, layout.frames[-1].stop
        actions = sequence[:, stop:] if self.action_query is not None else None
        return sequence[:, start:stop].unflatten(1, (frames, count)), actions

    def film(self, hidden: Hidden, cond: Tensor) -> Tensor:
        """The film head: (B, n_future * P, C * p * p)."""
        count = hidden.patches.shape[2]
        rows = torch.arange(1, self.n_future + 1, device=cond.device).repeat_interleave(count)
        return self.film_head(self.film_norm(hidden.patches.flatten(1, 2), cond, rows))

    def read(self, hidden: Hidden) -> Tensor:
        """What action heads read: (B, n_future, d_model), or twice as wide with action tokens."""
        return hidden.frames if hidden.actions is None else torch.cat([hidden.frames, hidden.actions], dim=-1)

    def act(self, hidden: Hidden) -> Tensor:
        """The action head: (B, n_future, A), or (B, n_future, chunk, A) for chunks of several actions."""
        if self.action_head is None:
            raise ValueError("expected a net with an action head (action_dim > 0), got one without")
        actions = self.action_head(self.read(hidden))
        return actions if self.action_chunk == 1 else actions.unflatten(-1, (self.action_chunk, self.action_dim))

    def forward(
        self,
        cond_frame: Tensor,
        noisy_futures: Tensor,
        timestep: Tensor,
        lang: Tensor,
        target_actions: Tensor | None = None,
        *,
        lang_mask: Tensor | None = None,
        times: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the future patches and, where ``target_actions`` says that they are wanted, the actions.

        Args:
            cond_frame: (B, C, H, W), clean.
            noisy_futures: (B, n_future, C, H, W).
            timestep: (B,) or (B, n_future), noise level in [0, 1000].
            lang: (B, lang_dim), or tokens (B, L, lang_dim) with ``lang_mask`` (B, L) bool.
            target_actions: present in joint training; only its presence counts here, the loss is the caller's.
            times: (B, n_future) control steps from the given frame; 1 ... n_future where None.
            pixels: (B, 3, H', W') of the given frame, for nets with a pixel stem.

        Returns:
            (B, n_future * P, C * p * p), and actions (B, n_future, A) (with chunks (B, n_future, chunk, A)) or None.
        """
        hidden, cond = self.hidden(
            cond_frame, noisy_futures, timestep, lang, lang_mask=lang_mask, times=times, pixels=pixels
        )
        return self.film(hidden, cond), None if target_actions is None else self.act(hidden)
