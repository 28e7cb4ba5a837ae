"""What a column shows beside one answer: its controls, the film taking shape, other seeds, another instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from app import pictures, show, words
from app.driving import ERROR_TOP, SPREAD_TOP
from app.session import Answer
from vidvla.drive import difference, spread
from vidvla.types import DENOISING_STEPS, Control, Rollout
from vidvla.views import FamilyInfo
from vidvla.worlds.base import Frame

INHERITED = "as in Sampling"
FORMED = 4
"""Frames of a film that are shown after each denoising step."""
SAME = "It answers the same with every seed."


def open_slider(low: float, high: float, value: float, **more: Any) -> gr.Slider:
    """A slider that passes on whatever comes through the API: the question is checked as a whole, and names ranges."""
    slider = gr.Slider(low, high, value, buttons=[], **more)
    slider.preprocess = lambda payload: payload
    return slider


def open_number(value: float, label: str, **more: Any) -> gr.Number:
    """A field for a whole number that passes on whatever comes, as :func:`open_slider` does."""
    number = gr.Number(value, label=label, precision=0, **more)
    number.preprocess = lambda payload: payload
    return number


def build_sampling() -> dict[str, Any]:
    """How an answer is drawn: its steps, its guidance and its noise."""
    return {
        "steps": open_slider(1, 16, DENOISING_STEPS, step=1, label="Denoising steps", info="1 shows the mean future"),
        "guidance": open_slider(
            0, 5, 1, step=0.25, label="Guidance", info="weight of the instruction, unless a family has its own"
        ),
        "noise_seed": open_number(0, "Noise seed"),
    }


def build_control(control: Control) -> Any:
    """The component of one control; empty where it is left alone and the panel's value holds."""
    about: Any = {"label": control.label, "info": control.info or None, "min_width": 100}
    if control.choices:
        return gr.Radio(list(control.choices), value=control.default or control.choices[0], **about)
    if control.default is None:  # a number field cannot be empty
        return gr.Textbox("", placeholder=INHERITED, lines=1, max_lines=1, **about)
    return open_slider(control.low, control.high, float(control.default), step=control.step, **about)


def build_controls(info: FamilyInfo) -> dict[str, Any]:
    """A family's own controls in a fold, by the name that a request knows them by."""
    if not info.controls:
        return {}
    with gr.Accordion("Controls", open=False, elem_classes="vv-controls"):
        return {f"{info.name}.{control.name}": build_control(control) for control in info.controls}


def read_control(part: Any, value: float | str | None) -> float | str | None:
    """What a control's component says: None where it is left alone, a number where one was written."""
    if not isinstance(part, gr.Textbox) or not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


# a film that takes shape


def forming(films: Sequence[Frame], done: bool = False) -> str:
    """One row a denoising step, of frames (K, H, W, 3) spread over the film; in a fold once it is done.

    Films may grow on the way: a frame is as wide in every row, and takes at most half of it.
    """
    if not films:
        return ""
    rows, across = [], min(FORMED, max(2, *map(len, films)))
    for step, film in enumerate(films, 1):
        picked = sorted({round(i) for i in np.linspace(0, len(film) - 1, min(FORMED, len(film)))})
        row = np.concatenate([show.enlarge(film[i], 96) for i in picked], axis=1)
        shown = pictures.image(row, f"after denoising step {step}")
        rows.append(f'<li style="--part: {len(picked) / across:g}"><span>{step}</span>{shown}</li>')
    listed = f"<ol>{''.join(rows)}</ol>"
    if not done:
        return f'<div class="vv-forming">{listed}</div>'
    return f'<details class="vv-forming"><summary>Denoising, step by step</summary>{listed}</details>'


def formed(films: Sequence[Frame], rollout: Rollout) -> str:
    """:func:`forming` of ``films`` on the way and what they ended as, which the answer shows."""
    if not films:
        return ""
    last, target = rollout.frames, aim(rollout)
    if target is not None:
        last = target[None]
    every = max(1, len(last) // len(films[-1]))  # frames that were filled in were not denoised with the others
    return forming([*films, last[every - 1 :: every]], done=True)


def aim(rollout: Rollout) -> Frame | None:
    """The target image of a family whose own that is: not where it is a frame of its film."""
    return rollout.target if rollout.dreamed_by or not len(rollout.frames) else None


# other seeds, another instruction


def at(rollout: Rollout, moment: int) -> Frame:
    """The frame that a film shows at a control step."""
    return rollout.frames[show.shown_at(rollout.times, moment)]


def band(answer: Answer) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Lowest and highest actions (N, A) over all seeds; None where one seed was asked or none are predicted."""
    actions = [r.actions for r in (answer.rollout, *answer.seeds) if r.actions is not None]
    if len(actions) < 2:
        return None
    every = np.stack(actions)
    return every.min(axis=0), every.max(axis=0)


def over_seeds(answer: Answer, moment: int) -> str:
    """How far the answers of several seeds part, place by place, at a control step; empty for one seed."""
    rollouts = (answer.rollout, *answer.seeds)
    if len(rollouts) < 2:
        return ""
    edges, moves = band(answer), 0.0
    if edges is not None:
        moves = float(np.abs(edges[1] - edges[0]).max())
    shown = ""
    spreads: list[NDArray[np.float32]] = []
    targets = [target for target in map(aim, rollouts) if target is not None]
    for kind, frames in (
        ("target: ", targets),
        ("", [at(rollout, moment) for rollout in rollouts if len(rollout.frames)]),
    ):
        if len(frames) < 2:
            continue
        parted, mean = spread(np.stack(frames)), np.stack(frames).astype(np.float32).mean(axis=0)
        spreads.append(parted)
        heat = pictures.heat(parted, SPREAD_TOP)
        shown += pictures.stills(
            [(f"{kind}mean", np.round(mean).astype(np.uint8)), (f"{kind}spread, 0 to {SPREAD_TOP:.0f}", heat)]
        )
    if not shown:
        said = SAME if moves == 0 else "How far its actions part is the band in their plot."
        return words.heading(f"Over {len(rollouts)} seeds") + words.message(said, "quiet")
    same = moves == 0 and not any(parted.any() for parted in spreads)
    hint = SAME if same else f"spread {spreads[0].mean():.1f} of 255 on average"
    return words.heading(f"Over {len(rollouts)} seeds", hint) + shown


def what_if(answer: Answer, moment: int) -> str:
    """What both instructions lead to at a control step, and where that differs; empty where one was asked."""
    if answer.other is None:
        return ""
    shown, hint = "", ""
    own, other = aim(answer.rollout), aim(answer.other)
    pairs = [] if own is None or other is None else [("target: ", own, other)]
    if len(answer.rollout.frames):
        pairs.append(("", at(answer.rollout, moment), at(answer.other, moment)))
    for kind, frame, instead in pairs:
        apart = difference(frame, instead)
        hint = hint or f"{kind}differs by {apart.mean():.1f} of 255 on average"
        shown += pictures.stills([
            (f"{kind}“{answer.request.instruction.strip()}”", frame), (f"{kind}“{answer.instead}”", instead),
            (f"{kind}difference, 0 to {ERROR_TOP:.0f}", pictures.heat(apart, ERROR_TOP)),
        ])  # fmt: skip
    if not shown:
        said = "Both instructions' actions are in the plot, the other one's dashed."
        return words.heading("What if", f"“{answer.instead}”") + words.message(said, "quiet")
    return words.heading("What if", hint) + shown
