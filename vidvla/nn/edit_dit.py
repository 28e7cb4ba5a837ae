"""A picture edited as told: the given frame in the channels, the instruction by cross-attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vidvla.nn.video_dit import Hidden, VideoActionDiT
from vidvla.types import TokenLayout


class EditDiT(VideoActionDiT):
    """One future frame as an edit of the given one (InstructPix2Pix, Brooks et al. 2023, arXiv 2211.09800).

    The given frame is no part of the sequence: at every place it is added to the future frame's embedding, as channels
    side by side under one linear map would be. The instruction is looked at by cross-attention. So there are fewer than
    half of a film net's tokens, while every weight that the two have in common has the same name and meaning: an edit
    can begin with what a film net learned. Cross-attention starts at zero then.

    Args:
        img_size: side of the frames, in pixels or in latents.
        d_model: width of the wide layers.
        n_heads: heads of the wide layers.
        n_layers: number of the wide layers.
        lang_dim: width of the instruction's tokens.
        channels: channels of a frame.
        fine_dim: width of the narrow layers.
        fine_layers: narrow layers on either side of the wide ones; 0 for none.
    """

    def __init__(
        self,
        img_size: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        lang_dim: int,
        *,
        channels: int,
        fine_dim: int,
        fine_layers: int,
    ) -> None:
        super().__init__(
            img_size, 1, 1, d_model, n_heads, n_layers, lang_dim, 0, channels=channels, fine_dim=fine_dim,
            fine_layers=fine_layers, pixel_stem=True, cross=True,
        )  # fmt: skip

    def _layers(self, places: Tensor, moment: Tensor, cond: Tensor, text: Tensor, visible: Tensor) -> Hidden:
        """Over the future frame's places alone, which look at the words; there are no action tokens."""
        x, moment, now = places[:, 1], moment[:, 1:], cond[:, 1]
        x = x + self.time_outer(moment)
        if self.merge is None:
            for block in self.blocks:
                x = block(x, now, memory=text, memory_visible=visible)
            return Hidden(x[:, None], x.mean(dim=1, keepdim=True), None)
        narrow = self.text_outer(text)  # type: ignore[misc]
        for block in self.fine_in:
            x = block(x, now, memory=narrow, memory_visible=visible)
        wide = self._merged(x, moment)[:, 0]
        for block in self.blocks:
            wide = block(wide, now, memory=text, memory_visible=visible)
        x = x + self._parted(wide[:, None])
        for block in self.fine_out:
            x = block(x, now, memory=narrow, memory_visible=visible)
        return Hidden(x[:, None], wide.mean(dim=1, keepdim=True), None)

    def layouts(self, text_tokens: int) -> tuple[TokenLayout, ...]:
        """Two a layer: places look at each other, then at the words."""
        return tuple(layout for layout in super().layouts(text_tokens) for _ in range(2))

    def _layout(self, text_tokens: int, side: int, with_actions: bool) -> TokenLayout:
        """The words, and places that hold both frames, the given one in their channels."""
        places = range(text_tokens, text_tokens + side * side)
        return TokenLayout(range(text_tokens), (places, places), range(places.stop, places.stop), side)

    def laid_out(self, maps: Sequence[Tensor], text_tokens: int) -> list[Tensor]:
        """Words look at nothing; places at places in one map of a layer, at words in the next."""
        before = (text_tokens, 0)
        return [
            F.pad(one, (0, one.shape[-2], *before) if index % 2 else (*before, *before))
            for index, one in enumerate(maps)
        ]  # fmt: skip
