"""What the service counts of itself, for Prometheus. Each service has a registry of its own: nothing is global."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_METHODS = {"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"}  # a client may send any word


class Metrics:
    """Labels hold routes, not paths, and names of encoders that are served: their number is bounded."""

    def __init__(self) -> None:
        self.in_flight = 0  # requests admitted (their body is here) and not yet answered; the event loop's alone
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        sizes = partial(Histogram, buckets=_SIZES, registry=registry)
        self._requests = counter("mmembed_requests", "Requests answered.", ("route", "method", "status"))
        self._seconds = seconds("mmembed_request_seconds", "From a request's head to its answer.", ("route",))
        gauge("mmembed_requests_in_flight", "Requests not yet answered.").set_function(lambda: self.in_flight)
        self._sizes = sizes("mmembed_batch_size", "Inputs of one forward pass.", ("encoder", "modality"))
        self._passes = seconds("mmembed_batch_seconds", "One forward pass.", ("encoder", "modality"))
        self._waiting = gauge("mmembed_queued_inputs", "Inputs that wait for an encoder.", ("encoder", "modality"))
        self._cached = counter("mmembed_cache", "Inputs looked up in the cache.", ("found",))
        self._failures = counter(
            "mmembed_failures", "Inputs that failed, and requests refused before any work.", ("type",)
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered; status 499: the client had gone."""
        self._requests.labels(route, method if method in _METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, encoder: str, modality: str, size: int, seconds: float) -> None:
        self._sizes.labels(encoder, modality).observe(size)
        self._passes.labels(encoder, modality).observe(seconds)

    def queued(self, encoder: str, modality: str, n: int) -> None:
        """`n` inputs wait now."""
        self._waiting.labels(encoder, modality).set(n)

    def cache(self, hits: int, misses: int) -> None:
        if hits:
            self._cached.labels("yes").inc(hits)
        if misses:
            self._cached.labels("no").inc(misses)

    def failure(self, kind: str) -> None:
        """`kind` is the name of an error's class."""
        self._failures.labels(kind).inc()

    def render(self) -> bytes:
        """Everything in Prometheus's text format, whose type is CONTENT_TYPE."""
        return generate_latest(self._registry)
