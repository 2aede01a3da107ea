"""Candidates made and measured by the lab of `slmops optimize`, on the sample and a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from needs import needs
from slmops import compile as compiler
from slmops import source, trials
from slmops.plan import decide, hardware

pytestmark = [pytest.mark.slow, needs("xllamacpp")]


def test_a_kv_cache_makes_another_measurement_of_the_same_artifact(sample: Path, tmp_path: Path) -> None:
    model, machine = source.load(str(sample)), hardware.detect()
    limits = decide.Limits(memory=1, context=256)
    listed = decide.candidates(model, machine, limits, ["gguf"], ["q4"], lean=True)
    (one,) = [one for one in listed if one.engine == "llamacpp"]
    assert one.kv == "q8" and "of memory" in one.dropped
    given = trials.Given(trials.Wanted(limits), (sample / "eval" / "text.txt").read_text()[:3000])
    with trials.laboratory(model, tmp_path, given, machine, compiler.Watch()) as lab:
        usual = decide.Candidate(one.format, one.scheme, one.engine, one.size, one.bits, None, one.speed)
        first, second = lab.outcome(usual).measured, lab.outcome(one).measured
        assert first is not None and second is not None and first.folder == second.folder
        assert (first.effective["kv"], second.effective["kv"], second.kv) == ("f16", "q8_0", "q8")
        assert first.quality is not None and second.quality is not None
        assert first.quality.kl.value != second.quality.kl.value == pytest.approx(first.quality.kl.value, rel=0.2)
        known = [lab.recall(usual), lab.recall(one)]
        assert [each.measured for each in known if each is not None] == [first, second]
