"""The machine's facts against other sources for them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from slmops.plan import hardware


def test_this_machine() -> None:
    began = time.perf_counter()
    found = hardware.detect(Path.cwd())
    assert time.perf_counter() - began < 30  # a bound for hangs; it takes a third of a second
    assert 1 <= found.cores <= (os.cpu_count() or 1) and found.measured
    assert 0 < found.usable <= found.memory <= psutil.virtual_memory().total
    assert 1e8 < found.bandwidth < 2e12
    assert found.arch in ("x86_64", "aarch64") and set(found.features) <= set(hardware.FEATURES)
    assert found.disk is not None and found.disk > 0


def test_features_are_those_that_numpy_finds() -> None:
    """numpy asks the processor itself."""
    told = " ".join(np.show_config(mode="dicts")["SIMD Extensions"]["found"]).upper()
    found = hardware.features()
    if platform.machine() in ("x86_64", "AMD64"):
        assert ("avx2" in found) == ("AVX2" in told or "X86_V3" in told)
        assert ("avx512f" in found) == ("AVX512F" in told or "X86_V4" in told or "AVX512_SKX" in told)
    else:
        assert "neon" in found


@pytest.mark.skipif(platform.system() != "Linux", reason="Linux tells features in /proc")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx avx2 f16c fma avx512f avx512_vnni", ("avx2", "f16c", "fma", "avx512f", "avx512_vnni")),
        ("Features\t: fp asimd fphp asimdhp asimddp sve i8mm", ("neon", "dotprod", "i8mm", "fp16", "sve")),
    ],
)
def test_spellings(line: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_lines", lambda path: [line] if path.name == "cpuinfo" else [])
    assert hardware.features() == expected


def test_a_graphics_card_that_the_system_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "NVIDIA GeForce RTX 4060, 8188\nNVIDIA H100 80GB HBM3, 81559"
    monkeypatch.setattr(hardware, "_said", lambda *command: told if command[0] == "nvidia-smi" else "")
    found = [one for one in hardware.accelerators() if one.kind == "cuda"]
    assert [(one.name, one.memory) for one in found] == [
        ("NVIDIA GeForce RTX 4060", 8188 << 20),
        ("NVIDIA H100 80GB HBM3", 81559 << 20),
    ]


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_lines", lambda path: ["536870912"] if path.name == "memory.max" else [])
    found = hardware.detect()
    assert found.memory == 536870912 >= found.usable


def test_a_program_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*words: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 3)

    monkeypatch.setattr(subprocess, "run", slow)
    assert hardware._said(sys.executable) == "" and hardware._said("no-such-program-anywhere") == ""
