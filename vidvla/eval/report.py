"""Tables in Markdown from the figure files, put where a document asks for them.

A document asks with a pair of comments, ``<!-- figures: NAME -->`` and ``<!-- end -->``; what stands between them is
replaced. Nothing in a table is typed by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidvla import checkpoint, registry
from vidvla.eval.benchmark import read_benchmark
from vidvla.worlds.metaworld import AVDC_TASKS

BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "*not measured yet*"

Rows = list[dict[str, Any]]


def _find(rows: Rows, family: str, task: str, metric: str) -> dict[str, Any] | None:
    return next((r for r in rows if (r["family"], r["task"], r["metric"]) == (family, task, metric)), None)


def _cell(row: dict[str, Any] | None, factor: float = 1.0, digits: int = 1, interval: bool = True) -> str:
    if row is None:
        return "-"
    text = f"{factor * row['value']:.{digits}f}"
    if interval:
        text += f" ({factor * row['low']:.{digits}f} to {factor * row['high']:.{digits}f})"
    return text


def _table(head: list[str], body: list[list[str]]) -> str:
    if not body:
        return MISSING
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _families(rows: Rows) -> list[str]:
    measured = {row["family"] for row in rows}
    return [name for name in registry.families() if name in measured]


def _title(name: str) -> str:
    return registry.family(name).title


def _closed_loop(folder: Path) -> str:
    data = read_benchmark(folder / "closed_loop.json")
    rows, names = data["rows"], _families(data["rows"])
    published = {row["name"]: row for row in json.loads((folder / "published.json").read_text())["closed_loop"]}
    head = ["success, %", *(_title(name) for name in names), *published]
    body = []
    for task in (*AVDC_TASKS, "all"):
        line = [f"**{task}**" if task == "all" else task]
        line += [_cell(_find(rows, name, task, "success"), 100, 0) for name in names]
        line += [_published(row, task) for row in published.values()]
        body.append(line)
    trials = [_find(rows, name, "all", "success") for name in names]
    body.append(["trials", *(str(row["n"]) if row else "-" for row in trials), *(["-"] * len(published))])
    return _table(head, body if names else [])


def _published(row: dict[str, Any], task: str) -> str:
    value = row["success"].get(task)
    return "-" if value is None else f"{value:.1f}"


def _film(folder: Path) -> str:
    rows = read_benchmark(folder / "film.json")["rows"]
    body = []
    for name in _families(rows):
        own = [r["metric"] for r in rows if (r["family"], r["task"]) == (name, "all")]
        steps = sorted(int(metric[6:]) for metric in own if metric.startswith("time_t"))
        # families differ in how many frames they predict; all tables show the four key moments
        for k in [s for s in steps if (row := _find(rows, name, "all", f"time_t{s}")) and row["value"] % 4 == 0]:
            moment = _find(rows, name, "all", f"time_t{k}")
            film, copy = (_find(rows, name, "all", f"{m}_t{k}") for m in ("psnr", "psnr_copy"))
            if moment is None or film is None or copy is None:
                continue
            ssim, ssim_copy = (_find(rows, name, "all", f"{m}_t{k}") for m in ("ssim", "ssim_copy"))
            body.append(
                [_title(name), f"{moment['value']:.0f}", _cell(film), _cell(copy, interval=False),
                 f"{film['value'] - copy['value']:+.1f}", _cell(ssim, digits=3, interval=False),
                 _cell(ssim_copy, digits=3, interval=False), str(film["n"])]
            )  # fmt: skip
    head = ["family", "control steps ahead", "PSNR, dB", "copy", "gain", "SSIM", "copy", "films"]
    return _table(head, body)


def _simple(file: str, metrics: list[tuple[str, str, float, int]]) -> Callable[[Path], str]:
    def table(folder: Path) -> str:
        rows = read_benchmark(folder / file)["rows"]
        body = []
        for name in _families(rows):
            found = [_find(rows, name, "all", metric) for metric, _, _, _ in metrics]
            cells = [
                _cell(r, f, d, interval=bool(r and r["n"] > 1)) for r, (_, _, f, d) in zip(found, metrics, strict=True)
            ]
            body.append([_title(name), *cells, str(max((r["n"] for r in found if r), default=0))])
        return _table(["family", *(label for _, label, _, _ in metrics), "trials"], body)

    return table


TABLES: dict[str, Callable[[Path], str]] = {
    "closed-loop": _closed_loop,
    "film": _film,
    "inverse-dynamics": _simple(
        "inverse_dynamics.json",
        [
            ("error_cm", "error, cm a control step", 1, 2),
            ("error_cm_expert", "on expert episodes", 1, 2),
            ("error_cm_play", "on play", 1, 2),
            ("gripper_agreement", "gripper agreement, %", 100, 0),
        ],
    ),
    "phrasings": _simple(
        "phrasings.json",
        [
            ("understood", "understood, %", 100, 1),
            ("nearest", "with rivals that are not told apart, %", 100, 1),
            ("told_apart", "rivals told apart, %", 100, 0),
        ],
    ),
    "speed": _simple(
        "speed.json",
        [
            ("seconds_per_film", "seconds a film with its actions", 1, 2),
            ("parameters", "parameters, millions", 1e-6, 1),
            ("core_hours_trained", "core-hours trained", 1, 1),
        ],
    ),
}


def fill(text: str, folder: Path) -> str:
    """``text`` with every asked-for table as the figure files in ``folder`` have it now."""

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"expected figures among {', '.join(TABLES)}; got {name!r}")
        return f"{match[1]}{TABLES[name](folder)}\n{match[3]}"

    return BLOCK.sub(replace, text)


CARD = """# {title}

{summary}

Source of the idea: {source}. World: {world}, 128 x 128 pixels, 16 control steps a second; seeds below 500,000.

## Training

{phases}

Weights are fp16 safetensors, the averaged (EMA) ones. Minutes are wall-clock, threads are CPU threads of two cores.

## Figures

Held-out layouts (seeds from 500,000), 95 % intervals; see the project's README for every task and for the commands.

{figures}

## Limits

One simulated robot, one camera, 11 tasks, films of one second. A photograph is far from the training frames. Actions
are read from pictures alone. Not for real robots.
"""


def _phases(records: list[dict[str, Any]]) -> str:
    head = ["phase", "steps", "batch", "minutes", "threads", "data"]
    body = []
    for record in checkpoint.flat_records(records):
        data = ", ".join(f"{count:,} {name}" for name, count in record.get("data", {}).items()) or "not recorded"
        plan = record["train"]
        minutes = f"{record['seconds'] / 60:.0f}"
        body.append([record["phase"], str(plan["steps"]), str(plan["batch"]), minutes, str(record["threads"]), data])
    return _table(head, body)


def card(name: str, folder: Path, benchmarks: Path) -> str:
    """The model card of a published family, from its config and the figure files."""
    kind, config = registry.family(name), json.loads((folder / checkpoint.CONFIG).read_text())
    body = []
    for path in sorted(benchmarks.glob("*.json")):
        for row in read_benchmark(path).get("rows", []):
            if row["family"] == name and row["task"] == "all":
                interval = "" if row["n"] == 1 else f"{row['low']:.3g} to {row['high']:.3g}"
                body.append([row["metric"], f"{row['value']:.4g}", row["unit"], interval, str(row["n"])])
    return CARD.format(
        title=kind.title, summary=kind.summary, source=kind.source, world=config["world"],
        phases=_phases(config["trained"]), figures=_table(["metric", "value", "unit", "95 %", "n"], body),
    )  # fmt: skip


def write_report(path: Path) -> None:
    """Renew the tables of the document at ``path``, and the card of every published family."""
    benchmarks, checkpoints = checkpoint.ASSETS / "benchmarks", checkpoint.ASSETS / "checkpoints"
    path.write_text(fill(path.read_text(), benchmarks))
    for name in registry.families():
        for folder in checkpoints.glob(f"{name}-*"):
            (folder / "README.md").write_text(card(name, folder, benchmarks))
