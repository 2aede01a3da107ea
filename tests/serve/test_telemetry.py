"""OpenTelemetry's own SDK sends, its own message classes read: over HTTP, from the real server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import serving
from serve.test_outside import SECRET, asked, chat

pytestmark = [
    pytest.mark.slow,
    needs("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "starlette", "xllamacpp"),
]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def receiver() -> Iterator[tuple[str, dict[str, list[bytes]]]]:
    """An OTLP receiver: its address, and what came by path."""
    came: dict[str, list[bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            came.setdefault(self.path, []).append(body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    server.server_close()


def attributes(found: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in found}


def test_spans_and_metrics_arrive_by_the_conventions(made: Path, receiver: tuple[str, dict[str, list[bytes]]]) -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, came = receiver
    with serving(f"home={made / 'gguf'}", "--otlp", url) as (server, process):
        assert chat(server, "home", SECRET, traceparent=PARENT, x_request_id="mine")[0] == 200
        assert chat(server, f"no-{SECRET}", traceparent="00-zero-zero-00")[0] == 404
        assert asked(f"{server}/v1/completions", {"model": "home", "prompt": SECRET, "max_tokens": 3})[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert set(came) == {"/v1/traces", "/v1/metrics"} and not any(
        SECRET.encode() in one for all in came.values() for one in all
    )
    spans = {}
    for body in came["/v1/traces"]:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert attributes(resource.resource.attributes)["service.name"] == "slmops"
            spans |= {one.name: one for scope in resource.scope_spans for one in scope.spans}
    assert set(spans) == {"chat home", "chat other", "text_completion home"}
    one = spans["chat home"]
    assert one.trace_id.hex() == PARENT.split("-")[1] and one.parent_span_id.hex() == PARENT.split("-")[2]
    assert one.kind == one.SPAN_KIND_SERVER and one.start_time_unix_nano < one.end_time_unix_nano
    said = attributes(one.attributes)
    assert said["gen_ai.operation.name"] == "chat" and said["gen_ai.provider.name"] == "slmops"
    assert (
        said["gen_ai.request.model"] == "home"
        and said["slmops.request.id"] == "mine"
        and said["slmops.engine"] == "llamacpp"
    )
    assert said["gen_ai.usage.input_tokens"] > 5 and 0 < said["gen_ai.usage.output_tokens"] <= 40
    assert said["gen_ai.request.max_tokens"] == 40 and said["gen_ai.request.temperature"] == 0
    (reason,) = said["gen_ai.response.finish_reasons"].values
    assert reason.string_value in ("stop", "length")
    assert [event.name for event in one.events] == ["prompt is read", "first text"]
    lost = spans["chat other"]
    assert (
        lost.status.code == lost.status.STATUS_CODE_ERROR and attributes(lost.attributes)["error.type"] == "SourceNotFound"
    )
    assert not lost.parent_span_id
    metrics = {}
    for body in came["/v1/metrics"]:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            metrics |= {one.name: one for scope in resource.scope_metrics for one in scope.metrics}
    # Names, units and bounds as gen-ai-metrics.md has them.
    assert {name: one.unit for name, one in metrics.items() if name.startswith("gen_ai.")} == {
        "gen_ai.server.request.duration": "s",
        "gen_ai.server.time_to_first_token": "s",
        "gen_ai.server.time_per_output_token": "s",
        "gen_ai.client.token.usage": "{token}",
    }
    points = metrics["gen_ai.server.request.duration"].histogram.data_points
    assert sum(point.count for point in points) == 3
    assert list(points[0].explicit_bounds) == [
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ]  # fmt: skip
    assert {attributes(point.attributes).get("error.type") for point in points} == {None, "SourceNotFound"}
    usage = {
        attributes(point.attributes)["gen_ai.token.type"]
        for point in metrics["gen_ai.client.token.usage"].histogram.data_points
    }
    assert usage == {"input", "output"}


def test_a_receiver_that_is_down_costs_nothing_but_its_spans(made: Path) -> None:
    with serving(f"home={made / 'gguf'}", "--otlp", "http://127.0.0.1:9") as (server, process):
        assert chat(server, "home")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


def test_nothing_is_sent_unless_it_was_said() -> None:
    from slmops.core.errors import UsageError
    from slmops.serve.telemetry import Telemetry, wanted

    assert not wanted(None, {}) and not wanted(None, {"OTEL_SERVICE_NAME": "x"})
    said = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}
    assert wanted("http://x", {}) and wanted(None, said) and not wanted(None, {**said, "OTEL_SDK_DISABLED": "true"})
    with pytest.raises(UsageError, match="no address"):
        Telemetry("grpc://x")
