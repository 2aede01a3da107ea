"""Candidates made and measured by the lab of `slmops optimize`, on the sample and a real engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from needs import needs
from searched import CALM
from slmops import compile as compiler
from slmops import source, trials
from slmops.measure import artifact, gates
from slmops.plan import decide, hardware

pytestmark = [pytest.mark.slow, needs("xllamacpp")]


def test_a_kv_cache_makes_another_measurement_of_the_same_artifact(sample: Path, tmp_path: Path) -> None:
    model, machine = source.load(str(sample)), hardware.detect()
    limits = decide.Limits(memory=1, context=256)
    listed = decide.candidates(model, machine, limits, ["gguf"], ["q4"], lean=True)
    (one,) = [one for one in listed if one.engine == "llamacpp"]
    assert one.kv == "q8" and "of memory" in one.dropped
    given = trials.Given(
        trials.Wanted(limits, gates=tuple(map(gates.parse, CALM[1::2]))), (sample / "eval" / "text.txt").read_text()[:3000]
    )
    with trials.laboratory(model, tmp_path, given, machine, compiler.Watch()) as lab:
        usual = decide.Candidate(one.format, one.scheme, one.engine, one.size, one.bits, None, one.speed)
        first, second = lab.outcome(usual).measured, lab.outcome(one).measured
        assert first is not None and second is not None and first.folder == second.folder
        assert (first.effective["kv"], second.effective["kv"], second.kv) == ("f16", "q8_0", "q8")
        assert first.quality is not None and second.quality is not None
        assert first.quality.kl.value != second.quality.kl.value == pytest.approx(first.quality.kl.value, rel=0.2)
        known = [lab.recall(usual), lab.recall(one)]
        assert [each.measured for each in known if each is not None] == [first, second]


def test_speeds_that_a_busy_machine_took_are_taken_again(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What varied too much to pass its gate is not remembered as the artifact's."""
    model, machine = source.load(str(sample)), hardware.detect()
    given = trials.Given(trials.Wanted(decide.Limits(context=256)), (sample / "eval" / "text.txt").read_text()[:3000])
    (one, *_) = decide.candidates(model, machine, given.wanted.limits, ["gguf"], ["q4"])
    real, busy = artifact.measure, [True]

    def measure(*words: object, **named: object) -> artifact.Measured:
        found = real(*words, **named)  # type: ignore[arg-type]
        assert found.speed is not None
        return dataclasses.replace(found, speed=dataclasses.replace(found.speed, spread=2.0 if busy[0] else 0.1))

    monkeypatch.setattr(artifact, "measure", measure)
    with trials.laboratory(model, tmp_path, given, machine, compiler.Watch()) as lab:
        first = lab.judged(one, lab.outcome(one))
        assert not first.passed and lab.recall(one) is None
        busy[0] = False
        second = lab.outcome(one)
        assert second.seconds is not None and lab.recall(one) is not None
        assert lab.outcome(one).seconds is None
