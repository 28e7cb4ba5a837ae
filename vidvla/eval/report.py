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
from vidvla.eval.controllers import TAUS
from vidvla.families.base import CONTROLLERS, EVOLVED
from vidvla.nn.heads import HEADS
from vidvla.worlds.metaworld import AVDC_TASKS

BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "*not measured yet*"
PAGE = "page"
"""Who was measured, where figures are of the page as a whole: it stands where others name their family."""
CONTROLLER_TITLES = dict(
    zip(
        CONTROLLERS,
        ("evolved in the dream", "random", "best constant action", "planning in latents (CEM)"),
        strict=True,
    )
)

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
    costs = read_benchmark(folder / "speed.json")["rows"]
    for metric, label, factor, digits in (
        ("episodes", "robot episodes seen", 1, 0),
        ("parameters", "parameters, millions", 1e-6, 1),
        ("core_hours_trained", "core-hours trained", 1, 1),
    ):
        cells = [_cell(_find(costs, name, "all", metric), factor, digits, interval=False) for name in names]
        body.append([label, *cells, *(["-"] * len(published))])
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


def _target(folder: Path) -> str:
    rows, body = read_benchmark(folder / "target.json")["rows"], []
    for name in _families(rows):
        own = [r["metric"] for r in rows if (r["family"], r["task"]) == (name, "all")]
        for horizon in sorted(int(metric.removeprefix("psnr_h")) for metric in own if metric.startswith("psnr_h")):
            line = [_title(name), str(horizon)]
            for metric, digits in (("psnr", 1), ("ssim", 3), ("lpips", 3)):
                line.append(_cell(_find(rows, name, "all", f"{metric}_h{horizon}"), digits=digits))
                copy = _find(rows, name, "all", f"{metric}_copy_h{horizon}")
                line.append(_cell(copy, digits=digits, interval=False))
            found = _find(rows, name, "all", f"psnr_h{horizon}")
            body.append([*line, str(found["n"] if found else 0)])
    head = ["family", "control steps ahead", "PSNR, dB", "copy", "SSIM", "copy", "LPIPS", "copy", "images"]
    return _table(head, body)


def _heads(folder: Path) -> str:
    rows, body = read_benchmark(folder / "heads.json")["rows"], []
    titles = {kind: head.title for kind, head in HEADS.items()}
    for name in _families(rows):
        for row in [
            r for r in rows if (r["family"], r["task"]) == (name, "all") and r["metric"].startswith("error_cm_")
        ]:
            kind = row["metric"].removeprefix("error_cm_")
            success, gripper, seconds = (
                _find(rows, name, "all", f"{m}_{kind}") for m in ("success", "gripper", "seconds")
            )
            body.append(
                [_title(name), titles.get(kind, kind), _cell(success, 100, 0), _cell(row, digits=2),
                 _cell(gripper, 100, 0), _cell(seconds, digits=2), str(success["n"] if success else 0)]
            )  # fmt: skip
    head = [
        "family",
        "head",
        "success, %",
        "error, cm a control step",
        "gripper agreement, %",
        "seconds a look",
        "trials",
    ]
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


ROLLOUT_AT = {"s1": "step 1", "s16": "step 16", "s64": "step 64", "s192": "step 192", "mean": "mean of 192"}


def _rollout(folder: Path) -> str:
    rows, body = read_benchmark(folder / "rollout.json")["rows"], []
    for name in _families(rows):
        for at, label in ROLLOUT_AT.items():
            line = [_title(name), label]
            for metric, digits in (("psnr", 1), ("ssim", 3), ("lpips", 3)):
                line.append(_cell(_find(rows, name, "all", f"{metric}_{at}"), digits=digits))
                for copy in ("copy_first", "copy_last"):
                    row = _find(rows, name, "all", f"{metric}_{copy}_{at}")
                    line.append(_cell(row, digits=digits, interval=False))
            where = [_find(rows, name, "all", f"{metric}_{at}") for metric in ("hand_cm", "probe_cm", "place_cm")]
            film = _find(rows, name, "all", f"psnr_{at}")
            body.append([*line, *map(_cell, where), str(film["n"] if film else 0)])
    copies = ["first frame", "last true frame"]
    head = ["family", "at", "PSNR, dB", *copies, "SSIM", *copies, "LPIPS", *copies, "hand seen off by, cm",
            "the probe's own error, cm", "hand kept off by, cm", "rollouts"]  # fmt: skip
    return _table(head, body)


GIVEN = (("concat", "in the token stream"), ("cross", "by cross-attention"))


def _conditioning(folder: Path) -> str:
    rows, body = read_benchmark(folder / "conditioning.json")["rows"], []
    for name in _families(rows):
        for given, label in GIVEN:
            found = [_find(rows, name, "all", f"{m}_{given}") for m in ("hand_cm", "probe_cm", "place_cm", "psnr")]
            cells = [_cell(row, digits=digits) for row, digits in zip(found, (2, 2, 2, 1), strict=True)]
            body.append([label, *cells, str(max(r["n"] if r else 0 for r in found))])
    errors = ["hand seen off by, cm", "the probe's own error, cm", "hand kept off by, cm"]
    return _table(["actions enter", *errors, "PSNR, dB", "trials"], body)


def _planning(folder: Path) -> str:
    rows, body = read_benchmark(folder / "planning.json")["rows"], []
    planners = {"dream": "planning in the dream", "simulator": "planning in the simulator", "bc": "behaviour cloning"}
    for name in _families(rows):
        measured = [r["task"] for r in rows if r["metric"] == "success_dream" and r["family"] == name]
        for task in measured:
            found = [_find(rows, name, task, f"success_{planner}") for planner in planners]
            label = f"**{task}**" if task == "all" else task
            body.append([label, *(_cell(r, 100, 0) for r in found), str(max(r["n"] if r else 0 for r in found))])
    return _table(["success, %", *planners.values(), "trials"], body)


def _ranking(folder: Path) -> str:
    rows, body = read_benchmark(folder / "policy_ranking.json")["rows"], []
    for name in _families(rows):
        for row in rows:
            kind, _, contender = row["metric"].partition(": ")
            if kind == "real" and row["task"] == "all" and row["family"] == name:
                dreamed = _find(rows, name, "all", f"dream: {contender}")
                body.append([contender, _cell(row, 100, 0), _cell(dreamed, 100, 0), str(row["n"])])
        for metric, label in (
            ("pearson", "**Pearson r**, policies"), ("spearman", "**rank correlation**, policies"),
            ("pearson_cells", "**Pearson r**, policies x tasks"),
        ):  # fmt: skip
            found = _find(rows, name, "all", metric)
            body.append([label, "", _cell(found, digits=3), str(found["n"] if found else 0)])
    return _table(["policy", "success in the simulator, %", "success in the dream, %", "trials"], body)


def _dream(folder: Path) -> str:
    rows = read_benchmark(folder / "dream.json")["rows"]
    body = []
    for name in _families(rows):
        for controller in CONTROLLERS:
            suffix = "" if controller == EVOLVED else f"_{controller}"
            found = [_find(rows, name, "all", f"{metric}{suffix}") for metric in ("real_score", "real_success")]
            dreamed = [_find(rows, name, "all", f"dream_score_tau_{tau:g}") for tau in TAUS]
            body.append(
                [_title(name), CONTROLLER_TITLES[controller],
                 *(_cell(row if controller == EVOLVED else None, digits=2) for row in dreamed),
                 _cell(found[0], digits=2), _cell(found[1], 100, 0), str(max((r["n"] for r in found if r), default=0))]
            )  # fmt: skip
    head = ["family", "controller", *(f"dream, tau {tau:g}" for tau in TAUS), "simulator", "success, %", "trials"]
    return _table(head, body)


SPEED = _simple(
    "speed.json",
    [
        ("seconds_per_film", "seconds a film with its actions", 1, 2),
        ("steps_per_second", "driven steps a second", 1, 1),
        ("drive_steps_per_second", "in the page, simulator beside", 1, 1),
        ("parameters", "parameters, millions", 1e-6, 1),
        ("core_hours_trained", "core-hours trained", 1, 1),
    ],
)


def _speed(folder: Path) -> str:
    """Every family's speed and size, and under it how long the page lets people wait, once that is measured."""
    rows = read_benchmark(folder / "speed.json")["rows"]
    waits = [_find(rows, PAGE, "all", metric) for metric in ("first_picture_seconds", "all_answers_seconds")]
    tables = [SPEED(folder)]
    if any(waits):
        head = ["in the page, all families asked", "seconds from the click", "presses"]
        names = ("first picture", "every answer, with its film")
        body = [[name, _cell(row, digits=2), str(row["n"])] for name, row in zip(names, waits, strict=True) if row]
        tables.append(_table(head, body))
    return "\n\n".join(tables)


TABLES: dict[str, Callable[[Path], str]] = {
    "closed-loop": _closed_loop,
    "film": _film,
    "target": _target,
    "heads": _heads,
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
            ("still", "told in vain, keeps still, %", 100, 0),
        ],
    ),
    "rollout": _rollout,
    "following": _simple(
        "following.json",
        [
            ("hand_cm", "hand seen off by, cm", 1, 2),
            ("probe_cm", "the probe's own error, cm", 1, 2),
            ("hand_cm_in_view", "hand seen, where it is in sight", 1, 2),
            ("probe_cm_in_view", "the probe's own, in sight", 1, 2),
            ("apart_cm_in_view", "seen in dream and truth apart by, in sight", 1, 2),
            ("place_cm", "hand kept off by, cm", 1, 2),
            ("still_cm", "if nothing moved, cm", 1, 1),
            ("psnr", "PSNR, dB", 1, 1),
        ],
    ),
    "conditioning": _conditioning,
    "planning": _planning,
    "policy-ranking": _ranking,
    "dream": _dream,
    "speed": _speed,
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

{summary}{differs}

Source of the idea: {source}. World: {world}, 128 x 128 pixels, 16 control steps a second; seeds below 500,000.

## Training

{phases}

Weights are safetensors ({precision}), the averaged (EMA) ones. Minutes are wall-clock, threads are CPU threads of two
cores.

## Figures

Held-out layouts (seeds from 500,000), 95 % intervals; see the project's README for every task and for the commands.

{figures}

## Limits

One simulated robot, one camera, at most 11 tasks. A photograph is far from the training frames. Pictures alone say
what is so: what the camera cannot see is not known. Not for real robots.
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
        title=kind.title, summary=kind.summary, differs=f"\n\n{kind.differs}" if kind.differs else "",
        source=kind.source, world=config["world"], precision=checkpoint.precision(folder),
        phases=_phases(config["trained"]), figures=_table(["metric", "value", "unit", "95 %", "n"], body),
    )  # fmt: skip


def write_report(path: Path) -> None:
    """Renew the tables of the document at ``path``, and the card of every published family."""
    benchmarks, checkpoints = checkpoint.ASSETS / "benchmarks", checkpoint.ASSETS / "checkpoints"
    path.write_text(fill(path.read_text(), benchmarks))
    for name in registry.families():
        for folder in checkpoints.glob(f"{name}-*"):
            (folder / "README.md").write_text(card(name, folder, benchmarks))
