"""The page at `/`: create, understand, chat and compare in a browser, on the same service as the API.

Nothing is loaded from anywhere but this server.
"""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from liquid_mm.serve.limits import Keys
from liquid_mm.serve.page.drawing import compare_tab, create_tab
from liquid_mm.serve.page.talking import chat_tab, understand_tab
from liquid_mm.serve.service import Service

CSS = """
.picture img { width: 100% !important; height: 100% !important; object-fit: contain; padding-top: 2.4em; }
.kept .grid-wrap { padding-top: 2.8em; }
.conversation .message img { width: 12em !important; max-width: 100%; }
.conversation button[aria-label="Share"], .conversation button[title="Share"] { display: none; }
@media (max-width: 520px) {
  .tab-container button { padding: 0 8px !important; }
  .kept .grid-container { grid-template-columns: repeat(2, 1fr) !important; }
}
"""
"""Small pictures fill their place below its label, nothing is offered to be uploaded elsewhere, and a phone has room
for all four tabs, which Gradio would hide in a menu."""


def mount_page(app: FastAPI, service: Service, keys: Keys) -> None:
    """Put the page at `/` of `app`, behind a login with any name and an API key where keys are asked for."""
    gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        auth=(lambda _, password: keys.name(password) is not None) if keys else None,
        auth_message="Any user name; the password is an API key of this server." if keys else None,
        max_file_size=service.settings.max_body_bytes,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        footer_links=["gradio"],
        run_history=False,
        show_error=False,
        ssr_mode=False,
    )
    mounted = next(route.app for route in app.routes if isinstance(route, Mount) and hasattr(route.app, "stop_event"))
    # Browsers hold a connection open, which would keep the server from ending.
    service.on_drain.append(mounted.stop_event.set)


def build_page(service: Service) -> gr.Blocks:
    """The page's four tabs, not yet mounted anywhere."""
    # Files of visitors are deleted within two hours.
    page = gr.Blocks(title="Liquid", analytics_enabled=False, delete_cache=(3600, 3600))
    with page:
        gr.Markdown("# Liquid\nOne language model that reads, writes, sees and draws.")
        with gr.Tab("Create"):
            create_tab(service)
        with gr.Tab("Understand"):
            understand_tab(service)
        with gr.Tab("Chat"):
            chat_tab(service)
        with gr.Tab("Compare"):
            compare_tab(service)
    page.queue(max_size=service.settings.max_queue, default_concurrency_limit=None)
    return page
