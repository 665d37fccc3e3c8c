"""The application: routes, health, limits and the page around one service.

app = create_app(model, Settings(api_keys=("secret",)))         any ASGI server runs it
run(app, "127.0.0.1", 8000)                                     ours: JSON logs, and a stop that lets work finish
"""

from __future__ import annotations

import logging.config
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import Response

from liquid_mm.generate.model import LiquidModel
from liquid_mm.serve import image_routes, text_routes
from liquid_mm.serve.access import TheService
from liquid_mm.serve.answers import add_error_handlers
from liquid_mm.serve.limits import Keys
from liquid_mm.serve.logs import log_config, logger
from liquid_mm.serve.middleware import Observed
from liquid_mm.serve.service import Service
from liquid_mm.serve.settings import Settings

health = APIRouter()


@health.get("/health/live")
async def live(service: TheService) -> JSONResponse:
    """Whether the process works; where it does not, it is to be started anew."""
    return JSONResponse({"live": service.broken is None}, 503 if service.broken else 200)


@health.get("/health/ready")
async def ready(service: TheService) -> JSONResponse:
    """Whether requests are taken."""
    return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


@health.get("/metrics")
async def metrics(service: TheService) -> Response:
    """Numbers for Prometheus."""
    return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def create_app(
    model: LiquidModel, settings: Settings | None = None, *, name: str = "liquid", page: bool = True
) -> FastAPI:
    """The server around a model.

    Args:
        model: it; the application alone uses it from now on.
        settings: limits.
        name: what clients call the model.
        page: whether there is a page for people at `/`.

    Returns:
        An ASGI application. The model is warmed when it starts; only then does it listen.
    """
    settings = settings or Settings()
    service = Service(model, settings, name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.work(service.start)
        logger.info("ready", extra={"model": name, "slots": model.engine.max_batch})
        try:
            yield
        finally:
            service.stop()
            logger.info("stopped")

    app = FastAPI(
        title="Liquid",
        summary="One language model that reads, writes, sees and draws, behind OpenAI's API.",
        lifespan=lifespan,
    )
    app.state.service, app.state.keys = service, Keys(settings.api_keys)
    routers = (text_routes.router, image_routes.router, health)
    for router in routers:
        app.include_router(router)
    add_error_handlers(app)
    paths = frozenset(path for router in routers for path in (getattr(route, "path", "") for route in router.routes))
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(
        Observed,
        metrics=service.metrics,
        keys=app.state.keys,
        routes=paths,
        max_body=settings.max_body_bytes,
    )
    if page:
        from liquid_mm.serve.page.mount import mount_page

        mount_page(app, service, app.state.keys)
    return app


class Server(uvicorn.Server):
    """Uvicorn, telling the service of the end as soon as the signal comes.

    Uvicorn itself closes the sockets it listens on, waits for the answers under way, at most for the grace period, and
    then runs the application's shutdown.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT came: take nothing new."""
        self._service.drain()
        super().handle_exit(sig, frame)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    logging.config.dictConfig(log_config())
    service: Service = app.state.service
    if not app.state.keys and host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no API key is asked for: everybody who reaches %s may use this server", host)
    grace = service.settings.grace
    config = uvicorn.Config(
        app, host, port, log_config=None, access_log=False, timeout_graceful_shutdown=grace, lifespan="on"
    )
    Server(config, service).run()
