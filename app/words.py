"""Short pieces of HTML that the tabs share; everything that people or files wrote is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vidvla.eval.rollouts import Execution
from vidvla.types import Rollout
from vidvla.views import FamilyInfo


def head(title: str, text: str, colour: str) -> str:
    """A column's title with its colour, and one muted sentence."""
    return (
        f'<div class="vv-head"><h3><i style="background:{colour}"></i>{escape(title)}</h3>'
        f'<p title="{escape(text)}">{escape(text)}</p></div>'
    )


def family_head(info: FamilyInfo, colour: str) -> str:
    """A family's title and summary."""
    return head(info.title, info.summary, colour)


def choice(info: FamilyInfo) -> tuple[str, str]:
    """(label, value) of a family in a picker: one that cannot be asked yet says so."""
    return (info.title if info.problem is None else f"{info.title} (not trained yet)"), info.name


def message(text: str, kind: str = "error") -> str:
    """One sentence in a box: ``error``, ``note`` or ``quiet``. Nothing at all for an empty text."""
    if not text:
        return ""
    role = ' role="alert"' if kind == "error" else ""
    return f'<div class="vv-message vv-{kind}"{role}>{escape(text)}</div>'


def chosen(yes: bool) -> str:
    """An invisible mark: its column is shown before it has anything to say."""
    return '<i class="vv-chosen"></i>' if yes else ""


def messages(texts: Sequence[str], kind: str) -> str:
    """One box a sentence."""
    return "".join(message(text, kind) for text in texts)


def busy(text: str) -> str:
    """A spinner with a few words."""
    return f'<div class="vv-busy" role="status"><span class="vv-spin"></span>{escape(text)}</div>'


def settled(html: str | None) -> str:
    """``html`` unless that is a spinner, which nobody waits for any more."""
    return "" if html is None or 'class="vv-busy"' in html else html


def heading(text: str, hint: str = "") -> str:
    """The title of a column's section, and a muted hint beside it."""
    return f'<div class="vv-heading"><b>{escape(text)}</b><span>{escape(hint)}</span></div>'


def legend(rows: Sequence[tuple[str, str]]) -> str:
    """(label, colour) entries of a chart's legend."""
    entries = "".join(f'<span><i style="background:{colour}"></i>{escape(label)}</span>' for label, colour in rows)
    return f'<div class="vv-legend">{entries}</div>'


def figures(rows: Sequence[tuple[str, str]], line: str) -> str:
    """A row of (value, label) tiles over a muted line."""
    tiles = "".join(f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in rows)
    return f'<div class="vv-figures">{tiles}</div><p class="vv-parts">{escape(line)}</p>'


def count(number: int) -> str:
    """A number of weights: 14.2 M, 830 k."""
    if number >= 1_000_000:
        return f"{number / 1e6:.1f} M"
    return f"{number / 1000:.0f} k" if number >= 1000 else str(number)


def seconds(value: float) -> str:
    """A duration: 0.42 s, 1.7 s, 12 s."""
    return f"{value:.{2 if value < 1 else 1 if value < 10 else 0}f} s"


def time_parts(rollout: Rollout) -> str:
    """Where the time went: encode 0.01 + film 0.05 s."""
    return " + ".join(f"{part} {value:.2f}" for part, value in rollout.seconds.items() if part != "total") + " s"


def moment(step: int, steps_per_second: float) -> str:
    """A control step with its time: step 8 · 0.50 s."""
    return f"step {step} · {step / steps_per_second:.2f} s"


def execution(now: Execution, steps_per_second: float, limit: int) -> str:
    """How far a closed loop is, or how it ended."""
    looks = f"{now.plans} look{'s' if now.plans != 1 else ''}"
    spent = f"{control_steps(now.steps)} ({now.steps / steps_per_second:.1f} s), {looks}"
    if not now.done:
        return busy(f"step {now.steps} of at most {limit}, {looks}")
    return badge(now.success, f"after {spent}")


def control_steps(number: int) -> str:
    """A count of them: 1 control step, 8 control steps."""
    return f"{number} control step{'s' if number != 1 else ''}"


def badge(success: bool, text: str) -> str:
    """How an episode ended, and a few words on it."""
    kind, verdict = ("yes", "Task fulfilled") if success else ("no", "Not fulfilled")
    return f'<div class="vv-badge vv-{kind}" role="status"><b>{verdict}</b><span>{escape(text)}</span></div>'
