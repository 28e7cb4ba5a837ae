"""The command line: one sentence and a non-zero exit for what cannot be done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vidvla.cli import asked_families, parse_families, parse_options, parse_seeds, parse_tasks, read_phrasings


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vidvla.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_arguments_are_parsed() -> None:
    assert parse_seeds("500000:500010") == range(500_000, 500_010)
    assert len(parse_tasks("avdc")) == 11 and parse_tasks("reach, door-open") == ["reach", "door-open"]
    assert "gr2" in parse_families("all") and parse_families("unipi") == ["unipi"]


def test_options_are_parsed() -> None:
    assert parse_options(["gr2.guidance=2", "gr2.read = last step"]) == {"gr2.guidance": 2.0, "gr2.read": "last step"}
    with pytest.raises(ValueError, match=r"family\.control=value"):
        parse_options(["guidance"])


@pytest.mark.parametrize("text", ["", "5", "9:3", "a:b", "-1:5"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="A:B"):
        parse_seeds(text)


def test_wrong_phrasings(tmp_path: Path) -> None:
    path = tmp_path / "phrases.toml"
    with pytest.raises(ValueError, match="TOML"):
        read_phrasings(path)
    path.write_text('door-open = "open it"')
    with pytest.raises(ValueError, match="list of phrases"):
        read_phrasings(path)
    path.write_text('door-open = ["open it"]')
    assert read_phrasings(path) == {"door-open": ["open it"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "closed-loop", "--family", "nobody"),
        ("eval", "dreams"),
        ("eval", "film", "--seeds", "0:5"),
        ("eval", "film", "--tasks", "fly"),
        ("eval", "film", "--tasks", "door-open"),
        ("eval", "following", "--execute", "4", "--out", "figures.json"),  # it looks once
        ("record", "--seeds", "600000:600001"),
        ("predict", "--family", "bc"),
        ("train", "nobody"),
        ("train", "bc", "--phase", "bc.nothing"),
        ("record", "--world", "moon"),
        ("serve", "--device", "abacus"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_1(arguments: tuple[str, ...]) -> None:
    done = _run(*arguments)
    assert done.returncode == 1
    assert "expected" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_phrasings_of_unknown_tasks_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "phrases.toml"
    path.write_text('make-tea = ["put the kettle on"]')
    done = _run("eval", "phrasings", "--phrasings", str(path), "--out", str(tmp_path / "figures.json"))
    assert done.returncode == 1 and "make-tea" in done.stderr and "Traceback" not in done.stderr


def test_unreadable_pictures_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    done = _run("predict", "--image", str(path), "--instruction", "open the door")
    assert done.returncode == 1 and "expected a picture" in done.stderr and "Traceback" not in done.stderr


def test_all_means_all_that_are_trained(capsys: pytest.CaptureFixture[str]) -> None:
    names, known = list(asked_families("all")), parse_families("all")
    left = capsys.readouterr().err.strip().splitlines()
    assert names and [name for name in known if name in names] == names
    assert [line.split(":")[0] for line in left] == [f"left out {name}" for name in known if name not in names]
    assert list(asked_families("groot")) == ["groot"]  # whoever asks for one hears why it cannot answer
    with pytest.raises(ValueError, match="gr2"):
        asked_families("gr3")
