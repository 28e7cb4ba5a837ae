"""The command line: parse arguments, one service call each."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from vidvla.types import DENOISING_STEPS

if TYPE_CHECKING:
    from vidvla.eval.metrics import Row

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A playground of trained world models.")

Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
FamilyNames = Annotated[str, typer.Option("--family", help="Names with commas between, or 'all'.")]
Tasks = Annotated[str, typer.Option(help="Task names with commas between, or 'avdc' for AVDC's eleven.")]
Seeds = Annotated[str, typer.Option(help="Range A:B of layout seeds, B excluded.")]
DataFolder = Annotated[Path, typer.Option(help="Folder that holds runs/.")]


def parse_seeds(text: str) -> range:
    """``A:B`` -> range(A, B); ValueError otherwise."""
    start, colon, stop = text.partition(":")
    if not colon or not start.isdigit() or not stop.isdigit() or int(stop) <= int(start):
        raise ValueError(f"expected seeds as A:B with A < B, got {text!r}")
    return range(int(start), int(stop))


def parse_tasks(text: str) -> list[str]:
    """``avdc`` or names with commas between -> task names; ValueError lists the known ones."""
    from vidvla.text import phrase_book
    from vidvla.worlds.metaworld import AVDC_TASKS

    if text == "avdc":
        return list(AVDC_TASKS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in phrase_book()]
    if unknown or not names:
        raise ValueError(f"expected tasks among {', '.join(phrase_book())}; got {text!r}")
    return names


def parse_families(text: str) -> list[str]:
    """``all`` or names with commas between -> family names; ValueError lists the known ones."""
    from vidvla.registry import families, family

    if text == "all":
        return list(families())
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        family(name)
    return names


def asked_families(text: str) -> Iterator[str]:
    """The families of :func:`parse_families`, of ``all`` those that are trained; a word on stderr for the others."""
    names = parse_families(text)  # now: what follows is done family by family
    return _trained(names) if text == "all" else iter(names)


def _trained(names: list[str]) -> Iterator[str]:
    from vidvla.checkpoint import ASSETS
    from vidvla.registry import missing

    for name in names:
        if (problem := missing(name, ASSETS / "checkpoints")) is None:
            yield name
        else:
            typer.echo(f"left out {name}: {problem}", err=True)


def parse_options(texts: list[str]) -> dict[str, float | str]:
    """``family.control=value`` each -> what a request's options are; numbers become numbers."""
    found: dict[str, float | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"expected family.control=value, got {text!r}")
        try:
            found[key.strip()] = float(value)
        except ValueError:
            found[key.strip()] = value.strip()
    return found


def read_phrasings(path: Path) -> dict[str, list[str]]:
    """A TOML file of ``task = [phrases]``; ValueError where it is not one."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a TOML file of task = [phrases] in {path}, got: {error}") from error
    for task, phrases in table.items():
        if not isinstance(phrases, list) or not phrases or not all(isinstance(p, str) for p in phrases):
            raise ValueError(f"expected a list of phrases for {task!r} in {path}, got {phrases!r}")
    return table


def _command() -> str:
    return "vidvla " + shlex.join(sys.argv[1:])


@app.command()
def record(
    world: Annotated[str, typer.Option(help="metaworld or physics.")] = "metaworld",
    tasks: Tasks = "avdc",
    seeds: Seeds = "0:600",
    kind: Annotated[str, typer.Option(help="expert, recover, noisy, play, drive, student, attempt, or mix.")] = "mix",
    student: Annotated[str, typer.Option(help="The published family that acts in students and attempts.")] = "gr2",
    workers: Annotated[int, typer.Option(min=1)] = 2,
    size: Annotated[int, typer.Option(help="Side of the frames in pixels; 0 records no frames.")] = 128,
    steps: Annotated[int, typer.Option(help="Control steps of an episode at most; 0 is the kind's own.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; runs/data/WORLD by default, WORLD-unseen without frames.")
    ] = None,
) -> None:
    """Record episodes (or physics clips) to shards; finished shards are kept."""
    import functools

    from tqdm import tqdm

    from vidvla import checkpoint, registry
    from vidvla.data.episode import POLICY_KINDS
    from vidvla.data.record import UNSEEN, WORLDS, How
    from vidvla.data.record import record as run
    from vidvla.worlds.physics import KINDS

    if world not in WORLDS:
        raise ValueError(f"expected a world among {', '.join(WORLDS)}; got {world!r}")
    names = list(KINDS) if world == "physics" else parse_tasks(tasks)
    with tqdm(desc=f"shards of {world}", delay=0.5) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        chosen = None if kind == "mix" else kind
        folder = out or Path("runs/data") / (world if size else world + UNSEEN)
        policy = functools.partial(registry.student, student, checkpoint.ASSETS / "checkpoints")
        how = How(chosen, size, steps or None, policy if chosen in POLICY_KINDS else None)
        shards = run(folder, world, names, parse_seeds(seeds), how, workers=workers, progress=show)
    typer.echo(f"{sum(len(s.episodes) for s in shards)} episodes in {folder}")


@app.command()
def train(
    family: Annotated[str, typer.Argument(help="The family to train, shared phases included.")],
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")] = 0,
    phase: Annotated[str, typer.Option(help="Run this phase alone, such as gr2.joint.")] = "",
    size: Annotated[str, typer.Option(help="small (two CPU cores) or gpu.")] = "small",
    root: DataFolder = Path(),
) -> None:
    """Run whatever phases of a family are missing, resume interrupted ones, and publish the weights."""
    import torch
    from accelerate import PartialState

    from vidvla.registry import family as find
    from vidvla.train.run import default_context, run_phase
    from vidvla.train.run import train as run

    if threads:
        torch.set_num_threads(threads)
    kind, context = find(family), default_context(root, size)
    if phase:
        chosen = [p for p in kind.phases(size) if p.name == phase]
        if not chosen:
            raise ValueError(f"expected a phase among {', '.join(p.name for p in kind.phases(size))}; got {phase!r}")
        run_phase(context, chosen[0], device)
        PartialState().destroy_process_group()
        return
    ran = run(kind, context, device)
    PartialState().destroy_process_group()
    typer.echo(f"trained {', '.join(ran) or 'nothing (all phases were done)'}; published {family}")


@app.command()
def restore(family: FamilyNames = "all", root: DataFolder = Path()) -> None:
    """Take the published weights as finished phases, to train on from them on another machine."""
    from vidvla.registry import family as find
    from vidvla.train.run import default_context
    from vidvla.train.run import restore as run

    for name in asked_families(family):
        typer.echo(f"{name}: {', '.join(run(find(name), default_context(root)))}")


@app.command()
def publish(family: str, root: DataFolder = Path()) -> None:
    """Write a trained family's weights into the assets."""
    from vidvla.registry import family as find
    from vidvla.train.run import default_context

    find(family).publish(default_context(root))
    typer.echo(f"published {family}")


@app.command()
def families(as_json: Json = False) -> None:
    """List the families: what each one is, what it can be asked for, and whether it is trained."""
    from dataclasses import asdict

    from vidvla.service import Service

    infos = Service(device="cpu").families()
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos]))
        return
    for info in infos:
        typer.echo(f"{info.name:10} {info.title}: {info.summary}")
        for control in info.controls:
            typer.echo(f"{'':10} --set {info.name}.{control.name}= {control.allowed}")
        if info.problem is not None:
            typer.echo(f"{'':10} {info.problem}")


@app.command()
def predict(
    family: FamilyNames = "all",
    instruction: Annotated[str, typer.Option(help="What to do; the task's plainest phrasing by default.")] = "",
    task: Annotated[str, typer.Option(help="Start from this task's scene.")] = "",
    seed: Annotated[int, typer.Option(help="Layout seed of the scene, and of the sampler.")] = 500_000,
    image: Annotated[Path | None, typer.Option(help="Start from this picture instead.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = DENOISING_STEPS,
    guidance: Annotated[float, typer.Option(help="Weight of the instruction.")] = 1.0,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="A family's own control: family.control=value.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for film strips (PNG).")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Predict the film and the actions from a scene or a picture."""
    from vidvla.images import read_upload
    from vidvla.service import Service
    from vidvla.types import Request

    service = Service(device=device)
    if (image is None) == (not task):
        raise ValueError("expected either --task or --image")
    scene = service.scene(task, seed) if task else None
    frame = scene.frame if scene is not None else read_upload(Path(str(image)))
    said = instruction or (scene.instruction if scene is not None else "")
    truth = service.truth(scene) if scene is not None else None
    answers: list[dict[str, Any]] = []
    request = Request(frame, said, seed % 2**31, steps, guidance, options=parse_options(options or []))
    service.check(request)
    for name in asked_families(family):
        rollout = service.predict(name, request)
        answer: dict[str, Any] = {
            "family": name, "instruction": said, "seconds": rollout.seconds, "times": rollout.times,
            "actions": None if rollout.actions is None else rollout.actions.round(3).tolist(),
            "units": service.action_spec.units, "notes": rollout.notes, "dreamed_by": rollout.dreamed_by,
            "target_time": rollout.target_time,
        }  # fmt: skip
        if truth is not None and len(rollout.frames):
            quality = service.quality(rollout, truth, frame)
            answer |= {"psnr": quality.psnr, "psnr_copy": quality.psnr_copy}
        shown = {name: list(rollout.frames)}
        shown |= {} if rollout.target is None else {f"{name}-target": [rollout.target]}
        for file, pictures in shown.items():
            if out is not None and pictures:
                out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.concatenate(pictures, axis=1)).save(out / f"{file}.png")
        answers.append(answer)
        if not as_json:
            typer.echo(f"{name}: {len(rollout.frames)} frames, {rollout.seconds['total']:.2f} s")
            for note in rollout.notes:
                typer.echo(f"  {note}")
    if as_json:
        typer.echo(json.dumps(answers))


ON_THE_PAGE = ("drive", "page")
"""Measurements in a browser: speed of the tab Drive, and of answers in the tab Compare."""


def _measure_page(what: str, device: str, out: Path | None) -> list[Row]:
    """Measure the page, whose layer lies above that of the other measurements."""
    from app.speed import MEASURES
    from vidvla import checkpoint
    from vidvla.eval.benchmark import write_benchmark
    from vidvla.service import Service

    rows = MEASURES[what](Service(None, device))
    write_benchmark(out or checkpoint.ASSETS / "benchmarks" / "speed.json", rows, _command(), None, "metaworld")
    return rows


@app.command("eval")
def evaluate(
    what: Annotated[str, typer.Argument(help="closed-loop, film, speed, rollout ...; a wrong name lists them all.")],
    family: FamilyNames = "all",
    tasks: Tasks = "avdc",
    seeds: Annotated[
        str, typer.Option(help="Range A:B of layout seeds; those of the published figures by default.")
    ] = "",
    phrasings: Annotated[Path | None, typer.Option(help="TOML file: task = [phrases].")] = None,
    out: Annotated[Path | None, typer.Option(help="Figure file; assets/benchmarks/ for all of AVDC's tasks.")] = None,
    execute: Annotated[int, typer.Option(help="closed-loop: actions executed before looking again.")] = 8,
    steps: Annotated[int, typer.Option(help="Denoising steps a film.")] = DENOISING_STEPS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure on held-out seeds and write rows with n and 95 % intervals; ``drive`` and ``page`` time the page."""
    from dataclasses import asdict

    from vidvla.eval.suite import MEASURES, measure

    if what not in (*MEASURES, *ON_THE_PAGE):
        raise ValueError(f"expected a measurement among {', '.join((*MEASURES, *ON_THE_PAGE))}; got {what!r}")
    if what in ON_THE_PAGE:
        rows = _measure_page(what, device, out)
    else:
        rows = measure(
            what, asked_families(family), parse_tasks(tasks), parse_seeds(seeds) if seeds else None,
            phrasings=None if phrasings is None else read_phrasings(phrasings),
            out=out, execute=execute, steps=steps, device=device, command=_command(),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        if row.task == "all":
            typer.echo(f"{row.family:10} {row.metric:16} {row.value:8.3f} [{row.low:.3f}, {row.high:.3f}] n={row.n}")


@app.command()
def samples(seeds: Seeds = "500900:500911") -> None:
    """Write the shipped sample frames with their true futures."""
    from vidvla.service import Service

    typer.echo(f"wrote {', '.join(Service().make_samples(parse_seeds(seeds)))}")


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="Markdown document with figure blocks.")] = Path("README.md"),
) -> None:
    """Renew a document's tables from the figure files."""
    from vidvla.eval.report import write_report

    write_report(path)
    typer.echo(f"renewed the figures in {path}")


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    host: str = "127.0.0.1",
    device: Device = "auto",
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of published checkpoints.")] = None,
) -> None:
    """Open the playground in a browser."""
    from app.main import launch
    from vidvla.service import Service

    launch(Service(checkpoints, device), host, port)


def main() -> None:
    """Entry point: errors that a person can mend are one sentence and exit code 1."""
    try:
        app()
    except (ValueError, RuntimeError, OSError) as error:
        typer.echo(f"vidvla: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
