"""Gradio's blocks, without what they cost a page of many parts, and with every value whole."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr


class Blocks(gr.Blocks):  # type: ignore[misc]  # Gradio's types are not read
    """Blocks whose handlers pay for the parts that they name alone.

    A handler that answers with a dictionary leaves most of its outputs as they are. Gradio builds each of these anew
    all the same, with the schema of its interface: .7 ms a part and answer, seconds for a question to eight families.

    And what a streaming handler shows is sent whole, not as changes to what came before. Gradio's page applies changes
    to the very object that a picture, film or plot still waits to be drawn from: where the next answer comes before
    that, on a busy machine or from quick families, it would stay empty for good.
    """

    def handle_streaming_diffs(
        self, block_fn: Any, data: list[Any], session_hash: str | None, run: str | None, final: bool,
        simple_format: bool = False,
    ) -> list[Any]:  # fmt: skip
        known = self.pending_diff_streams.get(session_hash, {}).get(run)
        told: list[Any] = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format)
        if known is None or final or simple_format:  # these are whole anyway
            return told
        return [[["replace", [], known[i]]] if changes else [] for i, changes in enumerate(told)]

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
