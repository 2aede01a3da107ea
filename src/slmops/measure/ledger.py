"""Measurements kept beside what was measured: the same artifact, engine, text, cases and machine are not measured twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmops.core.errors import CorruptInput
from slmops.core.store import digest, no_space
from slmops.measure.artifact import Measured
from slmops.measure.quality import Quality
from slmops.measure.speed import Speed
from slmops.measure.statistics import Estimate
from slmops.measure.tasks import Answers

CODE = "3"
"""Raised whenever what a measurement means changes."""


class Ledger:
    """A folder of JSON files, one a measurement, named by the digest of all that it hangs on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, facts: Mapping[str, Any]) -> Measured | None:
        """What was measured of these facts, or None. Raises CorruptInput for a file that is none of ours."""
        path = self._path(facts)
        if not path.is_file():
            return None
        try:
            return _from_facts(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptInput(f"{path} is no measurement: {error}", "remove it: it is taken again") from None

    def keep(self, facts: Mapping[str, Any], measured: Measured) -> None:
        """Written whole or not at all."""
        path = self._path(facts)
        with no_space(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".partial")
            temporary.write_text(json.dumps(dataclasses.asdict(measured)), encoding="utf-8")
            temporary.replace(path)

    def _path(self, facts: Mapping[str, Any]) -> Path:
        return self._folder / f"{digest({**facts, 'code': CODE})}.json"


def _from_facts(facts: dict[str, Any]) -> Measured:
    quality, answers, speed = facts.pop("quality"), facts.pop("answers"), facts.pop("speed")
    if quality is not None:
        estimates = {key: Estimate(**value) for key, value in quality.items() if isinstance(value, dict)}
        quality = Quality(**{**quality, **estimates, "losses": tuple(quality["losses"])})
    if answers is not None:
        answers = Answers(tuple(answers["right"]), tuple(answers["splits"]), tuple(answers["marks"]))
    if speed is not None:
        speed = Speed(**{**speed, "itl": tuple(speed["itl"]), "decodes": tuple(speed["decodes"])})
    return Measured(**facts, quality=quality, answers=answers, speed=speed)
