"""Metrics: names, bounds on series, what they cost; read by prometheus_client's parser, promtool and a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import string
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import children
from needs import needs
from serve.serving import ASKED, serving
from slmops.core.errors import Busy, EngineCrashed, SourceNotFound
from slmops.engines import Sampling
from slmops.serve.request import GAPS, Caller, Outcome, Request, Served

pytestmark = needs("prometheus_client", "starlette")

HOME = Served("home:q8", "sha256:" + "ab" * 32, "llamacpp", "q8", "stable")
# docs.vllm.ai, Production Metrics (0.32); those that this server can tell.
VLLM = (
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total", "generation_tokens_total",
    "request_success_total", "prefix_cache_queries_total", "prefix_cache_hits_total", "time_to_first_token_seconds",
    "inter_token_latency_seconds", "request_time_per_output_token_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
)  # fmt: skip


class Idle:
    """In place of models: nothing is loaded."""

    budget = 1 << 30
    counted: dict[Any, int] = {}  # noqa: RUF012

    def states(self) -> list[Any]:
        return []


def metrics() -> Any:
    from slmops.serve.metrics import Metrics

    return Metrics(Idle())  # type: ignore[arg-type]


def outcome(
    served: Served | None = HOME, reason: str = "stop", fault: BaseException | None = None, model: str = "home"
) -> Outcome:
    """Asked at 100 s, in work at 100.1, first text at 100.3, then every 20 ms, ended at 100.5 with eleven tokens."""
    one = Outcome(Request(model, (), "x", Sampling()), Caller(), 100.0)
    one.served, one.reason, one.fault, one.ended = served, reason, fault, 100.5
    if fault is None:
        one.began, one.prompt_tokens, one.cached_tokens, one.tokens = 100.1, 30, 12, 11
        for number in range(11):
            one.piece(100.3 + 0.02 * number)
    return one


def samples(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            key = tuple(sorted(one.labels.items()))
            assert key not in found.setdefault(one.name, {}), f"{one.name}{one.labels} stands twice"
            found[one.name][key] = one.value
    return found


def test_what_is_counted() -> None:
    one = metrics()
    for reason in ("stop", "stop", "tool_calls", "cancelled"):
        one.ended(outcome(reason=reason))
    one.ended(outcome(fault=EngineCrashed("died"), reason="EngineCrashed"))
    one.ended(outcome(fault=Busy("full", cause="queue"), reason="Busy"))
    one.ended(outcome(None, "SourceNotFound", SourceNotFound("none")))
    one.answered("GET", 200)
    one.answered("BREW", 418)
    found = samples(one.page()[0].decode())
    labels = {"model_name": "home:q8", "engine": "llamacpp", "model_digest": "ab" * 6, "quant": "q8", "release": "stable"}
    key = tuple(sorted(labels.items()))
    assert found["slmops_prompt_tokens_total"][key] == 4 * 30 and found["slmops_generation_tokens_total"][key] == 4 * 11
    assert found["slmops_prompt_tokens_cached_total"][key] == found["vllm:prefix_cache_hits_total"][key] == 48
    reasons = {dict(labels)["reason"]: count for labels, count in found["slmops_requests_total"].items()}
    assert reasons == {"stop": 2, "tool_calls": 1, "cancelled": 1, "EngineCrashed": 1}
    assert {dict(labels)["finished_reason"]: count for labels, count in found["vllm:request_success_total"].items()} == {
        "stop": 3,
        "abort": 1,
    }
    assert found["slmops_requests_refused_total"] == {
        (("model_name", "home:q8"), ("reason", "queue")): 1,
        (("model_name", "other"), ("reason", "SourceNotFound")): 1,
    }
    # Counted by hand from the moments above: four were computed; first text after 0.3 s, ten gaps of 20 ms each.
    for name, count, total in (
        ("time_to_first_token_seconds", 4, 4 * 0.3),
        ("inter_token_latency_seconds", 40, 4 * 0.2),
        ("request_queue_time_seconds", 4, 4 * 0.1),
        ("request_prefill_time_seconds", 4, 4 * 0.2),
        ("request_decode_time_seconds", 4, 4 * 0.2),
    ):
        for prefix in ("slmops_", "vllm:"):
            assert found[f"{prefix}{name}_count"][key] == count, name
            assert found[f"{prefix}{name}_sum"][key] == pytest.approx(total), name
    assert found["slmops_time_per_output_token_seconds_sum"][key] == pytest.approx(4 * 0.02)
    assert found["slmops_request_duration_seconds_count"][key] == 5  # the one that died too
    gaps = {dict(labels)["le"]: count for labels, count in found["slmops_inter_token_latency_seconds_bucket"].items()}
    assert gaps["0.015"] == 0 and gaps["0.03"] == 40 and gaps["+Inf"] == 40 and len(gaps) == len(GAPS) + 1
    assert found["slmops_http_responses_total"][(("method", "other"), ("status", "418"))] == 1
    assert not metrics().page()[0].decode().count("home:q8")  # an application has its own


def test_names_are_bounded_however_many_are_asked_for() -> None:
    one, draw = metrics(), random.Random(1)
    for number in range(10_000):
        name = "".join(draw.choices(string.printable, k=draw.randint(1, 60)))
        one.ended(outcome(None, "SourceNotFound", SourceNotFound("none"), model=name))
        # And as many real ones: a registry that lives long.
        one.ended(outcome(Served(f"m{number}", f"sha256:{number:064x}", "llamacpp", "q4", "stable")))
        one.ended(outcome(Served(f"m{number}", "", "llamacpp", "q4", "stable"), "Busy", Busy("full", cause="queue")))
    page = one.page()[0].decode()
    found = samples(page)
    assert max(len(rows) for name, rows in found.items() if "_bucket" not in name) <= 102 and len(page) < 6e6
    versions = {dict(labels)["model_name"] for labels in found["slmops_requests_total"]}
    assert len(versions) == 100 and "m9999" in versions and "m0" not in versions


def test_what_it_costs() -> None:
    """Of 50,000 tokens a second a twentieth of a core at most, of 2,000 requests a second a fifth: on a busy machine."""
    one, answer = metrics(), outcome()
    now, best_token, best_request = 101.0, 1.0, 1.0
    for _ in range(5):
        began = time.perf_counter()
        for number in range(20_000):
            answer.piece(now + number * 1e-4)
        best_token = min(best_token, (time.perf_counter() - began) / 20_000)
        began = time.perf_counter()
        for _ in range(500):
            one.ended(answer)
        best_request = min(best_request, (time.perf_counter() - began) / 500)
    print(f"{best_token * 1e9:.0f} ns a piece, {best_request * 1e6:.1f} us a request")
    assert best_token < 2e-6 and best_request < 100e-6


@pytest.fixture(scope="module")
def busy(made: Path) -> Iterator[str]:
    """A server that has answered, refused, and been asked for what it has not."""
    with serving(f"home={made / 'gguf'}", "--alias", "canary=home", "--context", "256") as (url, _):
        for name in ("home", "home", "canary", "none", "home:latest"):
            body = {"model": name, "messages": ASKED, "temperature": 0, "stream": name == "canary"}
            request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
            try:
                urllib.request.urlopen(request, timeout=60).read()
            except urllib.error.HTTPError as error:
                assert (name, error.code) == ("none", 404)
        yield url


@pytest.mark.slow
def test_the_page_of_a_server(busy: str) -> None:
    answer = urllib.request.urlopen(f"{busy}/metrics", timeout=60)
    page = answer.read().decode()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(page)
    for name in VLLM:
        assert any(one.startswith(f"vllm:{name}") for one in found), name
    asked = {
        (dict(labels)["model_name"], dict(labels)["release"]): count
        for labels, count in found["slmops_requests_total"].items()
    }
    assert asked == {("home", "stable"): 3, ("canary", "canary"): 1}
    (memory,) = found["slmops_model_memory_bytes"].values()
    assert 20e6 < memory < 2e9 and found["slmops_model_loads_total"][(("model_name", "home"),)] == 1
    assert found["slmops_build_info"] and found["process_resident_memory_bytes"][()] > 1e6
    # As Prometheus asks: nothing may be called otherwise then.
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
    page = urllib.request.urlopen(urllib.request.Request(f"{busy}/metrics", headers=accept), timeout=60).read().decode()
    assert "\nvllm:num_requests_running{" in page


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("promtool"), reason="not installed: promtool; apt-get install prometheus")
def test_promtool_finds_nothing_but_vllms_colons(busy: str) -> None:
    page = urllib.request.urlopen(f"{busy}/metrics", timeout=60).read()
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60)
    said = (done.stdout + done.stderr).decode().splitlines()
    assert said and all(line.startswith("vllm:") and "should not contain ':'" in line for line in said), said


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("prometheus"), reason="not installed: prometheus; apt-get install prometheus")
def test_a_real_prometheus_scrapes_it(busy: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = busy.removeprefix("http://")
    (tmp_path / "p.yml").write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n"
        f"- job_name: slmops\n  static_configs: [{{targets: ['{target}']}}]\n"
    )
    words = ["prometheus", f"--config.file={tmp_path / 'p.yml'}", f"--storage.tsdb.path={tmp_path}"]
    with subprocess.Popen([*words, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]) as process:
        try:

            def asked(query: str) -> list[Any]:
                """Its answer, as soon as it has one."""
                url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
                found, until = [], time.monotonic() + 30
                while not found and time.monotonic() < until:
                    with contextlib.suppress(OSError):
                        found = json.loads(urllib.request.urlopen(url, timeout=10).read())["data"]["result"]
                    time.sleep(0.2)
                return found

            assert asked("up == 1")
            assert [one["value"][1] for one in asked("sum(vllm:num_requests_waiting)")] == ["0"]
            assert [one["value"][1] for one in asked("sum by (release) (slmops_requests_total{release='canary'})")] == ["1"]
            (quantile,) = asked("histogram_quantile(0.5, sum by (le) (slmops_time_to_first_token_seconds_bucket))")
            assert 0 < float(quantile["value"][1]) < 60
        finally:
            children.ended(process)


@pytest.mark.slow
def test_how_much_of_the_cache_is_held(made: Path) -> None:
    """While a request stands still within its answer: its prompt's tokens, as its usage has them, and a few more."""
    import psutil

    body = {"model": "home", "messages": ASKED, "temperature": 0}

    def sent(**more: Any) -> Any:
        data, kind = json.dumps({**body, **more}).encode(), {"content-type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(f"{url}/v1/chat/completions", data, kind), timeout=60)

    def held(name: str) -> list[float]:
        page = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
        return list(samples(page).get(name, {}).values())

    with serving(f"home={made / 'gguf'}", "--context", "256", "--parallel", "2") as (url, process):
        assert held("slmops_kv_cache_usage_ratio") == []
        used = json.loads(sent().read())["usage"]
        assert held("slmops_kv_cache_usage_ratio") == [0.0]
        workers = psutil.Process(process.pid).children(recursive=True)
        for _ in range(20):
            stream = sent(stream=True)
            stream.readline()
            for child in workers:
                child.suspend()
            time.sleep(0.2)  # what has come by now is counted
            (share,) = held("slmops_kv_cache_usage_ratio")
            assert held("vllm:kv_cache_usage_perc") == [share]
            for child in workers:
                child.resume()
            if share:
                break
            stream.read()  # it was faster, and has ended
        cells = share * 256 * 2
        assert cells == int(cells) and used["prompt_tokens"] <= cells < used["total_tokens"]
        stream.read()
        until = time.monotonic() + 20
        while held("slmops_kv_cache_usage_ratio") != [0.0]:
            assert time.monotonic() < until
            time.sleep(0.05)
