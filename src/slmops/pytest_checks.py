"""A pytest plugin: each check of a `*.slmops.yaml` file (docs/checks.md) is a test item.

pytest --slmops-model out/gguf            the artifact that is checked; or the ini option slmops_model
       --slmops-engine onnxruntime        default: the preferred one that is installed

Found by its entry point wherever slmops is installed, so nothing but pytest is imported until there is such a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from slmops.measure.checks import Check, Result, Subject

ENDINGS = (".slmops.yaml", ".slmops.yml")
HELD = pytest.StashKey["dict[int, Subject]"]()
"""Subjects that are open, by the context that their file asks for; closed with the session."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("slmops", "checks of *.slmops.yaml files on a language model")
    group.addoption("--slmops-model", metavar="FOLDER", help="the artifact that checks are run on")
    group.addoption("--slmops-engine", metavar="NAME", help="the engine that opens it (default: the preferred one)")
    parser.addini("slmops_model", "the artifact that checks of *.slmops.yaml files are run on, from the root directory")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> File | None:
    return File.from_parent(parent, path=file_path) if file_path.name.endswith(ENDINGS) else None


def pytest_unconfigure(config: pytest.Config) -> None:
    for subject in config.stash.get(HELD, {}).values():
        subject.close()


class File(pytest.File):
    """A file of checks."""

    def collect(self) -> Iterable[Item]:
        from slmops.core.errors import SlmopsError
        from slmops.measure import checks

        try:
            found = checks.read(self.path)
        except SlmopsError as error:
            raise self.CollectError(_told(error)) from None
        for one in found.checks:
            yield Item.from_parent(self, name=one.name, check=one, context=found.context)


class Item(pytest.Item):
    """One check."""

    def __init__(self, *, check: Check, context: int, **pytests_own: Any) -> None:
        super().__init__(**pytests_own)
        self._check, self._context = check, context

    def runtest(self) -> None:
        from slmops.measure import checks

        result = checks.examine(self._check, self._subject())
        if result.passed is not True:
            raise NotHeld(result)
        self.add_report_section("call", "slmops", result.said)

    def _subject(self) -> Subject:
        """The model in its engine, one for all files that ask for the same context."""
        from slmops import run
        from slmops.core.errors import SlmopsError
        from slmops.measure import checks

        model = self.config.getoption("--slmops-model")
        if not model and (listed := self.config.getini("slmops_model")):
            model = str(self.config.rootpath / listed)
        if not model:
            pytest.skip("no model to check: give --slmops-model FOLDER, or slmops_model in the ini file")
        held = self.config.stash.setdefault(HELD, {})
        if self._context not in held:
            fault = ""
            try:
                artifact = run.Artifact.open(Path(model))
                engine = self.config.getoption("--slmops-engine")
                held[self._context] = checks.Subject(artifact, engine, context=self._context)
            except SlmopsError as error:
                fault = _told(error)
            if fault:
                pytest.fail(fault, pytrace=False)
        return held[self._context]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, NotHeld):
            return super().repr_failure(excinfo, style)
        result = excinfo.value.result
        outcome = "failed" if result.passed is False else "is undecided"
        return f"{self.path}:{result.line}: the check {result.name!r} ({result.kind}) {outcome}\n{result.said}"

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self._check.line - 1, self.name


class NotHeld(Exception):
    """A check that did not pass."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.said)
        self.result = result


def _told(error: Any) -> str:
    return f"{error}\n{error.cure}" if error.cure else str(error)
