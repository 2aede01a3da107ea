"""OpenTelemetry, where it was asked for: a span for each request and a model server's metrics, by the GenAI conventions.

https://github.com/open-telemetry/semantic-conventions-genai (in development; read in November 2026: gen-ai-spans.md,
gen-ai-metrics.md). Everything is told at a request's end, and sent by threads of the SDK's own; of questions and answers
nothing is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import slmops
from slmops.core.errors import EngineMissing, UsageError
from slmops.serve.request import Caller, Outcome, Request

ENVIRONMENT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
PROVIDER = "slmops"
DURATIONS = [0.01 * 2**power for power in range(14)]
TOKENS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]
FIRST = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
USAGE = [4.0**power for power in range(14)]
SECONDS = 5.0
"""That one export may take."""


def wanted(url: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether anything is to be sent: nothing calls out unless it was told to."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return url is not None or (not off and any(environment.get(name) for name in ENVIRONMENT))


class Telemetry:
    """A watcher of the desk."""

    def __init__(self, url: str | None) -> None:
        """url: of an OTLP receiver over HTTP; None: as OTEL_EXPORTER_OTLP_* say. Raises UsageError, EngineMissing."""
        if url is not None and not url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is no address of an OTLP receiver", "--otlp http://127.0.0.1:4318")
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise EngineMissing(f"{error.name} is not installed", 'pip install "slmops[otel]"') from None
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": PROVIDER}
        resource = Resource.create({**named, "service.version": slmops.__version__})
        base = url.rstrip("/") if url is not None else None
        traces, metrics = (None, None) if base is None else (f"{base}/v1/traces", f"{base}/v1/metrics")
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(traces, timeout=SECONDS)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(metrics, timeout=SECONDS))
        self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._spans.get_tracer("slmops", slmops.__version__)
        meter = self._meters.get_meter("slmops", slmops.__version__)

        def histogram(name: str, unit: str, said: str, bounds: list[float]) -> Any:
            return meter.create_histogram(name, unit, said, explicit_bucket_boundaries_advisory=bounds)

        self._duration = histogram("gen_ai.server.request.duration", "s", "Of a request, to its last token.", DURATIONS)
        self._first = histogram("gen_ai.server.time_to_first_token", "s", "Of answers that ended well.", FIRST)
        self._token = histogram("gen_ai.server.time_per_output_token", "s", "After the first token.", TOKENS)
        self._usage = histogram("gen_ai.client.token.usage", "{token}", "Tokens of prompts and answers.", USAGE)

    def admit(self, request: Request, caller: Caller) -> None:
        """Everyone: it only tells."""

    def ended(self, outcome: Outcome) -> None:
        assert outcome.ended is not None
        common, failed = _common(outcome), outcome.fault is not None
        self._span(outcome, common)
        more = {"error.type": outcome.reason} if failed else {}
        self._duration.record(outcome.ended - outcome.asked, {**common, **more})
        if outcome.began is not None:
            for kind, count in (("input", outcome.prompt_tokens), ("output", outcome.tokens)):
                self._usage.record(count, {**common, "gen_ai.token.type": kind})
        if outcome.first is not None and not failed:
            self._first.record(outcome.first - outcome.asked, common)
            if outcome.tokens > 1:
                self._token.record((outcome.ended - outcome.first) / (outcome.tokens - 1), common)

    def _span(self, outcome: Outcome, common: Mapping[str, str]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        assert outcome.ended is not None
        parent = outcome.caller.trail.parent
        context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
        now, clock = time.time_ns(), time.monotonic()

        def wall(moment: float) -> int:
            return now - round((clock - moment) * 1e9)

        name = f"{common['gen_ai.operation.name']} {common['gen_ai.request.model']}"
        said = {**common, **_attributes(outcome)}
        span = self._tracer.start_span(name, context, SpanKind.SERVER, said, start_time=wall(outcome.asked))
        for event, moment in (("prompt is read", outcome.began), ("first text", outcome.first)):
            if moment is not None:
                span.add_event(event, timestamp=wall(moment))
        if outcome.fault is not None:
            # The kind alone: what is raised may quote what was asked.
            span.set_attribute("error.type", outcome.reason)
            span.set_status(Status(StatusCode.ERROR, outcome.reason))
        span.end(wall(outcome.ended))

    def close(self) -> None:
        """Send what has not been sent, for as long as one export may take."""
        self._spans.force_flush(round(SECONDS * 1000))
        self._spans.shutdown()
        self._meters.shutdown(SECONDS * 1000)


def _common(outcome: Outcome) -> dict[str, str]:
    """What spans and metrics say: of these, nothing that a stranger could make up."""
    request, served = outcome.request, outcome.served
    operation = "embeddings" if request.texts else "chat" if request.prompt is None else "text_completion"
    found = {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER}
    if served is None:
        return {**found, "gen_ai.request.model": "other"}
    version = f"{served.name}@{served.digest}" if served.digest else served.name
    return {**found, "gen_ai.request.model": served.name, "gen_ai.response.model": version}


def _attributes(outcome: Outcome) -> dict[str, Any]:
    sampling, served, trail = outcome.request.sampling, outcome.served, outcome.caller.trail
    found: dict[str, Any] = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.request.top_p": float(sampling.top_p),
        "gen_ai.request.top_k": float(sampling.top_k),
        "slmops.request.id": trail.id,
    }
    if served is not None:
        found |= {"slmops.engine": served.engine, "slmops.quant": served.quant, "slmops.release": served.release}
    if outcome.began is not None:
        found |= {
            "gen_ai.usage.input_tokens": outcome.prompt_tokens,
            "gen_ai.usage.output_tokens": outcome.tokens,
            "gen_ai.usage.cache_read.input_tokens": outcome.cached_tokens,
        }
    if outcome.fault is None:
        found["gen_ai.response.finish_reasons"] = [outcome.reason]
    if outcome.first is not None:
        found["gen_ai.response.time_to_first_chunk"] = outcome.first - outcome.asked
    return found
