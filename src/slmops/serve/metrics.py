"""/metrics for Prometheus: slmops_* names, and vLLM's for dashboards and autoscalers that know those.

Numbers are kept here, in plain lists on the server's loop, and made into families when they are asked for: nothing is done
for a token but what the outcome itself counts (request.Outcome.piece), and an application has its own. The number of series
is bounded: unknown names are `other`, and of versions the MOST_SERIES that were asked last are kept.
"""

from __future__ import annotations

import bisect
import platform
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import slmops
from slmops.core.errors import Busy, EngineCrashed, EngineFailed
from slmops.serve.held import State
from slmops.serve.models import Models
from slmops.serve.request import GAPS, Caller, Outcome, Request, Served

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds in the queue and of reading a prompt: a CPU reads 50 to 5,000 tokens a second."""
FIRST = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds of whole answers."""
MOST_SERIES = 100
"""About 250 lines each."""
OTHER = Served("other", "", "", "", "")
LABELS = ("model_name", "engine", "model_digest", "quant", "release")
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
VLLM_REASONS = {"stop": ("stop", "tool_calls"), "length": ("length",), "abort": ("cancelled",)}
"""Its word for how a request ended -> ours."""
Family = object


@dataclass
class Histogram:
    """How often a value was at most each bound; the last is what is more than all."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        found, below = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), list(self.counts), strict=True):
            below += count
            found.append((bound, float(below)))
        return found


@dataclass
class Series:
    """Of one version of one model under one name."""

    ended: Counter[str] = field(default_factory=Counter)
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    first: Histogram = field(default_factory=lambda: Histogram(FIRST))
    gap: Histogram = field(default_factory=lambda: Histogram(GAPS))
    token: Histogram = field(default_factory=lambda: Histogram(GAPS))
    whole: Histogram = field(default_factory=lambda: Histogram(LONG))
    queue: Histogram = field(default_factory=lambda: Histogram(SHORT))
    prefill: Histogram = field(default_factory=lambda: Histogram(SHORT))
    decode: Histogram = field(default_factory=lambda: Histogram(LONG))

    def count(self, outcome: Outcome) -> None:
        """A request that was computed, to its end or not."""
        asked, began, first, last = outcome.asked, outcome.began, outcome.first, outcome.last
        assert outcome.ended is not None
        self.prompt += outcome.prompt_tokens
        self.cached += outcome.cached_tokens
        self.generated += outcome.tokens
        self.whole.add(outcome.ended - asked)
        if began is not None:
            self.queue.add(began - asked)
        if began is not None and first is not None and last is not None:
            self.first.add(first - asked)
            self.prefill.add(first - began)
            self.decode.add(outcome.ended - first)
            for place, count in enumerate(outcome.gaps):
                if count:
                    self.gap.counts[place] += count
            self.gap.total += last - first
            if outcome.tokens > 1:
                # As vLLM has it: what came after the first token, by its number.
                self.token.add((outcome.ended - first) / (outcome.tokens - 1))


HISTOGRAMS: tuple[tuple[str, str, str, Callable[[Series], Histogram]], ...] = (
    ("time_to_first_token", "time_to_first_token_seconds", "From the request to its first text", lambda one: one.first),
    ("inter_token_latency", "inter_token_latency_seconds", "Between two pieces of an answer", lambda one: one.gap),
    (
        "time_per_output_token",
        "request_time_per_output_token_seconds",
        "Of a request, after its first token, by tokens",
        lambda one: one.token,
    ),
    ("request_duration", "e2e_request_latency_seconds", "From the request to its end", lambda one: one.whole),
    ("request_queue_time", "request_queue_time_seconds", "From the request until its prompt is read", lambda one: one.queue),
    ("request_prefill_time", "request_prefill_time_seconds", "Of reading its prompt", lambda one: one.prefill),
    ("request_decode_time", "request_decode_time_seconds", "From its first text to its end", lambda one: one.decode),
)
"""(ours without unit, vLLM's, what it is, where it is kept)"""
TOKENS: tuple[tuple[str, str, str, Callable[[Series], int]], ...] = (
    ("prompt_tokens", "prompt_tokens", "Tokens of prompts", lambda one: one.prompt),
    ("generation_tokens", "generation_tokens", "Tokens that were generated", lambda one: one.generated),
    ("prompt_tokens_cached", "prefix_cache_hits", "Of prompts, tokens not computed again", lambda one: one.cached),
)


class Metrics:
    """A watcher of the desk, on its loop. `collect` may run on another thread."""

    def __init__(self, models: Models) -> None:
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

        self._models = models
        self._series: OrderedDict[Served, Series] = OrderedDict()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._answered: Counter[tuple[str, str]] = Counter()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(self)  # type: ignore[arg-type]

    def admit(self, request: Request, caller: Caller) -> None:
        """Everyone: it only counts."""

    def ended(self, outcome: Outcome) -> None:
        if (
            outcome.fault is not None
            and outcome.began is None
            and not isinstance(outcome.fault, EngineCrashed | EngineFailed)
        ):
            why = outcome.fault.cause if isinstance(outcome.fault, Busy) else outcome.reason
            name = outcome.served.name if outcome.served is not None else OTHER.name
            if len(self._refused) >= MOST_SERIES and (name, why) not in self._refused:
                name = OTHER.name
            self._refused[name, why] += 1
            return
        one = self._of(outcome.served or OTHER)
        one.ended[outcome.reason] += 1
        one.count(outcome)

    def answered(self, method: str, status: int) -> None:
        """An HTTP answer of any kind."""
        self._answered[method if method in METHODS else "other", str(status)] += 1

    def _of(self, served: Served) -> Series:
        found = self._series.get(served)
        if found is None:
            found = self._series[served] = Series()
            if len(self._series) > MOST_SERIES:
                self._series.popitem(last=False)
        self._series.move_to_end(served)
        return found

    def page(self) -> tuple[bytes, str]:
        """What a scraper reads, and its content type. Always the text format: as OpenMetrics, prometheus_client writes
        vllm_ for vllm:, and that is what Prometheus asks for first."""
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def describe(self) -> Iterable[Family]:
        """Nothing is asked before there is something: prometheus_client would collect to find names that stand twice."""
        return ()

    def collect(self) -> Iterator[Family]:
        """prometheus_client's families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        series = [(_labels(served), one) for served, one in list(self._series.items())]
        for ours, theirs, said, where in HISTOGRAMS:
            for name in (f"slmops_{ours}_seconds", f"vllm:{theirs}"):
                family = HistogramMetricFamily(name, f"{said}.", labels=LABELS)
                for labels, one in series:
                    family.add_metric(labels, where(one).buckets(), where(one).total)
                yield family
        for ours, theirs, said, number in TOKENS:
            for name in (f"slmops_{ours}", f"vllm:{theirs}"):
                counter = CounterMetricFamily(name, f"{said}.", labels=LABELS)
                for labels, one in series:
                    counter.add_metric(labels, number(one))
                yield counter
        queries = CounterMetricFamily("vllm:prefix_cache_queries", "Tokens of prompts.", labels=LABELS)
        total = CounterMetricFamily("slmops_requests", "Requests, by how they ended.", labels=(*LABELS, "reason"))
        success = CounterMetricFamily("vllm:request_success", "Requests that ended.", labels=(*LABELS, "finished_reason"))
        for labels, one in series:
            queries.add_metric(labels, one.prompt)
            for reason, count in list(one.ended.items()):
                total.add_metric([*labels, reason], count)
            for reason, meant in VLLM_REASONS.items():
                if any(word in one.ended for word in meant):
                    success.add_metric([*labels, reason], sum(one.ended.get(word, 0) for word in meant))
        yield from (queries, total, success)
        refused = CounterMetricFamily(
            "slmops_requests_refused", "Requests that were not computed.", labels=("model_name", "reason")
        )
        for key, count in list(self._refused.items()):
            refused.add_metric(key, count)
        answered = CounterMetricFamily("slmops_http_responses", "HTTP answers.", labels=("method", "status"))
        for key, count in list(self._answered.items()):
            answered.add_metric(key, count)
        build = GaugeMetricFamily("slmops_build_info", "1, of this version.", labels=("version", "python"))
        build.add_metric((slmops.__version__, platform.python_version()), 1)
        yield from (refused, answered, build)
        yield from self._lives()

    def _lives(self) -> Iterator[Family]:
        """Of models as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        states = _distinct(self._models.states())
        gauges: tuple[tuple[str, str, Callable[[State], float | None]], ...] = (
            ("slmops_requests_running", "Requests that are computed now.", lambda one: one.running),
            ("slmops_requests_waiting", "Requests that wait for a model.", lambda one: one.waiting),
            ("vllm:num_requests_running", "Requests that are computed now.", lambda one: one.running),
            ("vllm:num_requests_waiting", "Requests that wait for a model.", lambda one: one.waiting),
            ("slmops_kv_cache_usage_ratio", "Of the tokens there is room for, those in flight.", lambda one: one.cache),
            ("vllm:kv_cache_usage_perc", "Of the tokens there is room for, those in flight.", lambda one: one.cache),
            ("slmops_model_loaded", "Whether it is loaded.", lambda one: one.loaded),
            ("slmops_model_memory_bytes", "Resident bytes of its worker.", lambda one: one.memory),
            ("slmops_model_expected_memory_bytes", "Bytes that it is counted with.", lambda one: one.expected),
        )
        for name, said, value in gauges:
            family = GaugeMetricFamily(name, said, labels=LABELS)
            for labels, one in states:
                if (number := value(one)) is not None:
                    family.add_metric(labels, number)
            yield family
        yield GaugeMetricFamily("slmops_memory_budget_bytes", "What models may take together.", self._models.budget)
        yield GaugeMetricFamily("slmops_memory_counted_bytes", "What they take.", sum(one.expected for _, one in states))
        counted = Counter(self._models.counted)
        for _, one in states:
            for what in ("loads", "failures", "restarts"):
                counted[what, one.name, ""] += getattr(one, what)
        for what, name, said in (
            ("loads", "slmops_model_loads", "Starts of its worker."),
            ("failures", "slmops_model_load_failures", "Starts of its worker that failed."),
            ("restarts", "slmops_worker_restarts", "Times that its worker died."),
            ("evictions", "slmops_model_evictions", "Times that it was unloaded, by why."),
        ):
            by = ("model_name", "reason") if what == "evictions" else ("model_name",)
            counter = CounterMetricFamily(name, said, labels=by)
            for (kind, model, why), count in counted.items():
                if kind == what:
                    counter.add_metric((model, why)[: len(by)], count)
            yield counter


def _distinct(states: Iterable[State]) -> list[tuple[tuple[str, ...], State]]:
    """With their labels; of two versions of one model that have the same (one is about to go), the first."""
    found: dict[tuple[str, ...], State] = {}
    for one in states:
        release = "canary" if any("canary" in name.split(":") for name in one.names) else "stable"
        found.setdefault((one.name, one.engine, one.digest[7:19], one.scheme, release), one)
    return list(found.items())


def _labels(served: Served) -> tuple[str, ...]:
    return served.name, served.engine, served.digest[7:19], served.quant, served.release
