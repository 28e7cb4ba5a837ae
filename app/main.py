"""The page: header, tabs, footer. It asks the service and shows the answers; no model lives here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gradio as gr

from app.blocks import Blocks
from app.socket import Sockets
from app.tabs import act, attention, compare, dreams, drive, models
from vidvla.eval.rollouts import EPISODE_STEPS
from vidvla.service import Service
from vidvla.turns import share_cores

TITLE = "vidvla: a world-model playground"
HEADER = """
<header class="vv-header"><h1>vidvla</h1>
<p>Several models imagine what a robot does next, and how.
Compare them with the truth, then let them act.</p></header>
"""
FOOTER = """
<footer class="vv-footer">Simulator: Meta-World (Yu et al. 2019) over MuJoCo. Instructions: all-MiniLM-L6-v2.
The families are small re-implementations of published ideas, trained on one CPU: their figures are their own,
not the papers'.</footer>
"""
STYLE = Path(__file__).parent / "style.css"
SCRIPT = Path(__file__).parent / "sync.js"
DAY = 24 * 60 * 60
SESSIONS = 64
"""Sessions whose answers are kept; the oldest one goes first."""
SWITCH = 5e-4
"""Seconds that a thread holds the interpreter while others wait: a model asks for it hundreds of times an answer, and
would wait Python's 5 ms for what shows the answer before."""
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """System fonts (no request leaves the page), quiet greys, one blue."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        secondary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        input_border_width="1px",
    )


def build(service: Service, episode_steps: int = EPISODE_STEPS) -> gr.Blocks:
    """The page over ``service``; ``episode_steps`` limits an executed episode."""
    with Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(DAY // 24, DAY // 4)) as page:
        gr.HTML(HEADER)
        with gr.Tabs(elem_id="vv-tabs"):
            with gr.Tab("Compare"):
                compare.build(service, episode_steps)
            with gr.Tab("Act") as acting:
                act.build(service, acting, episode_steps)
            with gr.Tab("Attention") as looking:
                attention.build(service, looking)
            with gr.Tab("Drive"):
                drive.build(service)
            with gr.Tab("Dreams") as dreaming:
                dreams.build(service, dreaming)
            with gr.Tab("Models") as tab:
                models.build(service, tab)
        gr.HTML(FOOTER)
    return page


def launch(
    service: Service, host: str = "127.0.0.1", port: int | None = None, *,
    episode_steps: int = EPISODE_STEPS, block: bool = True,
) -> tuple[gr.Blocks, str]:  # fmt: skip
    """Serve the page; returns it and its address at once where ``block`` is False.

    Args:
        port: the first free one where None.
    """
    sys.setswitchinterval(SWITCH)
    share_cores()
    page = build(service, episode_steps).queue(default_concurrency_limit=4)
    options: Any = {"footer_links": [], "state_session_capacity": SESSIONS, "max_file_size": "25mb"}
    options["app_kwargs"] = {"routes": Sockets(service).routes()}
    _, address, _ = page.launch(
        server_name=host, server_port=port, prevent_thread_lock=not block, theme=theme(), css_paths=STYLE,
        js=SCRIPT.read_text(encoding="utf-8"), ssr_mode=False, quiet=not block, **options,
    )  # fmt: skip
    return page, address
