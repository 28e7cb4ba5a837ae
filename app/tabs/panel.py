"""The left panel: where the first frame comes from, what to do, whom to ask. No model is asked here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import session, show, words
from app.session import SAMPLE, SCENE, UPLOAD, Form, Start
from app.tabs import card as cards
from app.tabs.card import Updates
from app.tabs.variants import build_sampling, open_number, open_slider
from vidvla.data.record import EVAL_SEEDS
from vidvla.drive import MOST_SEEDS
from vidvla.service import COMPARED, HORIZON, Service

FRESH_SEED = EVAL_SEEDS.stop
"""Layouts from here on were neither trained nor measured on."""
FIRST_TASK = "button-press"
"""What people see first in every tab: of all tasks, films and dreams of this one come nearest to the truth, one second
ahead (``assets/benchmarks/film.json``, ``following.json``), and it is the only one that every family knows."""
EXAMPLES = 4
STORED = "Stored first frames with what the expert did next. They need no simulator, so they cannot be executed."
SCOPE = (
    "The models know one simulated robot (Meta-World), one camera and {count} tasks. "
    "Other pictures are fine to try, but expect films that make no sense."
)


@dataclass(frozen=True)
class Panel:
    """The left panel: the question."""

    source: gr.Radio
    preview: gr.Image
    scene: gr.Column
    task: gr.Dropdown
    seed: gr.Number
    dice: gr.Button
    known: gr.HTML
    samples: gr.Column
    gallery: gr.Gallery
    sample: gr.Textbox
    scope: gr.Column
    stored: gr.Column
    uploads: gr.Column
    upload: gr.File
    instruction: gr.Textbox
    other: gr.Textbox
    examples: gr.Dataset
    families: gr.CheckboxGroup
    steps: gr.Slider
    guidance: gr.Slider
    noise_seed: gr.Number
    seeds: gr.Slider
    horizon: gr.Slider
    message: gr.HTML
    predict: gr.Button
    progress: gr.HTML

    def form(self) -> list[Any]:
        """The inputs of :class:`Form`, in its order."""
        return [
            self.source, self.task, self.seed, self.sample, self.upload, self.instruction, self.families, self.steps,
            self.guidance, self.noise_seed, self.seeds, self.other,
        ]  # fmt: skip

    def where(self) -> list[Any]:
        """The inputs that the first frame depends on."""
        return [self.source, self.task, self.seed, self.sample, self.upload]


def sources(service: Service) -> list[str]:
    """Where first frames can come from on this machine."""
    simulated = [SCENE] if service.simulator_problem is None else []
    return [*simulated, *([SAMPLE] if service.samples else []), UPLOAD]


def task_choices(service: Service) -> list[tuple[str, str]]:
    """(label, name) of every task; those that no model trained on say so."""
    trained = set(service.trained_tasks())
    return [(t if t in trained else f"{t} (not trained on)", t) for t in service.tasks()]


def first_sample(service: Service) -> str:
    """The sample that is picked at first; empty where there are none."""
    return FIRST_TASK if FIRST_TASK in service.samples else next(iter(service.samples), "")


def task_note(service: Service, task: str | None) -> str:
    """A sentence for tasks that no model trained on."""
    known = task in service.trained_tasks()
    return "" if known else words.message("No model trained on this task: see how far it carries over.", "note")


def examples_of(service: Service, task: str | None) -> list[list[str]]:
    """Clickable phrasings of a task, short ones first."""
    try:
        phrases = service.phrasings(task or "")
    except ValueError:
        return []
    return [[p] for p in sorted(phrases, key=len)[:EXAMPLES]]


def preview(
    service: Service, source: str, task: str | None, seed: float | None, sample: str | None, upload: str | None
) -> tuple[Start | None, str]:
    """The first frame as the panel stands, or a sentence on why there is none (empty: nothing chosen yet)."""
    form = Form(source, task, seed, sample, upload, "", (), steps=1, guidance=1, noise_seed=0)
    if form.source == UPLOAD and not form.upload:
        return None, ""
    try:
        return session.find_start(service, form), ""
    except Exception as error:  # the border of the page: whatever goes wrong is one sentence
        return None, session.failure(error, "The scene")


def _build_source(service: Service) -> Updates:
    offered = sources(service)
    parts: Updates = {"source": gr.Radio(offered, value=offered[0], show_label=False, label="Source",
                                         container=False, elem_classes="vv-segments")}  # fmt: skip
    first = first_sample(service)
    start, _ = preview(service, offered[0], FIRST_TASK, FRESH_SEED, first, None)
    if service.simulator_problem is not None:
        gr.HTML(words.message(f"Scenes cannot be simulated here: {service.simulator_problem}", "note"))
    with gr.Row(elem_classes="vv-source"):
        parts["preview"] = cards.picture(
            "First frame", "vv-preview", show_label=False, container=False,
            value=None if start is None else show.enlarge(start.frame),
        )  # fmt: skip
        with gr.Column(min_width=120, elem_classes="vv-where"):
            with gr.Column(visible=offered[0] == SCENE) as parts["scene"]:
                parts["task"] = gr.Dropdown(task_choices(service), value=FIRST_TASK, label="Task", min_width=100)
                with gr.Row(elem_classes="vv-seed"):
                    parts["seed"] = open_number(FRESH_SEED, "Scene seed", min_width=70)
                    parts["dice"] = gr.Button("New scene", size="sm", min_width=60, elem_classes="vv-dice")
                gr.HTML(f'<p class="vv-scope">No model trained on seeds from {EVAL_SEEDS.start:,} up.</p>')
            with gr.Column(visible=offered[0] == UPLOAD) as parts["scope"]:
                gr.HTML(f'<p class="vv-scope">{SCOPE.format(count=len(service.trained_tasks()))}</p>')
            with gr.Column(visible=offered[0] == SAMPLE) as parts["stored"]:
                gr.HTML(f'<p class="vv-scope">{STORED}</p>')
    with gr.Column(visible=offered[0] == UPLOAD) as parts["uploads"]:
        parts["upload"] = gr.File(
            label="Picture (its middle square is used)",
            height=110,
            file_types=["image"],
            elem_classes="vv-upload",
        )
    parts["known"] = gr.HTML("", elem_classes="vv-status")
    with gr.Column(visible=offered[0] == SAMPLE) as parts["samples"]:
        stills = [(s.frame, s.instruction) for s in service.samples.values()]
        parts["gallery"] = gr.Gallery(
            stills, columns=4, height=190, allow_preview=False, show_label=False, buttons=[], object_fit="cover",
            elem_classes="vv-gallery", interactive=False,
        )  # fmt: skip
        parts["sample"] = gr.Textbox(first, label="Sample", visible=False)
    return parts


def build_panel(service: Service) -> Panel:
    """Lay the panel out; ``wire_panel`` brings it to life."""
    infos = service.families()
    usable = [info.name for info in infos if info.problem is None]
    asked = [info.name for info in service.comparable() if info.problem is None]
    with gr.Column(elem_id="vv-panel"):
        parts = _build_source(service)
        parts["instruction"] = gr.Textbox(
            service.phrasings(FIRST_TASK)[0], label="Instruction", lines=1, max_lines=3, placeholder="open the door"
        )
        parts["examples"] = gr.Dataset(
            components=[gr.Textbox(visible=False)], samples=examples_of(service, FIRST_TASK), show_label=False,
            layout="gallery", elem_classes="vv-examples", container=False,
        )  # fmt: skip
        parts["other"] = gr.Textbox(
            "", label="What if", lines=1, max_lines=3, placeholder="another instruction for the same frame"
        )
        parts["families"] = gr.CheckboxGroup(
            [words.choice(info) for info in infos], value=asked, label="Families", elem_classes="vv-families"
        )
        with gr.Accordion("Sampling", open=False):
            parts |= build_sampling()
            parts["seeds"] = open_slider(
                1, MOST_SEEDS, 1, step=1, label="Seeds", info="several show where a family is unsure"
            )
            parts["horizon"] = gr.Slider(
                COMPARED, HORIZON, HORIZON, step=1, label="Horizon", info="control steps to show, at once", buttons=[]
            )
        parts["message"] = gr.HTML("", elem_id="vv-message")
        parts["predict"] = gr.Button("Predict", variant="primary", elem_id="vv-predict", interactive=bool(usable))
        parts["progress"] = gr.HTML("", elem_id="vv-progress")
    return Panel(**parts)


def wire_panel(panel: Panel, service: Service) -> None:
    """Let the panel follow its own choices: first frame, phrasings, samples."""

    def look(*where: Any) -> Updates:
        start, sentence = preview(service, *where)
        frame = None if start is None else show.enlarge(start.frame)
        return {panel.preview: frame, panel.message: words.message(sentence)}

    def fill(source: str, task: str | None, sample: str | None) -> Updates:
        book = sample if source == SAMPLE else task
        updates: Updates = {
            panel.known: task_note(service, task) if source == SCENE else "",
            panel.examples: gr.Dataset(samples=examples_of(service, book)),
        }
        if source == SCENE and task in service.tasks():
            updates[panel.instruction] = service.phrasings(task)[0]
        elif source == SAMPLE and sample in service.samples:
            updates[panel.instruction] = service.samples[sample].instruction
        return updates

    def switch(source: str) -> Updates:
        shown = {
            panel.scene: SCENE, panel.samples: SAMPLE, panel.stored: SAMPLE, panel.uploads: UPLOAD, panel.scope: UPLOAD,
        }  # fmt: skip
        return {column: gr.update(visible=source == kind) for column, kind in shown.items()}

    def pick_sample(event: gr.SelectData) -> str:
        return list(service.samples)[event.index]

    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
    seen, written = [panel.preview, panel.message], [panel.known, panel.examples, panel.instruction]
    book = [panel.source, panel.task, panel.sample]
    columns = [panel.scene, panel.samples, panel.stored, panel.uploads, panel.scope]
    panel.source.change(switch, panel.source, columns, **quiet)
    gr.on([panel.source.change, panel.task.input], fill, book, written, **quiet)
    panel.gallery.select(pick_sample, None, panel.sample, **quiet).then(fill, book, written, **quiet).then(
        look, panel.where(), seen, **quiet
    )
    panel.dice.click(None, None, panel.seed, js=f"() => {FRESH_SEED} + Math.floor(Math.random() * 1e6)", **quiet)
    gr.on(
        [panel.source.change, panel.task.input, panel.seed.change, panel.upload.change], look, panel.where(), seen,
        trigger_mode="always_last", **quiet,
    )  # fmt: skip
    panel.examples.click(lambda row: row[0], panel.examples, panel.instruction, **quiet)
