"""Arrays -> what a page shows: looping films, strips, heat maps over frames, and charts. Knows no page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from html import escape
from typing import Any

import av
import numpy as np
import plotly.graph_objects as go
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vidvla.look import HeatMap, LayerMass
from vidvla.types import Rollout
from vidvla.views import Quality
from vidvla.worlds.base import ActionSpec, Frame

SIDE = 384
"""Side of films and pictures on the page, pixels."""
SLOWDOWN = 2
"""Films play this many times slower than the robot moves."""
HOLD = 6
"""Ticks that a film rests on its last frame before it loops."""

COLOURS = ("#3b82f6", "#f97316", "#8b5cf6", "#10b981", "#ec4899", "#eab308", "#06b6d4", "#ef4444", "#84cc16")
"""One a family, in the order of the columns, or a policy; the tenth starts over."""
TRUE_COLOUR = "#8b94a3"
Share = tuple[float, float, float]
"""A value with the ends of its interval."""
INK, GRID = "#8b94a3", "rgba(139,148,163,0.18)"
"""Text and lines of charts, readable on light and dark pages."""
HEAT: NDArray[np.float32] = np.asarray(
    [(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float32
)
"""Anchors of matplotlib's plasma, low to high."""
PALETTE: NDArray[np.float32] = np.stack(
    [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(HEAT)), HEAT[:, c]) for c in range(3)], axis=1
).astype(np.float32)
"""The same in 256 steps."""


def enlarge(frame: Frame, side: int = SIDE) -> Frame:
    """A frame ``side`` pixels high (Lanczos)."""
    height, width = frame.shape[:2]
    if height == side:
        return frame
    return np.asarray(Image.fromarray(frame).resize((side * width // height, side), Image.Resampling.LANCZOS))


def shown_at(times: Sequence[int], moment: int) -> int:
    """Index of the frame that a film shows at ``moment``: the latest until then, or else the first."""
    return max((i for i, time in enumerate(times) if time <= moment), default=0)


def timeline(first: Frame, rollout: Rollout, horizon: int) -> list[Frame]:
    """One frame a control step, 0 to ``horizon``: the given one, then each predicted one until the next."""
    shown = [first]
    for tick in range(1, horizon + 1):
        known = [f for f, t in zip(rollout.frames, rollout.times, strict=True) if t <= tick]
        shown.append(known[-1] if known else first)
    return shown


FILM_SIDE = 256
"""Pixels of a film's height: two of the simulator's a pixel, and a third of the stills' work for the encoder."""


def film_bytes(frames: Sequence[Frame], steps_per_second: float, hold: int = HOLD, slowdown: float = SLOWDOWN) -> bytes:
    """A film as mp4 (H.264, yuv420p: what browsers play), one frame a control step, slowed down.

    Args:
        frames: (H, W, 3) uint8 each, of one aspect ratio and any sizes.
        steps_per_second: control steps a second of the world.
        hold: how often the last frame is repeated.
    """
    buffer = io.BytesIO()
    rate = Fraction(steps_per_second / slowdown).limit_denominator(1000)
    height, width = frames[0].shape[:2]
    width, height = 2 * round(FILM_SIDE * width / height / 2), FILM_SIDE
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "ultrafast"})
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        resize = VideoReformatter()  # a frame's own begins anew with every frame, which takes twelve times as long
        for frame in [*frames, *[frames[-1]] * hold]:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(resize.reformat(shown, width, height, "yuv420p", interpolation="LANCZOS")))
        container.mux(stream.encode())
    return buffer.getvalue()


def strip(rows: Sequence[Sequence[Frame]], side: int = 112, gap: int = 4) -> Frame:
    """Rows of frames in one picture with see-through gaps, (H, W, 4) uint8; all rows equally long."""
    height, width = (len(rows) * (side + gap) - gap), (len(rows[0]) * (side + gap) - gap)
    sheet = np.zeros((height, width, 4), np.uint8)
    for r, row in enumerate(rows):
        for c, frame in enumerate(row):
            top, left = r * (side + gap), c * (side + gap)
            sheet[top : top + side, left : left + side, :3] = enlarge(frame, side)
            sheet[top : top + side, left : left + side, 3] = 255
    return sheet


def most_changed(before: Frame, after: Frame, cells: int = 16) -> tuple[float, float]:
    """(row, column) in [0, 1] of the place where two frames differ the most: what moved."""
    change = np.abs(enlarge(after, 128).astype(np.float32) - enlarge(before, 128).astype(np.float32)).mean(axis=2)
    blocks = change.reshape(cells, 128 // cells, cells, 128 // cells).mean(axis=(1, 3))
    row, column = np.unravel_index(int(blocks.argmax()), blocks.shape)
    return (float(row) + 0.5) / cells, (float(column) + 0.5) / cells


def mark(frame: Frame, place: tuple[float, float]) -> Frame:
    """The frame, enlarged, with a ring around a place (row, column) in [0, 1]."""
    image = Image.fromarray(enlarge(frame))
    draw = ImageDraw.Draw(image)
    y, x = place[0] * SIDE, place[1] * SIDE
    for radius, colour, width in ((17, (0, 0, 0), 7), (16, (255, 255, 255), 4)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return np.asarray(image)


def overlay(frame: Frame, heat: HeatMap, top: float | None = None) -> Frame:
    """A heat map over a frame, enlarged: bilinear, smallest value see-through, largest one bright.

    Args:
        top: the brightest value, with 0 see-through, so that several maps compare; their own ends where None.
    """
    low, high = (float(heat.min()), float(heat.max())) if top is None else (0.0, top)
    level = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    smooth = Image.fromarray(level.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(smooth), 0, 1)
    colours = PALETTE[np.round(255 * values).astype(np.uint8)]
    grey = enlarge(frame).mean(axis=2, keepdims=True)
    weight = (0.25 + 0.6 * values)[:, :, None]
    return np.round(grey * (1 - weight) + colours * weight).clip(0, 255).astype(np.uint8)


def _axis(**more: Any) -> dict[str, Any]:
    """House style of an axis: quiet lines, no dragging."""
    return {
        "gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": False, "fixedrange": True, **more,
    }  # fmt: skip


def _layout(height: int, margin: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """House style of every chart: see-through, small letters."""
    return {
        "height": height, "margin": {"l": 34, "r": 8, "t": 22, "b": 30, **(margin or {})}, "dragmode": False,
        "showlegend": False, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 11, "color": INK}, "hoverlabel": {"font": {"size": 11}},
        "template": None, **more,
    }  # fmt: skip


def _plain(figure: go.Figure, height: int) -> None:
    """Give a chart that was built part by part the house's style."""
    figure.update_layout(_layout(height))
    figure.update_xaxes(_axis())
    figure.update_yaxes(_axis())


def _title(text: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    """A line over one of several charts, whose upper edge is at ``y``."""
    style = {"font": {"size": 11, "color": INK}, "showarrow": False, "xref": "paper", "yref": "paper", "yshift": 2}
    return {"text": text, "x": x, "y": y, "yanchor": "bottom", **style, **more}


def _curve(name: str, seconds: Sequence[float], values: Sequence[float | None], line: dict[str, Any]) -> dict[str, Any]:
    """A curve over time."""
    return {
        "type": "scatter", "x": list(seconds), "y": list(values), "name": name, "line": {"width": 2, **line},
        "hovertemplate": f"%{{y}} at %{{x:.2f}} s<extra>{name}</extra>",
    }  # fmt: skip


# Whole figures are handed to plotly as one dictionary: built part by part it checks each part over and over, a tenth of
# a second for the actions, and a page of eight families shows many.


def actions_figure(
    spec: ActionSpec,
    steps_per_second: float,
    curves: Sequence[tuple[str, str, NDArray[np.float32]]],
    truth: NDArray[np.float32] | None = None,
    band: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> go.Figure:
    """Small charts, one an axis of the action in its unit, over time; an action is held for a control step.

    Args:
        curves: (name, colour, (N, A) actions); the first solid, further ones dashed.
        truth: the expert's (N, A), dotted.
        band: lowest and highest (N, A) of the first curve's other draws, shaded in its colour.
    """
    titles = [f"<b>{name}</b>  {unit}" for name, unit in zip(spec.names, spec.units, strict=True)]
    drawn = [(name, {"color": colour, "dash": "dash"}, values) for name, colour, values in curves]
    drawn[0][1]["dash"] = "solid"
    if truth is not None:
        drawn.insert(0, ("truth", {"color": TRUE_COLOUR, "dash": "dot"}, truth))
    gap = 0.32 / len(spec)
    height = (1 - gap * (len(spec) - 1)) / len(spec)
    layout = _layout(52 + 68 * len(spec), annotations=[])
    layout["xaxis"] = _axis(title={"text": "seconds", "standoff": 2}, anchor=f"y{len(spec)}" if len(spec) > 1 else "y")
    data = []
    for axis, title in enumerate(titles):
        top, which = 1 - axis * (height + gap), str(axis + 1) if axis else ""
        margin = 0.08 * (spec.high[axis] - spec.low[axis])
        limits = [spec.low[axis] - margin, spec.high[axis] + margin]
        layout[f"yaxis{which}"] = _axis(range=limits, nticks=3, domain=[max(top - height, 0.0), top])
        layout["annotations"].append(_title(title, 0, top, xanchor="left"))
        for edge, fill in zip(band or (), (None, "tonexty"), strict=False):
            outline = {"width": 0, "shape": "hv", "color": curves[0][1]}
            shade = _curve("seeds", *_held(edge[:, axis], steps_per_second), outline)
            shade |= {"mode": "lines", "fill": fill, "opacity": 0.5, "hoverinfo": "skip", "yaxis": f"y{which}"}
            data.append(shade)
        for name, line, values in drawn:
            curve = _curve(name, *_held(values[:, axis], steps_per_second), {**line, "shape": "hv"})
            data.append({**curve, "mode": "lines", "yaxis": f"y{which}"})
    return go.Figure({"data": data, "layout": layout})


def _held(values: NDArray[np.float32], steps_per_second: float) -> tuple[list[float], list[float]]:
    """Seconds and values of something that is held for a control step each."""
    held = np.append(values, values[-1:]).astype(float).round(3)
    return (np.arange(len(held)) / steps_per_second).round(4).tolist(), held.tolist()


def quality_figure(quality: Quality, colour: str, steps_per_second: float) -> go.Figure:
    """PSNR and SSIM of each predicted frame, with copying the first frame dashed beside it."""
    seconds = [round(t / steps_per_second, 4) for t in quality.times]
    rows = (("PSNR</b>  dB", quality.psnr, quality.psnr_copy), ("SSIM</b>", quality.ssim, quality.ssim_copy))
    width, data, layout = 0.435, [], _layout(170, annotations=[])
    for index, (title, own, copied) in enumerate(rows):
        left, which = index * (1 - width), str(index + 1) if index else ""
        layout[f"xaxis{which}"] = _axis(
            title={"text": "seconds", "standoff": 2},
            rangemode="tozero",
            domain=[left, left + width],
            anchor=f"y{which}",
        )
        layout[f"yaxis{which}"] = _axis(nticks=4, anchor=f"x{which}")
        layout["annotations"].append(_title(f"<b>{title}", left + width / 2, 1, xanchor="center"))
        pairs = (
            ("copying the first frame", copied, {"color": TRUE_COLOUR, "dash": "dot"}),
            ("prediction", own, {"color": colour}),
        )
        for name, values, line in pairs:
            finite = [round(v, 3) if np.isfinite(v) else None for v in values]
            curve = _curve(name, seconds, finite, line)
            data.append(
                {**curve, "mode": "lines+markers", "marker": {"size": 5}, "xaxis": f"x{which}", "yaxis": f"y{which}"}
            )
    return go.Figure({"data": data, "layout": layout})


def agreement_figure(points: Sequence[tuple[str, Share, Share]]) -> go.Figure:
    """Success in a dream over success in the simulator, one point a policy; on the dashed line both are equal.

    Args:
        points: (name, in the simulator, in the dream), each (value, low, high) in [0, 1].
    """
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"color": INK, "width": 1, "dash": "dash"}, hoverinfo="skip"
    )
    for index, (name, real, dream) in enumerate(points):
        colour, (x, y) = COLOURS[index % len(COLOURS)], ([round(100 * v, 1) for v in share] for share in (real, dream))
        bars = [
            {"type": "data", "array": [v[2] - v[0]], "arrayminus": [v[0] - v[1]], "thickness": 1, "width": 3}
            for v in (x, y)
        ]
        figure.add_scatter(
            x=x[:1], y=y[:1], error_x=bars[0], error_y=bars[1], mode="markers", name=name,
            marker={"color": colour, "size": 9},
            hovertemplate=f"dream {y[0]:.0f} %, simulator {x[0]:.0f} %<extra>{escape(name)}</extra>",
        )  # fmt: skip
    _plain(figure, 330)
    figure.update_layout(margin={"l": 52, "r": 8, "t": 8, "b": 38})
    for update, where in ((figure.update_xaxes, "simulator"), (figure.update_yaxes, "dream")):
        update(range=[-4, 104], nticks=6, ticksuffix=" %", title={"text": f"success in the {where}", "standoff": 4})
    return figure


EVOLVING = (("best", "best in the dream", "#3b82f6"), ("mean", "mean in the dream", "#93c5fd"))
CHECKED = ("real", "simulator, training layouts", "#f97316")


def evolution_figure(rows: Sequence[dict[str, Any]], chosen: int | None) -> go.Figure:
    """Scores over generations: candidates in the dream as lines, checks in the simulator as points.

    Args:
        rows: ``generation`` and the scores in [0, 1] that are known of it.
        chosen: generation to mark.
    """
    figure = go.Figure()
    if chosen is not None:
        figure.add_vline(x=chosen, line={"color": INK, "width": 1, "dash": "dot"})
    for key, name, colour in (*EVOLVING, CHECKED):
        known = [row for row in rows if key in row]
        style: dict[str, Any] = {"mode": "lines", "line": {"color": colour, "width": 2}}
        if key == CHECKED[0]:
            style = {"mode": "markers", "marker": {"color": colour, "size": 7}}
        figure.add_scatter(
            x=[row["generation"] for row in known], y=[row[key] for row in known], name=name, **style,
            hovertemplate=f"%{{y:.3f}} in generation %{{x}}<extra>{name}</extra>",
        )  # fmt: skip
    _plain(figure, 210)
    figure.update_layout(margin={"l": 40, "r": 8, "t": 8, "b": 34})
    figure.update_xaxes(title={"text": "generation", "standoff": 2}, tickformat="d")
    figure.update_xaxes(**({"dtick": 1} if len(rows) <= 8 else {"nticks": 7}))  # no ticks between generations
    highest = max((row[key] for row in rows for key, *_ in (*EVOLVING, CHECKED) if key in row), default=0.0)
    figure.update_yaxes(range=[0, 1.1 * highest or 1], nticks=5)
    return figure


SHARES = (("own frame", "#3b82f6"), ("other frames", "#10b981"), ("text", "#f59e0b"), ("actions", "#8b5cf6"))


def mass_figure(masses: Sequence[LayerMass]) -> go.Figure:
    """How each layer's future-frame tokens share their attention out: one bar a layer."""
    values = ([m.within for m in masses], [m.across for m in masses], [m.text for m in masses],
              [m.actions for m in masses])  # fmt: skip
    names = [m.layer for m in masses]
    data = [
        {
            "type": "bar", "y": names, "x": [round(100 * v, 2) for v in row], "name": share, "orientation": "h",
            "marker": {"color": colour}, "hovertemplate": f"%{{x:.1f}} % on {share}<extra>%{{y}}</extra>",
        }
        for (share, colour), row in zip(SHARES, values, strict=True) if max(row) >= 1e-6
    ]  # fmt: skip
    left = max(70, 12 + 6 * max(map(len, names)))
    layout = _layout(
        32 + 19 * len(masses), {"l": left, "r": 22, "t": 4, "b": 24}, barmode="stack", bargap=0.35,  # half of "100 %"
        xaxis=_axis(range=[0, 100], ticksuffix=" %", nticks=5), yaxis=_axis(autorange="reversed", showgrid=False),
    )  # fmt: skip
    return go.Figure({"data": data, "layout": layout})
