"""The page as a web application: Gradio, a route for the results, and protecting headers."""

import hashlib
import hmac
import os
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

import gradio as gr
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response

from dream_o.errors import UserError
from dream_o.library_internals import set_mcp_address
from dream_o.locked_folders import make_temporary
from dream_o.page.api import add_api
from dream_o.page.compose import compose
from dream_o.page.desk import Desk
from dream_o.page.events import DEVICE, DREAM_O_TAB, RENDER_TAB, VARIATIONS, Page
from dream_o.page.examples import example_row, examples_of
from dream_o.page.fields import take_uploads_only
from dream_o.page.guard import Guard
from dream_o.page.render_form import RenderForm
from dream_o.page.request_files import QueuedFiles
from dream_o.page.studio import PICK, Studio
from dream_o.server.metrics import CONTENT_TYPE
from dream_o.server.worker_files import MAX_FILE_BYTES

ASSETS = Path(__file__).parent
TITLE = "DreamO"
# A browser stores its key under this name. Gradio encrypts the key with the secret, which is in the
# page's source. So this hides the key only from somebody who looks at the screen.
STORAGE, STORAGE_SECRET = "dream-o", "dream-o"
# The maximum number of requests that wait.
QUEUE_SIZE = 100
# Gradio deletes uploads that are older than this many seconds, and looks for them as often.
UPLOAD_SECONDS = 3600
SYSTEM_FONTS = ("system-ui", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "monospace")

Accounts = Mapping[str, str]
"""Passwords by user name."""


def theme() -> gr.themes.Base:
    """Gradio's default theme in the system's fonts, with enough contrast for text and buttons."""
    return gr.themes.Default(font=SYSTEM_FONTS, font_mono=MONOSPACE_FONTS).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_cancel_text_color="white",
        button_cancel_text_color_dark="white",
    )


def build(desk: Desk) -> gr.Blocks:
    """The page's components and events."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(UPLOAD_SECONDS, UPLOAD_SECONDS)
    ) as page:
        key = gr.BrowserState("", storage_key=STORAGE, secret=STORAGE_SECRET)
        studio = Studio(desk, key)
        gr.HTML(f"<h1>{TITLE}</h1>")
        if desk.banner:
            gr.HTML(f'<p class="banner">{desk.banner}</p>')
        note = gr.HTML("", elem_id="note")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320), gr.Tabs() as tabs:
                with gr.Tab("DreamO", id=DREAM_O_TAB):
                    form = compose(desk)
                with gr.Tab("DreamRender", id=RENDER_TAB):
                    render = RenderForm(desk)
            with gr.Column(scale=5, min_width=320):
                studio.lay_out(VARIATIONS)
        dropped = gr.File(
            label="Drop an image that was made here to restore its settings",
            file_types=[".webp", ".png", ".jpg", ".jpeg"],
            height=120,
            elem_id="restore",
        )
        take_uploads_only(dropped)
        rows = examples_of(desk.is_miniature)
        with gr.Accordion("Examples", open=True, elem_id="examples"):
            table = gr.HTML("".join(map(example_row, rows)), js_on_load=PICK)
        # First, because other events have functions with the same names, and the first gets it.
        add_api(desk, form, render, DEVICE)
        wired = Page(page, desk, form, render, studio, tabs)
        wired.wire_running()
        wired.wire_gallery()
        wired.wire_restoring(dropped, note, table, rows)
        wired.wire_loading()
    page.queue(max_size=QUEUE_SIZE)
    key.keep_in_cache = QueuedFiles(page)
    # Gradio then refuses paths of this machine that were not uploaded. Its own `launch` sets this;
    # mounting the page does not.
    page.has_launched = True
    return page


def create_app(
    desk: Desk,
    accounts: Accounts | None = None,
    mcp: bool = False,
    address: str | None = None,
    host: str = "",
    origins: Collection[str] = (),
) -> FastAPI:
    """The web application.

    Args:
        desk: the models and the results.
        accounts: who may use the page; None lets everybody in who can reach it.
        mcp: whether to offer the page's tools to agents by the Model Context Protocol.
        address: the address at which this process reaches itself. Without it, Gradio would take the
            address for all tool calls from the headers of the first one.
        host: the name or address that the page listens on; empty if it is not known.
        origins: addresses under which browsers open the page, such as a proxy's.
    """
    os.environ["GRADIO_TEMP_DIR"] = _uploads()
    page = build(desk)
    desk.metrics.set_ready(True)
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, host=host, origins=origins)

    def login_check(request: Request) -> None:
        if accounts is not None and not logged_in(request):
            raise HTTPException(401, "log in first")

    @app.get("/outputs/{place}/{name}", dependencies=[Depends(login_check)])
    def output(place: str, name: str) -> FileResponse:
        try:
            path = desk.outputs.at(place, name)
        except UserError as error:
            raise HTTPException(404, str(error)) from error
        return FileResponse(path, headers={"cache-control": "private, max-age=86400"})

    @app.get("/metrics", dependencies=[Depends(login_check)])
    def prometheus() -> Response:
        return Response(desk.metrics.text(), media_type=CONTENT_TYPE)

    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=_checker(accounts) if accounts is not None else None,
        blocked_paths=[str(desk.outputs.folder)],
        footer_links=["api"],
        run_history=False,
        show_error=False,
        max_file_size=MAX_FILE_BYTES,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=mcp,
        theme=theme(),
        css_paths=[ASSETS / "page.css"],
        js=(ASSETS / "page.js").read_text(encoding="utf-8"),
    )
    if mcp and address is not None:
        set_mcp_address(page, address)
    gradio = app.routes[-1].app  # type: ignore[attr-defined]

    def logged_in(request: Request) -> bool:
        names = (f"access-token-{gradio.cookie_id}", f"access-token-unsecure-{gradio.cookie_id}")
        return any(request.cookies.get(name) in gradio.tokens for name in names)

    return app


@cache
def _uploads() -> str:
    """The folder for uploads, which only this user can read and which is deleted at the end."""
    return str(make_temporary("page"))


def _checker(accounts: Accounts) -> Callable[[str, str], bool]:
    """Makes a function that checks a name and a password, in the same time for unknown names."""

    def check(name: str, password: str) -> bool:
        known = accounts.get(name, "")
        same = hmac.compare_digest(_digest(known), _digest(password))
        return same and name in accounts

    return check


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
