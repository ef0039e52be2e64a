"""Counts and seconds in Prometheus' text format, for the endpoints in front of a predictor.

The form endpoint and the page record each request in one `Metrics`; what scrapes them reads
`Metrics.text()`. No label has a value that a caller chooses.
"""

from collections.abc import Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Seconds of a request: refused ones take milliseconds, a large image on a CPU minutes.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
STAGE_PREFIX = "seconds."


class Metrics:
    """The metrics of one process."""

    def __init__(self, endpoint: str) -> None:
        """Args: endpoint, the value of the label `endpoint`: `form` or `page`."""
        self.endpoint = endpoint
        self.registry = CollectorRegistry()
        options: Any = {"registry": self.registry}
        self._requests = Counter(
            "dream_o_requests",
            "Requests that were answered, by outcome: a status code, or an outcome in words.",
            ("endpoint", "outcome"),
            **options,
        )
        self._seconds = Histogram(
            "dream_o_request_seconds",
            "Seconds from the request to the answer.",
            ("endpoint",),
            buckets=BUCKETS,
            **options,
        )
        self._stages = Summary(
            "dream_o_stage_seconds",
            "Seconds of each stage of the images that were made.",
            ("endpoint", "stage"),
            **options,
        )
        self._sent = Counter(
            "dream_o_image_bytes", "Bytes of the images that were sent.", ("endpoint",), **options
        )
        self._in_progress = Gauge(
            "dream_o_requests_in_progress",
            "Requests that are not answered yet.",
            ("endpoint",),
            **options,
        )
        self._ready = Gauge(
            "dream_o_server_ready", "1 if the Cog server takes requests, otherwise 0.", **options
        )
        ProcessCollector(registry=self.registry)

    def begin(self) -> None:
        """Counts a request that has arrived; `record` must follow."""
        self._in_progress.labels(self.endpoint).inc()

    def record(
        self,
        outcome: str,
        seconds: float,
        image_bytes: int = 0,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Counts a request that was answered.

        Args:
            outcome: a status code, or one of a few words.
            seconds: from its arrival to the answer.
            image_bytes: the size of the image that was sent.
            metrics: the prediction's metrics; `seconds.STAGE` are read.
        """
        self._in_progress.labels(self.endpoint).dec()
        self._requests.labels(self.endpoint, outcome).inc()
        self._seconds.labels(self.endpoint).observe(seconds)
        self._sent.labels(self.endpoint).inc(image_bytes)
        for stage, spent in stage_seconds(metrics or {}).items():
            self._stages.labels(self.endpoint, stage).observe(spent)

    def set_ready(self, ready: bool) -> None:
        """Says whether the server that makes the images takes requests."""
        self._ready.set(ready)

    def text(self) -> bytes:
        """Everything, in the format that CONTENT_TYPE names."""
        return generate_latest(self.registry)


def stage_seconds(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The seconds by stage in a prediction's metrics.

    Cog's server nests a name with a dot: `seconds.prompt` comes as `{"seconds": {"prompt": ...}}`.
    """
    nested = metrics.get("seconds")
    found = dict(nested) if isinstance(nested, Mapping) else {}
    for name, value in metrics.items():
        if name.startswith(STAGE_PREFIX):
            found[name.removeprefix(STAGE_PREFIX)] = value
    return {stage: float(spent) for stage, spent in found.items() if isinstance(spent, int | float)}
