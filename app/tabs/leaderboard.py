"""The leaderboard: success in closed loop as measured here, beside what others published on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from app import show, words
from app.tabs.models import PUBLISHED, Row, read_figures
from vidvla.service import Service
from vidvla.views import FamilyInfo

CLOSED_LOOP, SPEED = "closed_loop.json", "speed.json"
NOTHING = "Not measured yet: success in closed loop over many scenes."
ALL = "all"
UNKNOWN = "-"


@dataclass(frozen=True)
class Entry:
    """One column.

    Attributes:
        success: success in percent by task, ``all`` for the mean.
        ends: the 95 % interval's ends in percent, of those whose interval is known.
        trials: episodes behind a task's value, by task.
        beside: what it took, by the names in :data:`BESIDE`.
        source: where the figures come from, of published ones.
    """

    title: str
    success: dict[str, float]
    ends: dict[str, tuple[float, float]]
    trials: dict[str, int]
    beside: dict[str, str]
    colour: str = show.TRUE_COLOUR
    source: str = ""


BESIDE = ("data", "parameters", "training", "per answer")
LABELS = dict(zip(BESIDE, ("Data with the robot", "Parameters", "Training", "An answer takes"), strict=True))


def read_board(service: Service, folder: Path) -> tuple[list[Entry], list[Entry], str]:
    """Our measured families best first, the published rows, and what is different about those.

    Missing and damaged files give nothing; the log says so.
    """
    rows, speed = (_rows(folder / name) for name in (CLOSED_LOOP, SPEED))
    infos = list(enumerate(service.families()))
    ours = [_own(info, show.COLOURS[index % len(show.COLOURS)], rows, speed) for index, info in infos]
    measured = [entry for entry in ours if ALL in entry.success]
    elsewhere = read_figures(folder / PUBLISHED) if (folder / PUBLISHED).is_file() else {}
    found = [*elsewhere.get("closed_loop", []), *elsewhere.get("closed_loop_further", [])]
    published = [_published(one) for one in found if {"name", "success", "source"} <= set(one)]
    return (
        sorted(measured, key=lambda entry: -entry.success[ALL]),
        sorted(published, key=lambda entry: -entry.success.get(ALL, 0)),
        " ".join((elsewhere.get("note", ""), elsewhere.get("protocol", ""))).strip(),
    )


def _rows(path: Path) -> list[Row]:
    found = read_figures(path).get("rows", []) if path.is_file() else []
    return [row for row in found if {"family", "task", "metric", "value", "unit", "n"} <= set(row)]


def _own(info: FamilyInfo, colour: str, rows: Sequence[Row], speed: Sequence[Row]) -> Entry:
    own = {row["task"]: row for row in rows if (row["family"], row["metric"]) == (info.name, "success")}
    cost = {row["metric"]: row for row in speed if row["family"] == info.name}
    beside = {"data": _data(info)}
    if "parameters" in cost:
        beside["parameters"] = words.count(int(cost["parameters"]["value"]))
    if "core_hours_trained" in cost:
        beside["training"] = f"{cost['core_hours_trained']['value']:.1f} CPU core-hours"
    if "seconds_per_film" in cost:
        beside["per answer"] = words.seconds(cost["seconds_per_film"]["value"])
    return Entry(
        info.title,
        {task: 100 * row["value"] for task, row in own.items()},
        {t: (100 * r["low"], 100 * r["high"]) for t, r in own.items() if "low" in r and "high" in r},
        {task: row["n"] for task, row in own.items()},
        beside, colour,
    )  # fmt: skip


def _data(info: FamilyInfo) -> str:
    """The most robot episodes that any phase behind a family used, as its training records say."""
    used = [count for record in info.trained for what, count in record.get("data", {}).items()
            if what.startswith("episodes") and "physics" not in what]  # fmt: skip
    return f"{max(used):,} episodes" if used else UNKNOWN


def _published(one: dict[str, Any]) -> Entry:
    beside = {name: str(one[name]) for name in BESIDE if name in one}
    return Entry(one["name"], dict(one["success"]), {}, {}, beside, source=one["source"])


# as a table


def page(service: Service, folder: Path) -> str:
    """The card's content."""
    ours, published, note = read_board(service, folder)
    title = words.head("Leaderboard", "Success in closed loop, in percent, on layouts that nobody trained on.",
                       show.COLOURS[3])  # fmt: skip
    if not ours:
        return title + words.message(NOTHING, "quiet")
    tasks = [task for task in service.trained_tasks() if any(task in entry.success for entry in ours)]
    sources = "".join(f"<li><b>{escape(entry.title)}</b>: {escape(entry.source)}</li>" for entry in published)
    return (
        f'{title}<div class="vv-board">{_table(ours, published, tasks)}</div>'
        f'<p class="vv-caption">{escape(note)}</p>'
        f'<details class="vv-sources"><summary>Sources of the published columns</summary><ul>{sources}</ul></details>'
    )


def _table(ours: Sequence[Entry], published: Sequence[Entry], tasks: Sequence[str]) -> str:
    entries = [*ours, *published]
    over = (
        f'<tr><th></th><th colspan="{len(ours)}" class="vv-ours">measured here, Meta-World v3</th>'
        + (f'<th colspan="{len(published)}">published by others, Meta-World v2</th>' if published else "")
        + "</tr>"
    )
    heads = "".join(
        f'<th><i style="background:{entry.colour}"></i>{escape(entry.title.replace(" (published, v2)", ""))}</th>'
        for entry in entries
    )
    body = "".join(_line(task, [_success(entry, task) for entry in entries]) for task in tasks)
    body += _line("mean", [_success(entry, ALL) for entry in entries], "vv-mean")
    body += _line("Episodes", [_trials(entry, tasks) for entry in entries], "vv-beside")
    for name in BESIDE:
        body += _line(LABELS[name], [escape(entry.beside.get(name, UNKNOWN)) for entry in entries], "vv-beside")
    return f"<table><thead>{over}<tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _line(label: str, cells: Sequence[str], kind: str = "") -> str:
    inside = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{inside}</tr>'


def _trials(entry: Entry, tasks: Sequence[str]) -> str:
    """How many episodes are behind the mean, and behind each task's value."""
    each = sorted({entry.trials[task] for task in tasks if task in entry.trials})
    return f"{entry.trials[ALL]}, {' to '.join(map(str, each[:1] + each[1:][-1:]))} a task" if each else UNKNOWN


def _success(entry: Entry, task: str) -> str:
    """A share with its interval, over a bar of its length."""
    value = entry.success.get(task)
    if value is None:
        return UNKNOWN
    ends = entry.ends.get(task)
    interval = "" if ends is None else f"<small>{ends[0]:.0f} to {ends[1]:.0f}</small>"
    digits = 0 if ends is not None else 1
    bar = f'<u style="width:{value:.0f}%;background:{entry.colour}"></u>'
    return f"<b>{value:.{digits}f}</b>{interval}{bar}"
