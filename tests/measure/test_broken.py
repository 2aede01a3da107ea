"""Artifacts that were proven and then broken: what measurement alone sees of it, and that the proof refuses each.

The figures are judged without the gate that compares checksums: that one would see every change of a tensor.
"""

from __future__ import annotations

import collections
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import broken
from needs import needs
from slmops import compile as compiler
from slmops import prove
from slmops.core.errors import VerificationFailed
from slmops.core.model import Model
from slmops.measure import artifact, gates, tasks
from slmops.measure.artifact import Measured, Text
from slmops.source import load

pytestmark = pytest.mark.slow
ENGINES = {"gguf": "llamacpp", "openvino": "openvino"}
FORMS = [pytest.param(form, marks=needs({"gguf": "xllamacpp"}.get(form, "openvino_genai"))) for form in ENGINES]


@dataclasses.dataclass(frozen=True)
class Bench:
    """The sample at q4 in two formats, proven, with what is needed to measure it."""

    model: Model
    text: Text
    cases: list[tasks.Case]
    folders: dict[str, Path]
    scratch: Path

    def measured(self, folder: Path, form: str) -> Measured:
        found = artifact.measure(folder, ENGINES[form], text=self.text, cases=self.cases, runs=2, new_tokens=8, context=512)
        return dataclasses.replace(found, altered="")

    def copy(self, form: str, name: str) -> Path:
        return shutil.copytree(self.folders[form], self.scratch / name / form)


@pytest.fixture(scope="module")
def bench(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    out = tmp_path_factory.mktemp("broken")
    model = load(sample)
    made = compiler.convert(model, list(ENGINES), "q4", out / "whole")
    text = Text(model, (sample / "eval" / "text.txt").read_text(encoding="utf-8"), out, most=8)
    cases = tasks.spread(tasks.read_cases(sample / "eval" / "tools.jsonl"), 24)
    yield Bench(model, text, cases, {one.folder.name: one.folder for one in made}, out)


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Callable[[str], Measured]:
    known: dict[str, Measured] = {}

    def measured(form: str) -> Measured:
        if form not in known:
            known[form] = bench.measured(bench.folders[form], form)
        return known[form]

    return measured


def failed(bench: Bench, folder: Path, form: str, parent: Measured) -> set[str]:
    """The gates of quality that it misses with their whole interval: not for want of samples."""
    return {one.gate for one in gates.quality(bench.measured(folder, form), parent=parent) if one.passed is False}


@pytest.mark.parametrize("form", FORMS)
def test_the_whole_one_passes(bench: Bench, whole: Callable[[str], Measured], form: str) -> None:
    verdicts = list(gates.quality(whole(form), parent=whole(form)))
    assert next(one for one in verdicts if one.gate == "quality").passed is True
    prove.verify(bench.folders[form], engines=[ENGINES[form]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (broken.swapped_layers, {"quality", "tasks against the parent"}),
        (broken.lost_norms, {"quality", "tasks against the parent"}),
        (broken.shifted_scales, {"quality"}),  # of one matrix
        (broken.wrong_template, {"tasks against the parent"}),
    ],
)
def test_what_is_broken_is_refused(
    bench: Bench, whole: Callable[[str], Measured], form: str, fault: Callable[[Path, str], None], seen: set[str]
) -> None:
    folder = bench.copy(form, fault.__name__)
    fault(folder, form)
    assert failed(bench, folder, form, whole(form)) >= seen
    with pytest.raises(VerificationFailed):
        prove.verify(folder, engines=[ENGINES[form]])


@pytest.mark.parametrize("form", FORMS)
def test_a_lost_row_of_the_vocabulary(bench: Bench, whole: Callable[[str], Measured], form: str) -> None:
    """The token that the text has most."""
    counted = collections.Counter(token for window in bench.text.windows for token in window)
    folder = bench.copy(form, "row")
    broken.lost_row(folder, form, counted.most_common(1)[0][0], bench.model.spec.vocab)
    assert "quality" in failed(bench, folder, form, whole(form))
    with pytest.raises(VerificationFailed):
        prove.verify(folder, engines=[ENGINES[form]])


@pytest.mark.parametrize("form", FORMS)
def test_one_tensor_a_tenth_larger_keeps_its_quality_and_not_its_checksum(bench: Bench, form: str) -> None:
    """An honest limit: a tenth more in one tensor costs less perplexity than any gate asks for. The checksums see it."""
    folder = bench.copy(form, "one")
    broken.larger_scales(folder, form)
    found = artifact.measure(folder, ENGINES[form], text=bench.text, runs=2, new_tokens=8, context=512)
    assert found.quality is not None and found.quality.retained.low > 0.95
    stops = {one.gate for one in gates.default(found) if one.stops}
    assert "as proven" in stops and "quality" not in stops
    with pytest.raises(VerificationFailed, match="not what was written"):
        prove.verify(folder, engines=[ENGINES[form]])
