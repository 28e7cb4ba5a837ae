"""Dreams: policies that act in a world model's dream beside the simulator, and controllers evolved in a dream."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import session, show, words
from app.tabs import duo as pairs
from app.tabs import evolution
from app.tabs.card import Updates
from app.tabs.compare import MODELS
from app.tabs.duo import Duo, Side
from app.tabs.models import BENCHMARKS, Row, read_figures
from app.tabs.panel import FIRST_TASK, FRESH_SEED
from app.tabs.variants import open_number
from vidvla.eval.pairs import Both
from vidvla.eval.rollouts import RANK_STEPS, Execution
from vidvla.service import Service
from vidvla.views import FamilyInfo

RANKING = BENCHMARKS / "policy_ranking.json"
ABOUT = (
    "A world model dreams what follows from a policy's actions, and the policy sees nothing but the dream. "
    "Where dreams rank policies as the simulator does, policies can be compared without it."
)
NOT_MEASURED = "Not measured yet: how success in the dream compares with success in the simulator over many scenes."
JUDGED = "judged so by a net that learned from true frames"
ONE_RUN = "One run says little."
CORRELATIONS = (("pearson", "Pearson r"), ("spearman", "rank correlation"))


# what was measured


@dataclass(frozen=True)
class Ranking:
    """How policies fared in one world model's dream and in the simulator.

    Attributes:
        points: (policy, in the simulator, in the dream) over all tasks.
        correlations: (name, row) of what was found between the two.
        runs: episodes behind each value.
    """

    family: str
    points: tuple[tuple[str, show.Share, show.Share], ...]
    correlations: tuple[tuple[str, Row], ...]
    runs: int


def read_ranking(path: Path, titles: dict[str, str]) -> list[Ranking]:
    """One entry a world model; none where the file is missing, damaged, or holds no policy.

    Args:
        titles: of families by name, for the labels of policies.
    """
    found = read_figures(path).get("rows", []) if path.is_file() else []
    needed = {"family", "task", "metric", "value", "low", "high", "n"}
    rows = [row for row in found if isinstance(row, dict) and needed <= set(row) and row["task"] == "all"]
    rankings = []
    for family in dict.fromkeys(row["family"] for row in rows):
        own = {row["metric"]: row for row in rows if row["family"] == family}
        pairs = [(m.removeprefix("real: "), row, own.get(m.replace("real", "dream", 1))) for m, row in own.items()
                 if m.startswith("real: ")]  # fmt: skip
        points = tuple((_label(name, titles), _share(r), _share(d)) for name, r, d in pairs if d is not None)
        told = tuple((label, own[metric]) for metric, label in CORRELATIONS if metric in own)
        if points:
            rankings.append(Ranking(family, points, told, pairs[0][1]["n"]))
    return rankings


def _share(row: Row) -> show.Share:
    return float(row["value"]), float(row["low"]), float(row["high"])


def _label(name: str, titles: dict[str, str]) -> str:
    first, *rest = name.split(" ")
    return " ".join([titles.get(first, first), *rest])


def caption(ranking: Ranking) -> str:
    """What the chart shows, in words."""
    said = []
    for label, row in ranking.correlations:
        value, low, high = _share(row)
        text = "undefined" if math.isnan(value) else f"{value:.2f}"
        between = "" if math.isnan(low) or math.isnan(high) else f" ({low:.2f} to {high:.2f})"
        said.append(f"{label} {text}{between}")
    found = f"{', '.join(said)}, n = {len(ranking.points)} policies. " if said else ""
    return f"{found}Each success is of {ranking.runs} runs over all tasks; bars and brackets are 95 % intervals."


def _build_ranking(infos: Sequence[FamilyInfo], path: Path) -> None:
    titles = {info.name: info.title for info in infos}
    rankings = read_ranking(path, titles)
    if not rankings:
        gr.HTML(words.message(NOT_MEASURED, "quiet"))
    for ranking in rankings:
        hint = titles.get(ranking.family, ranking.family)
        gr.HTML(words.heading("Success, dreamed and simulated", hint if len(rankings) > 1 else ""))
        figure = show.agreement_figure(ranking.points)
        gr.Plot(figure, show_label=False, container=False, elem_classes="vv-plot")
        names = [(name, show.COLOURS[i % len(show.COLOURS)]) for i, (name, _, _) in enumerate(ranking.points)]
        gr.HTML(words.legend(names))
        gr.HTML(f'<p class="vv-caption">{escape(caption(ranking))}</p>')


# one run, live


@dataclass(frozen=True)
class Live:
    """Run one policy in both worlds: the components, and the handler over them."""

    service: Service
    policy: gr.Dropdown
    mind: gr.Dropdown
    task: gr.Dropdown
    seed: gr.Number
    dice: gr.Button
    run: gr.Button
    message: gr.HTML
    duo: Duo
    limit: int

    def asked(self) -> list[Any]:
        return [self.policy, self.mind, self.task, self.seed, self.dice, self.run]

    def evaluate(
        self, policy: str | None, mind: str | None, task: str | None, seed: float | None
    ) -> Iterator[Updates]:  # fmt: skip
        """Stream both runs picture by picture, then show their films. Bad input touches the message alone."""
        duo, service, now = self.duo, self.service, Both()
        yield {self.message: "", **pairs.can_ask(self.asked(), False)}
        try:
            number = session.whole(seed, "scene seed")
            runs = service.evaluate(policy or "", mind or "", task or "", number, limit=self.limit)
            for latest in runs:
                if now.dream is None and latest.dream is not None:  # the question is fine: what was shown may go
                    first, waiting = latest.dream.frames[0], words.busy("looking at the scene")
                    yield pairs.show_still(duo.dream, first) | pairs.show_still(duo.real, first, waiting)
                    yield {duo.said: ""}
                for side, old, new in ((duo.dream, now.dream, latest.dream), (duo.real, now.real, latest.real)):
                    if new is not None and new is not old:
                        yield from self._progress(side, old, new)
                now = latest
            assert now.dream is not None and now.real is not None
            fresh = pairs.show_film(duo.dream, service, list(now.dream.frames), self._dreamed(now))
            fresh |= pairs.show_film(duo.real, service, list(now.real.frames), self._verdict(now.real))
            yield fresh | {duo.said: f'<p class="vv-caption"><b>{agreement(now)}</b> {ONE_RUN}</p>'}
        except Exception as error:  # the border of the page: what went wrong is one sentence under the button
            yield {self.message: words.message(session.failure(error, "The run"))}
        yield pairs.can_ask(self.asked(), True)

    def _progress(self, side: Side, old: Execution | None, new: Execution) -> Iterator[Updates]:
        for frame in new.frames[1 if old is None else len(old.frames) :: 2]:
            yield {side.live: show.enlarge(frame)}
        yield {side.live: show.enlarge(new.frames[-1]), side.verdict: self._verdict(new)}

    def _verdict(self, now: Execution) -> str:
        return words.execution(now, self.service.steps_per_second, self.limit)

    def _dreamed(self, now: Both) -> str:
        assert now.dream is not None
        after, sure = words.control_steps(now.dream.steps), f"{100 * now.likely:.0f} % likely at best"
        return words.badge(now.dream.success, f"after {after}, {JUDGED}: {sure}")


def agreement(now: Both) -> str:
    """Whether dream and simulator end alike, in a sentence."""
    assert now.dream is not None and now.real is not None
    if now.agree:
        return "They agree: fulfilled in both." if now.real.success else "They agree: fulfilled in neither."
    where = ("the dream", "the simulator") if now.dream.success else ("the simulator", "the dream")
    return f"They disagree: fulfilled in {where[0]}, not in {where[1]}."


def _choices(infos: Sequence[FamilyInfo]) -> list[tuple[str, str]]:
    return [(info.title, info.name) for info in infos if info.problem is None]


def _build_live(service: Service, infos: Sequence[FamilyInfo], limit: int) -> Live | None:
    """The controls and the two films, or what is missing for them."""
    policies = [info for info in infos if info.acts]
    minds = [info for info in infos if info.told and info.general]
    missing = [f"{info.title}: {info.problem}." for info in minds if info.problem is not None]
    problem = service.simulator_problem or service.judge_problem
    if problem is not None:
        missing.append(session.sentence(ValueError(problem)))
    if not _choices(policies) or not _choices(minds):
        gr.HTML(words.messages(["Nothing can be run here yet: no weights of a policy and a world model.", *missing],
                               "quiet"))  # fmt: skip
        return None
    parts: dict[str, Any] = {"service": service, "limit": limit}
    with gr.Row(elem_classes="vv-asked"):
        for key, label, offered in (("policy", "Policy", policies), ("mind", "World model", minds)):
            parts[key] = gr.Dropdown(_choices(offered), value=_choices(offered)[0][1], label=label, min_width=80)
        parts["task"] = gr.Dropdown(list(service.trained_tasks()), value=FIRST_TASK, label="Task", min_width=80)
    with gr.Row(elem_classes="vv-asked"):
        with gr.Row(elem_classes="vv-seed"):
            parts["seed"] = open_number(FRESH_SEED, "Scene seed", min_width=70)
            parts["dice"] = gr.Button("New scene", size="sm", min_width=60, elem_classes="vv-dice")
        parts["run"] = gr.Button(
            "Run in both", variant="primary", elem_classes="vv-primary", min_width=80, interactive=problem is None
        )
    if missing:
        gr.HTML(words.messages(missing, "note"))
    parts["message"] = gr.HTML(elem_classes="vv-status")
    parts["duo"] = pairs.build_duo()
    return Live(**parts)


def _wire_live(live: Live, tab: gr.Tab) -> None:
    def look(task: str | None, seed: float | None) -> Updates:
        return pairs.show_start(live.duo, live.service, task, seed)

    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
    live.dice.click(None, None, live.seed, js=f"() => {FRESH_SEED} + Math.floor(Math.random() * 1e6)", **quiet)
    pairs.wire_start(tab, look, [live.task, live.seed], live.duo.components())
    gr.on(
        [live.task.input, live.seed.change], look, [live.task, live.seed], live.duo.components(),
        trigger_mode="always_last", **quiet,
    )  # fmt: skip
    live.run.click(
        live.evaluate, [live.policy, live.mind, live.task, live.seed],
        [*live.asked(), live.message, *live.duo.components()],
        concurrency_id=MODELS, concurrency_limit=2, show_progress="hidden", api_name="run_in_both",
        preprocess=False,  # the handler says what is wrong with a value
    )  # fmt: skip


def build(service: Service, tab: gr.Tab, limit: int = RANK_STEPS, ranking: Path = RANKING) -> None:
    """Lay out the tab inside the current blocks and wire it.

    Args:
        limit: control steps that a run may take.
        ranking: figure file of policies in dream and simulator.
    """
    infos = service.families()
    with gr.Column(elem_classes="vv-dreams"):
        with gr.Column(elem_classes="vv-card", elem_id="card-policies"):
            gr.HTML(words.head("Policies in the dream", ABOUT, show.COLOURS[0]))
            with gr.Row(elem_classes="vv-halves"):
                with gr.Column():
                    _build_ranking(infos, ranking)
                with gr.Column():
                    live = _build_live(service, infos, limit)
        evolution.build(service, tab, infos)
    if live is not None:
        _wire_live(live, tab)
