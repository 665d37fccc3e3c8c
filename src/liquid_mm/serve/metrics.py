"""What a server tells Prometheus at /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from liquid_mm.serve.job import Usage
    from liquid_mm.serve.limits import Admission

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "liquid_requests", "HTTP requests by route and status", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "liquid_request_seconds",
            "Time from a request's arrival to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first_piece = Histogram(
            "liquid_first_piece_seconds",
            "Time until the first text or the first row of a picture, waiting included",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.images = Counter("liquid_images", "Pictures drawn", registry=self._registry)
        self._tokens = Counter(
            "liquid_tokens", "Tokens read and made", ["direction", "modality"], registry=self._registry
        )

    def watch(self, admission: Admission, slots: int) -> None:
        """Report what waits and runs, as it is when asked."""
        for name, text, value in (
            ("liquid_queue", "Replies that nothing has been computed of yet", lambda: admission.waiting),
            ("liquid_running", "Replies under way", lambda: admission.running),
            ("liquid_slots", "Rows of the engine's batch; a guided picture takes two", lambda: slots),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def count(self, usage: Usage) -> None:
        """Add the tokens of a request."""
        for direction, modality, number in (
            ("in", "text", usage.prompt_text),
            ("in", "image", usage.prompt_image),
            ("out", "text", usage.text),
            ("out", "image", usage.image),
        ):
            self._tokens.labels(direction, modality).inc(number)

    def page(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
