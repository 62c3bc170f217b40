"""Figures for Prometheus. Labels are routes, statuses and reasons of this program, never anything that was sent."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medsum_core.server.job import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counts of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_OfEngine(engine))
        self._registry = registry
        self.requests = Counter("medsum_requests", "Requests answered", ["route", "status"], registry=registry)
        self.refused = Counter("medsum_refused", "Requests refused, by reason", ["reason"], registry=registry)
        self.first_token = Histogram(
            "medsum_first_token_seconds",
            "From a request's acceptance to its first token; where notes come whole, to its first note",
            buckets=SECONDS,
            registry=registry,
        )
        self.checking = Histogram("medsum_check_seconds", "Checking one note", buckets=SECONDS, registry=registry)

    def count_refusal(self, code: str) -> None:
        """One more request that was refused; `code`: a Refusal's."""
        self.refused.labels(code).inc()

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    """The engine's own counts at the time of the request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client has it."""
        stats = self._engine.stats()
        yield GaugeMetricFamily("medsum_notes_waiting", "Notes that wait for a slot", value=stats.num_waiting)
        yield GaugeMetricFamily("medsum_notes_running", "Notes being written", value=stats.num_running)
        yield GaugeMetricFamily("medsum_slots", "Notes that can be written at a time", value=stats.num_slots)
        yield GaugeMetricFamily("medsum_worker_alive", "1 while notes are written", value=int(self._engine.is_alive))
        tokens = CounterMetricFamily("medsum_tokens", "Tokens read and written", labels=["phase"])
        tokens.add_metric(["prompt"], stats.prompt_tokens)
        tokens.add_metric(["note"], stats.new_tokens)
        yield tokens
        seconds = CounterMetricFamily("medsum_engine_seconds", "Seconds of forward passes", labels=["phase"])
        seconds.add_metric(["prompt"], stats.prefill_seconds)
        seconds.add_metric(["note"], stats.decode_seconds)
        yield seconds
