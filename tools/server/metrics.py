"""What a scraper reads at /metrics: names that begin with `miaotui:`, after those of llama.cpp and vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from .answers import Usage

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds.
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """One server's, in a registry of its own, so that several may be in one process."""

    def __init__(self) -> None:
        """All zero."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "miaotui:requests", "Requests that ended, by endpoint and status.", ("path", "status"), registry=registry
        )
        self.running = Gauge("miaotui:requests_running", "Requests that are being answered.", registry=registry)
        self.tokens = Gauge("miaotui:tokens_in_flight", "Tokens that they may need.", registry=registry)
        self._prompt = Counter("miaotui:prompt_tokens", "Tokens of prompts.", ("model",), registry=registry)
        self._cached = Counter(
            "miaotui:prompt_tokens_cached", "Tokens of prompts that were in the cache.", ("model",), registry=registry
        )
        self._new = Counter("miaotui:tokens_predicted", "Tokens of answers.", ("model",), registry=registry)
        self._first = Histogram(
            "miaotui:time_to_first_token_seconds", "From a request to its answer's first token.", ("model",),
            buckets=_FIRST, registry=registry,
        )  # fmt: skip
        self._whole = Histogram(
            "miaotui:request_seconds", "From a request to its answer's end.", ("path",), buckets=_WHOLE,
            registry=registry,
        )  # fmt: skip

    def ended(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._whole.labels(path).observe(seconds)

    def began(self, model: str, seconds: float) -> None:
        """Tell when an answer's first token came."""
        self._first.labels(model).observe(seconds)

    def used(self, model: str, usage: Usage) -> None:
        """Count an answer's tokens."""
        self._prompt.labels(model).inc(usage.prompt)
        self._cached.labels(model).inc(usage.cached)
        self._new.labels(model).inc(usage.completion)

    def text(self) -> bytes:
        """All of them, in Prometheus' form."""
        return generate_latest(self._registry)
