"""The page: bad input ends in a sentence, a family's failure stays its own, and a browser can use it all."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from browser import in_browser, served, visit
from PIL import Image

from app import session, show, words
from app.main import build
from app.session import SAMPLE, SCENE, UPLOAD, Answer, Begun, Failed, Form, Known
from app.tabs import card as cards
from app.tabs import compare, models, panel
from vidvla.checkpoint import flat_records
from vidvla.eval.rollouts import Execution
from vidvla.registry import families
from vidvla.samples import Sample
from vidvla.service import HORIZON, Service
from vidvla.types import Request, Rollout

FILMING = ("gr2", "unipi")


@pytest.fixture(scope="module")
def service() -> Service:
    """Two families at test size."""
    return Service(loaded={name: families()[name].tiny() for name in FILMING})


@pytest.fixture
def form() -> Form:
    """A question that can be asked."""
    return Form(SCENE, "door-open", 900_001, None, None, "open the door", FILMING, 1, 1.0, 0)


def silent(share: float, what: str) -> None:
    """Progress that nobody watches."""


def sentence_of(service: Service, form: Form) -> str:
    """The sentence that asking ends with, before any family was asked."""
    with pytest.raises(ValueError) as caught:
        list(session.ask(service, form, silent))
    said = session.sentence(caught.value)
    assert said[0].isupper() and said.endswith((".", "!", "?")) and "\n" not in said
    return said


# bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction": ""}, "instruction"),
        ({"instruction": "  \n "}, "instruction"),
        ({"instruction": "open " * 1000}, "at most 300 characters"),
        ({"instruction": "打开门"}, "English"),
        ({"task": "make-tea"}, "tasks in the list"),
        ({"task": None}, "tasks in the list"),
        ({"seed": None}, "scene seed"),
        ({"seed": -1}, "scene seed"),
        ({"seed": 2**31}, "scene seed"),
        ({"seed": 1.5}, "scene seed"),
        ({"seed": float("nan")}, "scene seed"),
        ({"noise_seed": -1}, "noise seed"),
        ({"noise_seed": None}, "noise seed"),
        ({"families": ()}, "at least one family"),
        ({"families": ("unheard-of",)}, "at least one family"),
        ({"steps": 0}, "denoising steps"),
        ({"steps": 1000}, "denoising steps"),
        ({"guidance": -1}, "guidance"),
        ({"steps": 2.5}, "denoising steps from 1 to 32, got 2.5"),
        ({"steps": None}, "denoising steps from 1 to 32, got nothing"),
        ({"guidance": 11}, "guidance from 0 to 10, got 11"),
        ({"guidance": None}, "guidance from 0 to 10"),
        ({"seeds": 0}, "seeds from 1 to 8, got 0"),
        ({"seeds": 9}, "seeds from 1 to 8, got 9"),
        ({"seeds": "many"}, "seeds from 1 to 8, got 'many'"),
        ({"other": "open " * 1000}, "In the other instruction: expected an instruction of at most 300"),
        ({"other": "打开门"}, "In the other instruction"),
        ({"options": {"gr2.guidance": 11}}, "Guidance of GR-2 style from 0 to 10"),
        ({"options": {"unipi.k": 1}}, "UniPi style has no control 'k'"),
        ({"options": {"nobody.k": 1}}, "family.control"),
        ({"source": "Dream"}, "source"),
        ({"source": SAMPLE}, "sample"),
        ({"source": UPLOAD}, "uploaded"),
    ],
)
def test_bad_input_is_one_sentence(service: Service, form: Form, change: dict[str, Any], said: str) -> None:
    assert said in sentence_of(service, dataclasses.replace(form, **change))


def file_of(folder: Path, kind: str) -> Path:
    """A file that is no usable picture."""
    path = folder / "upload.png"
    buffer = io.BytesIO()
    if kind == "one pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "huge":
        Image.new("1", (30_000, 30_000)).save(path)
    elif kind == "text":
        path.write_text("no picture at all")
    elif kind == "cut short":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue()[:2000])
    return path


@pytest.mark.parametrize("kind", ["one pixel", "huge", "text", "cut short"])
def test_bad_uploads_are_one_sentence(service: Service, form: Form, tmp_path: Path, kind: str) -> None:
    upload = str(file_of(tmp_path, kind))
    assert "picture" in (said := sentence_of(service, dataclasses.replace(form, source=UPLOAD, upload=upload))) or (
        "megapixels" in said
    )
    start, shown = panel.preview(service, UPLOAD, None, None, None, upload)
    assert start is None and shown == said


def test_bad_input_changes_only_the_message(service: Service, form: Form) -> None:
    with_page = page_of(service)
    bad = dataclasses.replace(form, instruction="")
    updates = list(with_page.predict(silent, cards.Turn(), 16, 16, *values_of(with_page, bad)))
    touched = {id(component) for update in updates for component in update}
    assert touched == {id(with_page.panel.message), id(with_page.panel.predict)}
    assert "vv-error" in updates[-2][with_page.panel.message]


def values_of(page: compare.Compare, form: Form) -> list[Any]:
    """What the page's components would send: the form, then the families' controls as they were built."""
    return [*list(vars(form).values())[:-1], *(control.value for control in page.controls().values())]


def page_of(service: Service) -> compare.Compare:
    """The tab's components and handlers, outside of a server."""
    import gradio as gr

    with gr.Blocks():
        question, moment = panel.build_panel(service), gr.Slider(1, 16, 16)
        truth = compare._build_truth()
        built = {info.name: cards.build_card(info, "#000000") for info in service.families()}
    return compare.Compare(service, question, moment, truth, built, gr.State(cards.Turn()), 8)


def test_html_in_instructions_is_text() -> None:
    assert "<script>" not in words.message("<script>alert(1)</script>")


# asking


def test_every_family_answers_with_quality_and_attention(service: Service, form: Form) -> None:
    events = list(session.ask(service, form, silent))
    assert isinstance(events[0], Begun) and events[0].start.truth is None  # the simulator is still at work
    (known,) = [event for event in events if isinstance(event, Known)]
    assert known.start.truth is not None
    answers = [event for event in events if isinstance(event, Answer)]
    assert [answer.family for answer in answers] == list(FILMING)
    for answer in answers:
        assert answer.rollout.attention is not None and answer.quality is not None
        assert answer.quality.times == answer.rollout.times
        copy.deepcopy(answer)  # sessions keep it


def test_one_failure_stays_its_own(service: Service, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = service.predict

    def broken(name: str, request: Request, **more: Any) -> Rollout:
        if name == FILMING[0]:
            raise RuntimeError("secret path /somewhere")
        return answer(name, request, **more)

    monkeypatch.setattr(service, "predict", broken)
    ends = [event for event in session.ask(service, form, silent) if isinstance(event, Answer | Failed)]
    assert isinstance(ends[0], Failed) and "internal error" in ends[0].sentence and "secret" not in ends[0].sentence
    assert isinstance(ends[1], Answer) and ends[1].family == FILMING[1]


def test_executing_asks_as_the_page_asked(service: Service, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dataclasses.replace(form, families=("gr2",), steps=3, guidance=2.0, noise_seed=5)
    (answer,) = [event for event in session.ask(service, asked, silent) if isinstance(event, Answer)]
    member, seen = service.family("gr2"), []
    plain = member.act

    def act(request: Request) -> Any:
        seen.append((request.steps, request.guidance, request.seed, request.instruction))
        return plain(request)

    monkeypatch.setattr(member, "act", act)
    list(session.execute(service, answer, 16))
    assert seen == [(3, 2.0, 5, form.instruction), (3, 2.0, 6, form.instruction)]


def test_uploads_have_no_truth_and_cannot_be_executed(service: Service, form: Form, tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    Image.new("RGB", (90, 60), "teal").save(path)
    asked = dataclasses.replace(form, source=UPLOAD, upload=str(path), families=FILMING[:1])
    (answer,) = [event for event in session.ask(service, asked, silent) if isinstance(event, Answer)]
    assert answer.quality is None and answer.start.truth is None and answer.start.frame.shape == (60, 60, 3)
    with pytest.raises(ValueError, match="simulated scene"):
        next(session.execute(service, answer, 8))
    with pytest.raises(ValueError, match="too old"):
        next(session.execute(service, None, 8))


def test_samples_stand_in_for_the_simulator(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(loaded={FILMING[0]: families()[FILMING[0]].tiny()})
    frames = np.zeros((16, 128, 128, 3), np.uint8)
    truth = Rollout(frames, tuple(range(1, 17)), np.zeros((16, 4), np.float32))
    monkeypatch.setitem(service.__dict__, "samples", {"door": Sample("door", "open it", frames[0], truth)})
    monkeypatch.setitem(service.__dict__, "simulator_problem", "Install the simulator.")
    assert panel.sources(service) == [SAMPLE, UPLOAD]
    assert sentence_of(service, form) == "Install the simulator."
    asked = dataclasses.replace(form, source=SAMPLE, sample="door", families=FILMING[:1])
    events = list(session.ask(service, asked, silent))
    assert isinstance(events[0], Begun) and events[0].start.truth is truth
    build(service)


def test_executing_streams_and_ends_in_a_badge(service: Service, form: Form) -> None:
    page = page_of(service)
    card = page.cards["gr2"]
    asked = dataclasses.replace(form, families=("gr2",))
    (answer,) = [event for event in session.ask(service, asked, silent) if isinstance(event, Answer)]
    updates = list(cards.show_execution(card, service, answer, 4, cards.Turn()))
    assert any(card.live in update for update in updates[1:-1])
    assert "vv-badge" in updates[-1][card.verdict] and updates[-1][card.executed].endswith(".mp4")
    (_, refused) = cards.show_execution(card, service, None, 4, cards.Turn())
    assert "too old" in refused[card.verdict]
    turn = cards.Turn()
    running = cards.show_execution(card, service, answer, 16, turn)
    next(running)
    turn.number += 1  # the person asks something else meanwhile
    assert not any(card.executed in update for update in running)


# showing


def rollout(times: tuple[int, ...], side: int = 32) -> Rollout:
    """Frame k is plain grey of level 10 k."""
    frames = np.stack([np.full((side, side, 3), 10 * (k + 1), np.uint8) for k in range(len(times))])
    return Rollout(frames, times, np.zeros((16, 4), np.float32))


def test_films_keep_the_familys_times() -> None:
    first = np.zeros((32, 32, 3), np.uint8)
    shown = [int(f[0, 0, 0]) for f in show.timeline(first, rollout((4, 8, 12, 16)), 16)]
    assert shown == [0] * 4 + [10] * 4 + [20] * 4 + [30] * 4 + [40]
    assert [int(f[0, 0, 0]) for f in show.timeline(first, rollout((4, 8)), 5)] == [0, 0, 0, 0, 10, 10]
    assert [int(f[0, 0, 0]) for f in show.timeline(first, rollout((4, 8)), 2)] == [0, 0, 0]  # nothing predicted yet


def test_films_are_what_browsers_play() -> None:
    frames = [np.full((128, 128, 3), level, np.uint8) for level in (0, 120, 240)]
    data = show.film_bytes(frames, 16.0, hold=2)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 8
    assert [round(float(f.mean()) / 120) for f in decoded] == [0, 1, 2, 2, 2]
    assert decoded[0].shape == (show.FILM_SIDE, show.FILM_SIDE, 3)


def test_a_moment_shows_what_the_film_shows() -> None:
    assert [show.shown_at((4, 8, 12, 16), moment) for moment in (1, 4, 7, 8, 16)] == [0, 0, 0, 1, 3]


def test_heat_is_brightest_where_the_map_is_largest() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[1, 6] = 1
    seen = show.overlay(np.zeros((64, 64, 3), np.uint8), heat).astype(int).sum(axis=2)
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    assert (row * 8 // show.SIDE, column * 8 // show.SIDE) == (1, 6)
    even = show.overlay(np.zeros((64, 64, 3), np.uint8), np.ones((8, 8), np.float32))
    assert even.std(axis=(0, 1)).max() == 0


def test_what_moved_is_found() -> None:
    before = np.zeros((128, 128, 3), np.uint8)
    after = before.copy()
    after[96:104, 32:40] = 255
    assert show.most_changed(before, after) == (12.5 / 16, 4.5 / 16)


def test_strips_have_a_row_each() -> None:
    frames = list(rollout((4, 8, 12)).frames)
    assert show.strip([frames, frames], side=10, gap=2).shape == (22, 34, 4)


def test_actions_carry_units_and_dash_the_truth() -> None:
    actions = np.ones((16, 4), np.float32)
    figure = show.actions_figure(Service.action_spec, 16.0, [("a", "#123456", actions)], truth=actions)
    titles = [note.text for note in figure.layout.annotations]
    assert all(unit in title for unit, title in zip(Service.action_spec.units, titles, strict=True))
    assert len(figure.data) == 8
    assert {trace.line.dash for trace in figure.data if trace.name == "truth"} == {"dot"}
    assert max(figure.data[0].x) == 1.0  # 16 control steps at 16 Hz


# the panel


def test_the_first_scene_is_one_that_families_film_well(service: Service) -> None:
    assert page_of(service).panel.task.value == panel.FIRST_TASK in service.trained_tasks()
    rows = {(r["family"], r["task"], r["metric"]): r["value"] for r in models.read_rows(models.BENCHMARKS)}
    last = [(family, metric.replace("time", "psnr")) for (family, task, metric), value in rows.items()
            if task == "all" and metric.startswith("time_t") and value == HORIZON]  # fmt: skip
    assert last and all(rows[f, panel.FIRST_TASK, metric] > rows[f, "all", metric] for f, metric in last)


# the models tab


def test_figures_are_read_and_damaged_files_left_out(service: Service, tmp_path: Path) -> None:
    row = {"family": "gr2", "task": "all", "metric": "success", "value": 0.51, "unit": "share", "n": 110,
           "low": 0.42, "high": 0.6}  # fmt: skip
    film = [
        {**row, "metric": f"psnr{kind}_t{k}", "value": 20 + k, "unit": "dB"} for k in (1, 2) for kind in ("", "_copy")
    ]
    hammer = {**row, "task": "hammer", "value": 0.9}
    size = {**row, "metric": "parameters", "value": 18_300_000, "unit": "count", "n": 1}
    speed = {**row, "metric": "seconds_per_film", "value": 0.09, "unit": "s"}
    import json

    (tmp_path / "good.json").write_text(json.dumps({"meta": {}, "rows": [row, hammer, *film, size, speed, {"odd": 1}]}))
    (tmp_path / "bad.json").write_text("{")
    rows = models.read_rows(tmp_path)
    assert len(rows) == 8
    summary = list(models.summary_rows(rows, "gr2"))
    assert summary[0] == ("Success", "51 %", "42 % to 60 %, n = 110")
    assert [what for what, _, _ in summary[1:]] == ["PSNR of the last frame"]
    assert models.task_rows(rows, "gr2")[0][:2] == ("hammer", "90 %")
    html = models.page(service, tmp_path)
    assert "0.09 s" in html and "1.83e+07" not in html
    assert "51 %" in html and models.NOTHING_MEASURED in html


def test_training_records_say_what_was_spent_on_what() -> None:
    first = {
        "phase": "film",
        "train": {"steps": 10, "batch": 32},
        "seconds": 120,
        "threads": 2,
        "data": {"clips": 1500},
    }
    later = {**first, "train": {"steps": 20, "batch": 32}, "data": {}, "earlier": [first]}
    assert list(models.training(flat_records([later]))) == [
        ("film", "10 steps of 32 samples, 1,500 clips; 2 min on 2 CPU threads"),
        ("film", "20 steps of 32 samples; 2 min on 2 CPU threads"),
    ]


def test_badges_say_how_it_ended() -> None:
    now = Execution(np.zeros((9, 8, 8, 3), np.uint8), np.zeros((8, 4), np.float32), 8, 1, True, True)
    assert "Task fulfilled" in words.execution(now, 16.0, 100) and "0.5 s" in words.execution(now, 16.0, 100)
    assert "Not fulfilled" in words.execution(dataclasses.replace(now, success=False), 16.0, 8)
    assert "vv-busy" in words.execution(dataclasses.replace(now, success=False, done=False), 16.0, 100)


# in a browser


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    """The page, served with short episodes."""
    with served(service, episode_steps=8) as url:
        yield url


@in_browser
def test_a_person_predicts_looks_and_executes(address: str) -> None:
    from playwright.sync_api import expect

    with visit(address) as page:
        expect(page.locator(".vv-preview img")).to_be_visible()

        page.get_by_label("Instruction").fill("")
        page.click("#vv-predict")
        expect(page.locator("#vv-message .vv-error")).to_contain_text("instruction")

        page.locator(".vv-examples .gallery-item").first.click()
        expect(page.get_by_label("Instruction")).not_to_have_value("")
        page.click("#vv-predict")
        expect(page.locator("#card-truth video")).to_be_visible()
        for name in FILMING:
            card = page.locator(f"#card-{name}")
            for part in (".vv-film video", ".vv-click img", ".vv-chips label", ".js-plotly-plot"):
                expect(card.locator(part).first).to_be_visible()
            expect(card.get_by_text("weights")).to_be_visible()
        expect(page.locator("#vv-predict")).to_have_text("Predict")
        expect(page.locator("#vv-message .vv-error")).to_have_count(0)
        assert page.evaluate("[...document.querySelectorAll('.vv-film video')].filter(v => v.videoWidth).length") >= 3

        card = page.locator("#card-gr2")
        looks = card.locator(".vv-looks img").first
        before = looks.get_attribute("src")
        card.locator(".vv-click img").click(position={"x": 5, "y": 5})
        expect(looks).not_to_have_attribute("src", before or "")

        card.get_by_role("button", name="Execute in the simulator").click()
        expect(card.locator(".vv-badge")).to_contain_text("after")
        page.get_by_role("tab", name="Models").click()
        expect(page.locator(".vv-models article")).to_have_count(len(FILMING))
