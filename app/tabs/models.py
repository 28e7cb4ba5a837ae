"""Models: what each family is, what it was trained with, and what was measured of it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import show, words
from vidvla.checkpoint import ASSETS
from vidvla.service import HORIZON, Service
from vidvla.views import FamilyInfo

BENCHMARKS = ASSETS / "benchmarks"
PUBLISHED = "published.json"
LIMITS = (
    "All families know one simulated arm (Meta-World's Sawyer), one camera, and {count} tasks; "
    "a film covers {steps} control steps, one second.",
    "Instructions are English; a phrasing far from those trained on may be read as another task.",
    "Films of another robot, room or camera are outside of what was learned, and the page says so.",
)
FACTS = {"seconds_per_film": "An answer takes", "core_hours_trained": "CPU core-hours trained"}
"""Metrics that are facts of a family rather than results on scenes, as its card says them."""
NAMED = {
    "success": "Success", "replans": "Replans an episode", "understood": "Held-out phrasings understood",
    "told_apart": "Instructions told apart", "error_cm": "Actions read from a true film, off by",
    "gripper_agreement": "Gripper read right from a true film",
    "psnr_mean": "PSNR over 192 dreamed steps", "ssim_mean": "SSIM over 192 dreamed steps",
    "lpips_mean": "LPIPS over 192 dreamed steps", "hand_cm": "Hand after 16 random actions, off by",
    "psnr": "PSNR after 16 random actions", "pearson": "Policies ranked in the dream, Pearson r",
    "spearman": "Policies ranked in the dream, rank correlation",
    "success_dream": "Success of planning to a goal picture", "steps_per_second": "Steps a second, driven",
    "drive_steps_per_second": "Steps a second, driven on the page beside the simulator",
    "real_score": "Score of the evolved controller", "real_success": "Success of the evolved controller",
}  # fmt: skip
"""What a card says of a family, by metric, besides a film's last frame; the README has all the others."""
AHEAD = re.compile(r"(?P<measure>psnr|ssim)_(?P<kind>[th])(?P<at>\d+)")
"""Metrics of one picture: frame ``t1``, ``t2`` ... of a film, or the image of a horizon ``h8``, ``h16`` ..."""
UNITLESS = ("1", "count", "1/s")
"""Units that are not written: there are none, or a metric's name says them."""
NOTHING_MEASURED = "Nothing is measured of this family yet."

log = logging.getLogger(__name__)
Row = dict[str, Any]


def read_rows(folder: Path) -> list[Row]:
    """The rows of every figure file in ``folder``; a damaged file is left out, and the log says so."""
    found = [row for path in sorted(folder.glob("*.json")) for row in read_figures(path).get("rows", [])]
    return [row for row in found if {"family", "task", "metric", "value", "unit", "n"} <= set(row)]


def read_figures(path: Path) -> dict[str, Any]:
    """One figure file, or an empty one where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("%s holds no figures: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def published(folder: Path) -> str:
    """What others published on the same tasks, with why it is not the same measurement."""
    figures = read_figures(folder / PUBLISHED) if (folder / PUBLISHED).is_file() else {}
    rows = [
        (one["name"], f"{one['success']['all']:.1f} %", one["source"])
        for one in figures.get("closed_loop", [])
        if "all" in one.get("success", {})
    ]
    if not rows:
        return ""
    note = escape(figures.get("note", ""))
    return f'<section class="vv-published"><h3>Published elsewhere</h3><p>{note}</p>{_table(list(rows))}</section>'


def value_text(row: Row, unit: bool = True) -> str:
    """A figure, with its unit where that is asked for: 51 %, 21.3 dB."""
    if row["unit"] == "share":
        return f"{100 * row['value']:.0f} %"
    return f"{row['value']:.3g}" + (f" {row['unit']}" if unit and row["unit"] not in UNITLESS else "")


def interval_text(row: Row) -> str:
    """A figure's 95 % interval, and how many trials are behind it."""
    trials = f"n = {row['n']}"
    if row.get("low") is None or row.get("high") is None:
        return trials
    low, high = (value_text({**row, "value": row[end]}, unit=end == "high") for end in ("low", "high"))
    return f"{low} to {high}, {trials}"


def summary_rows(rows: list[Row], family: str) -> Iterator[tuple[str, str, str]]:
    """(what, figure, interval) of a family over all tasks; of a film's frames only the last, beside copying.

    Of a family without a film, it is the target image that is furthest ahead.
    """
    own = {row["metric"]: row for row in rows if row["family"] == family and row["task"] == "all"}
    found = [(m["kind"], int(m["at"])) for name in own if (m := AHEAD.fullmatch(name))]
    kind = "t" if any(kind == "t" for kind, _ in found) else "h"
    last = max((at for of, at in found if of == kind), default=0)
    what = "the last frame" if kind == "t" else f"the image {last} steps ahead"
    for name, row in own.items():
        if name in NAMED:
            yield NAMED[name], value_text(row), interval_text(row)
        elif (m := AHEAD.fullmatch(name)) and (m["kind"], int(m["at"])) == (kind, last):
            copied = own.get(f"{m['measure']}_copy_{kind}{last}")
            beside = "" if copied is None else f"; copying the first frame {value_text(copied)}"
            yield f"{m['measure'].upper()} of {what}", value_text(row), interval_text(row) + beside


def task_rows(rows: list[Row], family: str) -> list[tuple[str, str, str]]:
    """(task, success, interval) of a family."""
    own = [r for r in rows if r["family"] == family and r["metric"] == "success" and r["task"] != "all"]
    return [(row["task"], value_text(row), interval_text(row)) for row in own]


def training(trained: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(phase, how long and on what) of every training record."""
    for record in trained:
        plan, data = record["train"], record.get("data", {})
        seen = "".join(f", {count:,} {what}" for what, count in data.items())
        text = f"{plan['steps']} steps of {plan['batch']} samples{seen}"
        threads = f"{record['threads']} CPU thread{'s' if record['threads'] != 1 else ''}"
        yield record["phase"], f"{text}; {record['seconds'] / 60:.0f} min on {threads}"


def abilities(info: FamilyInfo) -> str:
    """What a family gives, as chips."""
    given = [("film", info.films), ("actions", info.acts), ("attention", info.attends)]
    given += [("target image", True)] if info.targets else []
    return "".join(f'<span class="vv-{"can" if able else "cannot"}">{name}</span>' for name, able in given)


def limits(info: FamilyInfo) -> list[str]:
    """What a family cannot do, from its flags."""
    if info.targets and not info.films:
        found = ["It predicts one image and no film: the film that is shown is dreamed from its actions."]
    else:
        found = [] if info.films else ["It predicts no film, so it cannot be compared frame by frame."]
    found += [] if info.acts else ["It predicts no actions, so it cannot be executed."]
    return found + ([] if info.attends else ["It has no attention to look at."])


def _table(rows: list[tuple[str, ...]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{cells}</table>"


def card(service: Service, info: FamilyInfo, rows: list[Row], colour: str) -> str:
    """One family's card."""
    parts = [words.family_head(info, colour), f'<p class="vv-by">{escape(info.source)}</p>']
    parts.append(f'<div class="vv-abilities">{abilities(info)}</div>')
    if info.differs:
        parts.append(f"<p>{escape(info.differs)}</p>")
    weights, problem = "", info.problem
    try:
        weights = words.count(service.parameters(info.name)) if problem is None else ""
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        parts.append(words.message(f"{info.title}: {problem}.", "note"))
    facts = [("Weights", weights)] if weights else []
    own = [row for row in rows if row["family"] == info.name and row["metric"] in FACTS]
    facts += [(FACTS[row["metric"]], f"{row['value']:.2g} {row['unit']}") for row in own]
    facts += list(training(info.trained))
    if facts:
        parts.append("<h4>Size and training</h4>" + _table([tuple(fact) for fact in facts]))
    measured = list(summary_rows(rows, info.name))
    parts.append("<h4>Measured on held-out scenes</h4>")
    parts.append(_table(list(measured)) if measured else words.message(NOTHING_MEASURED, "quiet"))
    by_task = task_rows(rows, info.name)
    if by_task:
        parts.append(f"<details><summary>Success by task</summary>{_table(list(by_task))}</details>")
    if found := limits(info):
        parts.append("<h4>Limits</h4><ul>" + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>")
    return f'<article class="vv-card">{"".join(parts)}</article>'


def page(service: Service, folder: Path = BENCHMARKS) -> str:
    """All cards and the limits that they share."""
    rows = read_rows(folder)
    shared = "".join(
        f"<li>{escape(text.format(count=len(service.trained_tasks()), steps=HORIZON))}</li>" for text in LIMITS
    )
    infos = service.families()
    shown = (card(service, i, rows, show.COLOURS[n % len(show.COLOURS)]) for n, i in enumerate(infos))
    cards = "".join(shown)
    return f'<ul class="vv-limits">{shared}</ul><div class="vv-models vv-grid">{cards}</div>{published(folder)}'


def build(service: Service, tab: gr.Tab) -> None:
    """Lay out the tab; its cards are made when it is opened, as counting weights loads them."""
    cards = gr.HTML(words.busy("reading the models"))
    tab.select(lambda: page(service), None, cards, api_visibility="private", show_progress="hidden")
