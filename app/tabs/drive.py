"""Drive: a person drives the dream, the simulator executes the same actions beside it.

Plain HTML with a script of its own: frames come over the socket of :mod:`app.socket`, many a second, which a page's
components would not keep up with.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import words
from app.driving import ERROR_TOP, RANDOM, SPREAD_TOP, proposing
from app.pictures import jpeg
from app.session import LARGEST_SEED, SAMPLE, SCENE, UPLOAD
from app.socket import PATH
from app.tabs.panel import FIRST_TASK, FRESH_SEED, SCOPE, sources, task_choices
from vidvla.drive import BRANCHES, LONGEST
from vidvla.planning import EXECUTE, PlanConfig
from vidvla.service import UNKNOWN_SAMPLE, UNKNOWN_UPLOAD, Service
from vidvla.steering import MOST_PLANS

FOLDER = Path(__file__).parent.parent
SCRIPTS = tuple(FOLDER / name for name in ("drive_view.js", "drive.js", "drive_plan.js", "drive_input.js"))
"""Parts of one script, in their order."""
FAR = 48
"""Steps after which errors have piled up in every dream, as the page says."""
KEY_SPEED = 3.0
"""Of keys at first, in the unit of the axes."""


@dataclass(frozen=True)
class Key:
    """A direction that a key drives, along the axes x, y, z.

    Attributes:
        codes: keyboard codes.
        hint: the keys as people read them.
    """

    name: str
    codes: tuple[str, ...]
    hint: str
    move: tuple[int, int, int]


# Seen by the camera, +x goes left and +y goes right, both a little up (12 and 13 pixels across and 3 up for 10 cm), and
# +z goes straight up: so x and y together move straight across the picture, or away from the camera and back.
KEYS = (
    Key("left", ("ArrowLeft", "KeyA"), "← A", (1, -1, 0)),
    Key("right", ("ArrowRight", "KeyD"), "→ D", (-1, 1, 0)),
    Key("away", ("ArrowUp", "KeyW"), "↑ W", (1, 1, 0)),
    Key("near", ("ArrowDown", "KeyS"), "↓ S", (-1, -1, 0)),
    Key("up", ("KeyE",), "E", (0, 0, 1)),
    Key("down", ("KeyQ",), "Q", (0, 0, -1)),
)


def setup(service: Service) -> dict[str, Any]:
    """What the script has to know."""
    return {
        "path": PATH.strip("/"), "rate": service.steps_per_second, "keys": [asdict(key) for key in KEYS],
        "axes": len(service.action_spec), "fresh": FRESH_SEED, "far": FAR, "scene": SCENE, "upload": UPLOAD,
        "tops": {"what_if": ERROR_TOP, "uncertainty": SPREAD_TOP}, "iterations": PlanConfig().iterations,
    }  # fmt: skip


def _options(rows: list[tuple[str, str]], chosen: str | None = None) -> str:
    """Options of a list from (label, value); the first one is chosen where ``chosen`` is None."""
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(label)}</option>'
        for label, value in rows
    )


def _source(service: Service) -> str:
    """Where the first frame comes from."""
    offered = sources(service)
    chips = "".join(
        f'<label><input type="radio" name="vd-source" value="{kind}"{" checked" if kind == offered[0] else ""}>'
        f"<span>{kind}</span></label>"
        for kind in offered
    )
    thumbs = "".join(
        f'<button type="button" class="vd-thumb" data-sample="{escape(name)}" title="{escape(sample.instruction)}">'
        f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg(sample.frame)).decode()}">'
        "</button>"
        for name, sample in service.samples.items()
    )
    tasks = _options(task_choices(service), FIRST_TASK)
    return f"""<div class="vd-segments">{chips}</div>
<div data-for="{SCENE}"><label class="vd-field"><b>Task</b><select data-task>{tasks}</select>
</label><label class="vd-field vd-seed"><b>Scene seed</b><input data-seed type="number" min="0" max="{LARGEST_SEED}"
step="1" value="{FRESH_SEED}"></label><button type="button" data-do="dice" title="Another layout">New</button></div>
<div data-for="{SAMPLE}"><div class="vd-thumbs">{thumbs}</div><p class="vv-scope">{UNKNOWN_SAMPLE}</p></div>
<div data-for="{UPLOAD}"><label class="vd-file"><input data-upload type="file" accept="image/*"><img hidden alt="">
<span>Choose a picture (its middle square is used)</span></label>
<p class="vv-scope">{UNKNOWN_UPLOAD} {SCOPE.format(count=len(service.trained_tasks()))}</p></div>"""


def _axes(service: Service) -> str:
    """One slider an axis, with its unit and limits: the robot rests, and its gripper, the last axis, is open."""
    spec, rows = service.action_spec, []
    rest = [(low + high) / 2 for low, high in zip(spec.low, spec.high, strict=True)]
    rest[-1] = spec.low[-1]
    for name, unit, low, high, start in zip(spec.names, spec.units, spec.low, spec.high, rest, strict=True):
        rows.append(
            f'<label class="vd-axis"><b>{escape(name)}</b><i>{low:g}</i><input data-axis type="range" '
            f'aria-label="{escape(name)}" min="{low:g}" max="{high:g}" step="{(high - low) / 100:g}" '
            f'value="{start:g}"><i>{high:g}</i><output>{start:g}</output><small>{escape(unit)}</small></label>'
        )
    return "".join(rows)


def _pad(service: Service) -> str:
    """The keys, to see and to press."""
    keys = "".join(
        f'<button type="button" class="vd-key vd-{key.name}" data-key="{index}">'
        f"<kbd>{key.hint}</kbd>{key.name}</button>"
        for index, key in enumerate(KEYS)
    )
    high = service.action_spec.high[0]
    unit = escape(service.action_spec.units[0])
    return f"""<div class="vd-pad">{keys}<button type="button" class="vd-key vd-grip" data-do="grip">
<kbd>Space</kbd><span data-grip>close gripper</span></button></div>
<label class="vd-axis"><b>speed</b><i>0.5</i><input data-speed type="range" aria-label="key speed" min="0.5"
max="{high:g}" step="0.5" value="{KEY_SPEED:g}"><i>{high:g}</i><output>{KEY_SPEED:g}</output>
<small>{unit}</small></label>
<p class="vv-scope">Keys follow the picture: left and right are y with x against it, away and near are x and y together,
up and down are z.</p>"""


def _panel(service: Service) -> str:
    infos = service.drivable()
    usable = [(info.title, info.name) for info in infos if info.problem is None]
    missing = words.messages([f"{info.title}: {info.problem}." for info in infos if info.problem], "quiet")
    missing += "" if infos else words.message("No model here is told actions, so there is no dream to drive.", "note")
    return f"""<aside class="vd-panel"><div class="vd-from">{_source(service)}
<div class="vd-two"><label class="vd-field"><b>Model</b><select data-model>{_options(usable)}</select></label>
<button type="button" class="vd-primary" data-do="start"{"" if usable else " disabled"}>Start</button></div>
{missing}</div><div class="vd-controls"><div class="vd-heading"><b>Keys</b><span>press or hold</span></div>
{_pad(service)}<div class="vd-heading"><b>Sliders</b><span>drag, Step or Hold</span></div>{_axes(service)}
<div class="vd-buttons"><button type="button" data-do="step">Step</button>
<button type="button" data-do="hold" aria-pressed="false">Hold</button>
<button type="button" data-do="reset">Reset</button></div></div></aside>"""


def _screen(name: str, label: str, hidden: bool = False) -> str:
    return (
        f'<figure data-screen="{name}"{" hidden" if hidden else ""}><canvas width="512" height="512"></canvas>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


GOALS = (
    ("end", "Task's end", "What the scripted expert leaves behind in this scene"),
    ("dream", "Dream shown", "The dreamed frame that is shown above"),
    ("truth", "Simulator shown", "The simulator's frame that is shown above"),
    ("branch", "Branch shown", "The branch's frame that is shown above"),
)
"""What a goal picture can be, besides an upload: (name, label, hint)."""


def _goals() -> str:
    """Where the goal picture comes from."""
    buttons = "".join(
        f'<button type="button" data-do="goal_{name}" title="{escape(hint)}">{escape(label)}</button>'
        for name, label, hint in GOALS
    )
    return f"""<div class="vd-field"><b>Goal picture</b><div class="vd-buttons">{buttons}
<label class="vd-link">Upload<input data-goal-upload type="file" accept="image/*" hidden></label></div></div>"""


def _planner(service: Service) -> str:
    """Plan to a goal: choose a picture, and watch how the dream is searched for a way there."""
    problem, config = service.judge_problem, PlanConfig()
    missing = words.message("" if problem is None else f"No planning yet: {problem}.", "quiet")
    hint = (
        f"A plan dreams {config.iterations} rounds of {config.candidates} ways of {config.horizon} steps, "
        f"then drives the best one's first {EXECUTE}"
    )
    rows = [("drawn at random", RANDOM)]
    rows += [(f"random, and {info.title}", info.name) for info in proposing(service) if info.problem is None]
    return f"""<div class="vd-card vd-plan"><div class="vd-heading"><b>Plan to a goal</b><span>{hint}</span></div>
{missing}<div class="vd-plan-ask"><figure data-goal><canvas width="256" height="256"></canvas>
<figcaption>no goal yet</figcaption></figure><div>{_goals()}<div class="vd-plan-how">
<label class="vd-field"><b>Candidates</b><select data-candidates>{_options(rows)}</select></label>
<label class="vd-field"><b>Plans at most</b><input data-replans type="number" min="1" max="{MOST_PLANS}" step="1"
value="5"></label><button type="button" class="vd-primary" data-do="plan" disabled
data-able="{str(problem is None).lower()}">Plan</button>
<button type="button" data-do="stop" disabled>Stop</button></div></div></div>
<div data-planned role="status" hidden></div><div class="vd-considered" hidden>
<div data-films class="vd-answer"></div><div data-costs></div></div></div>"""


def _stage(service: Service) -> str:
    screens = _screen("dream", "Dream") + _screen("truth", "Simulator")
    screens += _screen("error", f"Error, 0 to {ERROR_TOP:g} of 255", hidden=True)
    screens += "".join(_screen(name, "", hidden=True) for name in ("branch", "branch_truth", "branch_apart"))
    moves = [(key.name, str(index)) for index, key in enumerate(KEYS)]
    moves += [("hold still", "still"), ("as the sliders say", "sliders")]
    return f"""<section class="vd-stage"><div data-say role="status"></div><div class="vd-screens">{screens}</div>
<div class="vd-card vd-time"><p class="vv-scope" data-driven></p>
<div class="vd-facts"><b data-step>step 0</b><span data-facts></span>
<label class="vd-check"><input type="checkbox" data-errors>Error map</label></div>
<input data-timeline type="range" aria-label="Moment" min="0" max="0" step="1" value="0">
<div class="vd-buttons"><button type="button" data-do="now">Now</button>
<button type="button" data-do="rewind" title="Go on from here and forget what came after">Rewind to here</button>
<button type="button" data-do="branch" title="Go on from here and keep what came after, at most {BRANCHES} times">Branch
here</button><span data-branches class="vd-branches"></span></div></div>
{_planner(service)}
<div class="vd-charts"><div class="vd-card" data-chart="psnr"></div><div class="vd-card" data-chart="ssim"></div></div>
<div class="vd-charts"><div class="vd-card"><div class="vd-heading"><b>Ask the dream</b><span>8 steps on from the moment
shown</span></div><div class="vd-ask"><label>A <select data-a>{_options(moves)}</select></label>
<label>B <select data-b>{_options(moves[1:] + moves[:1])}</select></label></div>
<div class="vd-buttons"><button type="button" data-do="what_if" title="A and B from the same moment">What if</button>
<button type="button" data-do="uncertainty" title="A four times, each with chance of its own">Uncertainty</button></div>
<div data-answer class="vd-answer"></div><p class="vv-scope" data-answered></p></div>
<div class="vd-card"><div class="vd-heading"><b>Keep and repeat</b><span>at most {LONGEST} steps a drive</span></div>
<div class="vd-buttons"><a data-export="mp4" class="vd-link">mp4</a><a data-export="gif" class="vd-link">GIF</a>
<a data-export="npz" class="vd-link">npz</a><label class="vd-link">Load actions<input data-actions type="file"
accept=".npz,.npy,.json,.csv" hidden></label><button type="button" data-do="halt" hidden>Stop replay</button></div>
<p class="vv-scope">The npz holds the frames, the truth and the actions; it can be loaded again, as can rows of x, y, z,
gripper in JSON or CSV. Dreams drift: where things are is read
from the first picture, and touching them a little differently ends elsewhere.</p></div></div></section>"""


def build(service: Service) -> None:
    """Lay out the tab inside the current blocks; its script runs when the tab is first seen."""
    data = escape(json.dumps(setup(service)))
    script = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    html = f'<div id="vd" class="vd" data-setup="{data}">{_panel(service)}{_stage(service)}</div>'
    gr.HTML(html, js_on_load=script, padding=False, elem_id="vv-drive")
