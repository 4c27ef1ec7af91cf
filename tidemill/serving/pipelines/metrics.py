"""What a service counts, for Prometheus. One process serves and counts, so a scrape shows all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily

from tidemill.inference.work import Stats
from tidemill.serving.answering.calls import ERROR, Record
from tidemill.serving.pipelines.pipeline import ServedPipeline

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Labels are names of pipelines, templates of routes and statuses: none of them is a client's own word."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        of_requests, of_pipeline = ("route", "method", "status"), ("pipeline",)
        self.requests = self._counter("requests", "Requests that were answered, or whose client left.", of_requests)
        self.seconds = self._histogram("request_seconds", "From a request's headers to its answer's end.", ("route",))
        self.rows = self._counter("rows", "Rows that were answered.", ("pipeline", "outcome"))
        self.reused = self._counter("rows_reused", "Of these, answered from the table.", of_pipeline)
        self.tokens = self._counter("tokens", "Tokens that the model computed.", of_pipeline)
        self.padded = self._counter("padded_tokens", "The same with padding.", of_pipeline)
        self.written = self._counter("new_tokens", "Tokens that the model wrote.", of_pipeline)
        self.waits = self._histogram("wait_seconds", "From a request's rows to the start of their batch.", of_pipeline)
        self.batch_seconds = self._histogram("batch_seconds", "What a batch takes.", of_pipeline)
        self.fill = self._histogram("batch_fill", "Tokens of a batch, of its token budget.", of_pipeline, SHARES)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        known = method if method in ("GET", "POST") else "other"
        self.requests.labels(route, known, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def watcher(self, pipeline: str) -> PipelineMetrics:
        return PipelineMetrics(self, pipeline)

    def show(self, pipelines: Mapping[str, ServedPipeline]) -> None:
        """Let scrapes tell how many rows wait in each, and how often its version changed."""
        self.registry.register(_Standing(pipelines))

    def text(self) -> bytes:
        found: bytes = generate_latest(self.registry)
        return found

    def _counter(self, name: str, what: str, labels: Sequence[str]) -> Any:
        return Counter(f"tidemill_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, labels: Sequence[str], buckets: Sequence[float] = SECONDS) -> Any:
        return Histogram(f"tidemill_{name}", what, labels, registry=self.registry, buckets=buckets)


class PipelineMetrics:
    """Told by a pipeline's workers."""

    def __init__(self, metrics: Metrics, pipeline: str) -> None:
        self._answered = metrics.rows.labels(pipeline, "answered")
        self._failed = metrics.rows.labels(pipeline, "failed")
        self._reused, self._tokens = metrics.reused.labels(pipeline), metrics.tokens.labels(pipeline)
        self._padded, self._written = metrics.padded.labels(pipeline), metrics.written.labels(pipeline)
        self._waits, self._fill = metrics.waits.labels(pipeline), metrics.fill.labels(pipeline)
        self._batch_seconds = metrics.batch_seconds.labels(pipeline)

    def waited(self, seconds: float) -> None:
        self._waits.observe(seconds)

    def computed(self, stats: Stats, token_budget: int, seconds: float) -> None:
        self._tokens.inc(stats.num_tokens)
        self._padded.inc(stats.num_padded_tokens)
        self._written.inc(stats.num_new_tokens or 0)
        self._fill.observe(stats.num_tokens / max(1, token_budget))
        self._batch_seconds.observe(seconds)

    def answered(self, records: Sequence[Record], num_reused: int) -> None:
        num_failed = sum(ERROR in record for record in records)
        self._failed.inc(num_failed)
        self._answered.inc(len(records) - num_failed)
        self._reused.inc(num_reused)


class _Standing:
    """How things stand when they are asked for."""

    def __init__(self, pipelines: Mapping[str, ServedPipeline]) -> None:
        self._pipelines = pipelines

    def collect(self) -> list[Any]:
        waiting = GaugeMetricFamily("tidemill_queue_rows", "Rows that wait for the model.", labels=["pipeline"])
        swaps = GaugeMetricFamily("tidemill_versions_followed", "Promotions that were followed.", labels=["pipeline"])
        served = GaugeMetricFamily("tidemill_version", "The version that is served.", labels=["pipeline", "version"])
        for name, pipeline in self._pipelines.items():
            waiting.add_metric([name], pipeline.workers.num_waiting)
            swaps.add_metric([name], pipeline.num_swaps)
            served.add_metric([name, pipeline.version.name], 1)
        return [waiting, swaps, served]
