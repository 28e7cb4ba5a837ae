"""Gradio's blocks, without what they cost a page of many parts."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr


class Blocks(gr.Blocks):  # type: ignore[misc]  # Gradio's types are not read
    """Blocks whose handlers pay for the parts that they name alone.

    A handler that answers with a dictionary leaves most of its outputs as they are. Gradio builds each of these anew
    all the same, with the schema of its interface: .7 ms a part and answer, seconds for a question to eight families.
    """

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        parts = predictions if isinstance(predictions, dict) else {}
        named = [index for index, part in enumerate(block_fn.outputs) if part in parts]
        if len(named) < len(parts) or not named:  # no dictionary of parts, or one that Gradio refuses
            return await super().postprocess_data(block_fn, predictions, state)
        alone = copy.copy(block_fn)
        alone.outputs = [block_fn.outputs[index] for index in named]
        answers: list[Any] = [gr.skip()] * len(block_fn.outputs)
        shown = await super().postprocess_data(alone, predictions, state)
        for index, value in zip(named, shown, strict=True):
            answers[index] = value
        return answers
