"""`amp compare --serve`: a page on this machine where people choose an image, ask, and see the answers side by side.

Only 127.0.0.1 can reach it; nothing is fetched from elsewhere, nothing is told to anybody, nothing is kept for long.
"""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

from amp_cli import stopping, ui
from amp_cli.asking.answerer import Request
from amp_cli.compare.comparing import check_sides, spec_of
from amp_cli.compare.marking import OTHER, mark_items
from amp_cli.compare.questions import ComparedQuestions, Wanted
from amp_cli.compare.sides import DESCRIBE, CompareSettings
from amp_cli.errors import AmpError
from amp_cli.models.images import check_image

HOST = "127.0.0.1"
EXTRA = "pip install 'amp-cli[compare]'"
TRIED_PORTS = 20
KEPT = 600
"""Seconds that an uploaded image stays on the disk, in a folder that is removed at the end."""
STYLE = f"""
.amp-title {{ margin: 0; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }}
.amp-answer {{ white-space: pre-line; font-size: 16px; line-height: 1.55; overflow-wrap: anywhere; }}
.amp-answer mark.{OTHER} {{ color: inherit; background: color-mix(in srgb, #7d4fd6 22%, transparent);
  text-decoration: underline dashed 1px; text-underline-offset: 3px; }}
"""


class AskedSide(Protocol):
    """A side that answers at once; see `LiveModel`."""

    def answer(self, request: Request) -> tuple[str, ...]: ...


def serve_comparison(settings: CompareSettings, *, port: int) -> None:
    """Load the models, open the page, and answer until the process is told to stop.

    Raises:
        AmpError: gradio is not installed, a model cannot be used, or no port is free.
    """
    from amp_cli.asking.live import load_live

    specs = [spec_of(side, settings) for side in settings.sides]
    names = [side.name for side in settings.sides]
    with tempfile.TemporaryDirectory(prefix="amp-compare-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when gradio is imported, and when an upload comes
        gradio = _gradio()
        check_sides(settings)
        live = load_live(specs, settings.decoding, settings.running)
        page = build_page(gradio, names, live)
        address = _launched(gradio, page, port)
        ui.line(address)
        ui.note("Open it in a browser on this machine. Ctrl-C ends it, and removes what was uploaded")
        stopping.say_at_the_end("The page is closed, and what was uploaded to it is removed.")
        is_told = threading.Event()
        with ui.waiting():
            try:
                with stopping.heard_by(is_told.set):
                    is_told.wait()
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # first: closing waits for an answer that is being made
                page.close(verbose=False)


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ImportError as error:
        raise AmpError("--serve needs gradio, which is not installed", hint=EXTRA) from error
    return gradio


def build_page(gradio: Any, names: Sequence[str], sides: Sequence[AskedSide]) -> Any:
    """Return the page: an image, a question, and an answer for each side."""
    with gradio.Blocks(
        title=f"{' and '.join(names)} side by side", analytics_enabled=False, delete_cache=(KEPT, KEPT)
    ) as page:
        gradio.HTML(f'<h1 class="amp-title">{escape(" and ".join(names))} side by side</h1>')
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                image = gradio.Image(label="Image", type="filepath", format="png", sources=["upload", "clipboard"])
                question = gradio.Textbox(label="Question", value=DESCRIBE, lines=2, max_length=20_000)
                button = gradio.Button("Ask", variant="primary")
            with gradio.Column(scale=2, min_width=280):
                shown = [gradio.HTML(label=name, show_label=True, container=True, padding=True) for name in names]

        def ask(uploaded: Mapping[str, Any] | None, text: str) -> Iterator[list[str]]:
            yield from answers_in_html(names, sides, None if uploaded is None else uploaded["path"], text)

        for event in (button.click, question.submit):
            event(
                ask,
                [image, question],
                shown,
                preprocess=False,  # gradio would say no more than "Error" of a file that is not an image; we say why
                concurrency_limit=1,
                concurrency_id="models",
                api_visibility="private",
            )
    return page


def answers_in_html(
    names: Sequence[str], sides: Sequence[AskedSide], path: str | None, question: str
) -> Iterator[list[str]]:
    """Yield each side's answer, or in its place why there is none: as they come, at last with differing words marked.

    Args:
        path: of the image; None asks without one.
    """
    if not question.strip():
        yield [_told("Write a question first.")] * len(names)
        return
    images = () if path is None else (Path(path),)
    try:
        for one in images:
            check_image(one)
    except AmpError as error:
        yield [_told(f"This image cannot be used. {error.hint}")] * len(names)
        return
    request = Request(id="live", images=images, questions=(question.strip(),))
    answers: dict[str, tuple[str, ...]] = {}
    shown = dict.fromkeys(names, _told("…"))
    for name, side in zip(names, sides, strict=True):
        yield list(shown.values())
        try:
            answers[name] = side.answer(request)
            shown[name] = _told(answers[name][0])
        except AmpError as error:
            shown[name] = _told(f"No answer: {error.message}")
    yield list({**shown, **_marked(request, answers)}.values())


def _marked(request: Request, answers: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    if len(answers) < 2:
        return {name: _told(texts[0]) for name, texts in answers.items()}
    questions = ComparedQuestions(wanted=(Wanted(request=request),), total=1, refused=(), identity={}, inputs=())
    (item,) = mark_items(questions, {request.id: answers}, None)
    return {
        reply.run: _in_html("".join(_piece(piece.text, piece.kind) for piece in reply.pieces))
        for reply in item.rounds[0].replies
    }


def _piece(text: str, kind: str) -> str:
    return f'<mark class="{kind}">{escape(text)}</mark>' if kind else escape(text)


def _told(text: str) -> str:
    return _in_html(escape(text))


def _in_html(content: str) -> str:
    return f'<div class="amp-answer">{content}</div>'


def _launched(gradio: Any, page: Any, port: int) -> str:
    """Start the server and return its address.

    Raises:
        AmpError: none of the ports is free.
    """
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_700",  # the theme's own orange is too light behind white letters
        button_primary_background_fill_hover="*primary_800",
    )
    for number in range(port, min(port + TRIED_PORTS, 65_536)):
        if not _is_free(number):
            continue
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=number,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            allowed_paths=[],
            theme=theme,
            css=STYLE,
        )
        return str(address)
    raise AmpError(f"No port from {port} to {port + TRIED_PORTS - 1} is free", hint="Give another --port")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
    return True
