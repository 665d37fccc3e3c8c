"""The same service on many machines, by Ray Serve: a router in front of replicas that hold a model each.

    client ── HTTP ──> router ──┬─> replica 1: the application of `app`, one GPU
                                └─> replica 2: the same

The router passes requests on as they are. It remembers each until it is answered, with what was left to chance in it
(`chance`); if the replica that computes it dies, the request runs again on another one, and what a client has already
got of a stream is left out of the second answer. The page is not part of it: its visitors' pictures lie on one machine.

    liquid serve CHECKPOINT --cluster --replicas 2       on this machine, or where RAY_ADDRESS says
    import_path: liquid_mm.serve.cluster:build           in a Ray Serve config; see deploy/kuberay.yaml
"""

from __future__ import annotations

import logging.config
import os
import signal
import threading
from typing import Annotated, Any

import ray
from pydantic import Field
from ray import serve

from liquid_mm.config import Config
from liquid_mm.errors import UserError
from liquid_mm.serve.logs import log_config, logger
from liquid_mm.serve.replica import Replica
from liquid_mm.serve.router import Router, router_app
from liquid_mm.serve.settings import Positive, Settings

NAME = "liquid"
"""Of the application on the cluster."""


class ClusterOptions(Config):
    """What is deployed.

    Attributes:
        checkpoint: a folder that every machine can read, a Hub id, or "demo".
        name: what clients call the model; by default the folder's name.
        replicas: how many models there are; with `max_replicas`, at least.
        max_replicas: lets their number follow the load, up to this; None keeps it.
        load_per_replica: replies under way in one replica, on average, above which there will be more of them.
        gpus: GPUs of each replica; None is one if the cluster has any.
        cpus: CPUs of each replica.
        max_batch, device, dtype, quantization: of each model; see `liquid_mm.load`.
        settings: limits, of each replica for itself.
    """

    checkpoint: str = "demo"
    name: str | None = None
    replicas: Positive = 2
    max_replicas: Positive | None = None
    load_per_replica: Positive = 8
    gpus: Annotated[float, Field(ge=0)] | None = None
    cpus: Annotated[float, Field(ge=0)] = 1.0
    max_batch: Positive = 16
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    settings: Settings = Settings()


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application for Ray Serve from `ClusterOptions`, as `import_path` of a Ray Serve config.

    Where `settings` names no key, those in the variable LIQUID_API_KEY are asked for, separated by spaces.

    Raises:
        UserError: the options contradict each other.
    """
    options = ClusterOptions(**arguments)
    if options.max_replicas is not None and options.max_replicas < options.replicas:
        raise UserError(f"max_replicas is {options.max_replicas}: it must be at least replicas, {options.replicas}.")
    settings = options.settings
    if not settings.api_keys:
        settings = settings.model_copy(update={"api_keys": tuple(os.environ.get("LIQUID_API_KEY", "").split())})
    gpus = options.gpus
    if gpus is None:
        gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
    number: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas is not None:
        scaling = {
            "min_replicas": options.replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.load_per_replica,
        }
        number = {"autoscaling_config": scaling}
    deployment: Any = serve.deployment  # typed as if it always took options
    replicas = deployment(Replica).options(
        name="Replica",
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": gpus},
        # The replica itself says when it is full, in a way clients understand.
        max_ongoing_requests=options.max_batch + 2 * settings.max_queue,
        graceful_shutdown_timeout_s=settings.grace,
        health_check_period_s=5,
        **number,
    )
    loading = options.model_dump(include={"device", "dtype", "quantization", "max_batch"})
    bound = replicas.bind(options.checkpoint, options.name, settings.model_dump(), loading)
    router = deployment(serve.ingress(router_app(settings))(Router)).options(
        name="Router", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000
    )
    application: serve.Application = router.bind(bound, settings.deadline)
    return application


def start(options: ClusterOptions, host: str, port: int) -> None:
    """Deploy on the cluster of RAY_ADDRESS, or on a new one of this machine, and wait until it answers."""
    # A server must not report to anybody unless its operator wants that.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    serve.start(http_options={"host": host, "port": port})
    serve.run(build(options.model_dump()), name=NAME, route_prefix="/")


def run(options: ClusterOptions, host: str, port: int) -> None:
    """Deploy, and serve until SIGTERM or Ctrl-C; what runs then has the grace period to finish."""
    logging.config.dictConfig(log_config())
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    start(options, host, port)
    logger.info("ready", extra={"replicas": options.replicas, "url": f"http://{host}:{port}"})
    told.wait()
    serve.delete(NAME)
    ray.shutdown()
    logger.info("stopped")
