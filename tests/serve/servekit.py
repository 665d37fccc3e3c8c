"""A real server on a free port, around a tiny random model, and clients for it."""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import uvicorn
from openai import OpenAI
from PIL import Image

from liquid_mm.generate.model import LiquidModel
from liquid_mm.serve.app import Server, create_app
from liquid_mm.serve.service import Service
from liquid_mm.serve.settings import Settings
from tiny_checkpoint import tiny_checkpoint

PHOTO = Image.effect_mandelbrot((40, 24), (-2, -1.5, 1, 1.5), 20).convert("RGB")


def chatty_model(max_batch: int = 8) -> LiquidModel:
    """A model whose replies are chance: 64 characters and, now and then, a picture; they end when they are full."""
    checkpoint = tiny_checkpoint("gemma")
    with torch.no_grad():
        checkpoint.llm.get_output_embeddings().weight.mul_(1e-3)
    model = LiquidModel(checkpoint, max_batch)
    first_byte = checkpoint.tokenizer.convert_tokens_to_ids("<0x00>")
    model.engine.vocabulary = dataclasses.replace(model.vocabulary, text_size=first_byte + 64)
    model.renderer.stop_ids = frozenset({model.vocabulary.code_offset - 1})
    return model


class Running(Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config, service)
        self.up = threading.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.up.set()


@dataclasses.dataclass
class Served:
    """A server that runs in a thread."""

    server: Running
    service: Service
    model: LiquidModel
    url: str
    thread: threading.Thread
    clients: ExitStack

    def client(self, key: str = "none") -> OpenAI:
        client = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)
        return self.clients.enter_context(client)


@contextmanager
def serving(settings: Settings | None = None, model: LiquidModel | None = None, page: bool = False) -> Iterator[Served]:
    model = model or chatty_model()
    app = create_app(model, settings, name="tiny", page=page)
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=60)
    server = Running(config, app.state.service)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.up.wait(60), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        with ExitStack() as clients:
            yield Served(server, app.state.service, model, f"http://127.0.0.1:{port}", thread, clients)
    finally:
        server.should_exit = True
        thread.join(90)
        assert not thread.is_alive()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def url(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def unpacked(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))
