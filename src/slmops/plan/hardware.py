"""What this machine has that a small language model's speed and size hang on. Opens no engine; well under a second.

Decoding reads every weight once a token, so memory bandwidth is measured and not looked up. Features of the processor are
named as Linux names them in /proc/cpuinfo.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

FEATURES = (
    "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "neon", "dotprod", "i8mm", "fp16", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
"""Those that engines have kernels for."""
_SPELLINGS = {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "fphp": "fp16"}
_APPLE = {"FEAT_DotProd": "dotprod", "FEAT_I8MM": "i8mm", "FEAT_FP16": "fp16", "FEAT_BF16": "bf16", "FEAT_SME": "sme"}
CACHES, PROBE = 3, (64 << 20, 512 << 20)
"""The bandwidth measurement reads so many times the last-level cache, within these bytes: taking the pages is what costs."""


@dataclass(frozen=True)
class Accelerator:
    """Something beside the processor that computes."""

    kind: str
    """cuda, metal, gpu or npu."""
    name: str
    memory: int | None = None
    """Bytes of its own; None where it shares the machine's."""


@dataclass(frozen=True)
class Machine:
    """A machine, measured here or described by a target file."""

    name: str
    system: str
    """linux, darwin, windows, android, ios or browser."""
    arch: str
    """x86_64, aarch64 or wasm."""
    processor: str
    cores: int
    memory: int
    """Bytes, all of it."""
    usable: int
    """Bytes that a model may take: what is free now, or what the system leaves an application."""
    bandwidth: float
    """Bytes a second that all cores read from memory."""
    cache: int | None = None
    """Bytes of the last-level cache; None where it is not known."""
    disk: int | None = None
    """Bytes free where models are kept; None where it is not known."""
    features: tuple[str, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    measured: bool = False


def detect(where: Path | None = None) -> Machine:
    """This machine; disk space is that of `where` (the current folder by default)."""
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    limit, cache = _container_limit(), last_level_cache()
    return Machine(
        name="this machine",
        system=platform.system().lower(),
        arch={"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}.get(platform.machine(), platform.machine()),
        processor=processor(),
        cores=max(1, min(cores, allowed)),
        memory=min(memory.total, limit),
        usable=usable(),
        bandwidth=bandwidth(max(1, min(cores, allowed)), min(max(PROBE[0], CACHES * (cache or 0)), PROBE[1])),
        cache=cache,
        disk=shutil.disk_usage(where or Path.cwd()).free,
        features=features(),
        accelerators=tuple(accelerators()),
        measured=True,
    )


def usable() -> int:
    """Bytes that are free now, within what the control group allows."""
    return int(min(psutil.virtual_memory().available, _container_limit()))


def processor() -> str:
    """Its name as the system gives it."""
    if platform.system() == "Darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def features() -> tuple[str, ...]:
    """Those of FEATURES that this processor has and the system lets programs use."""
    found: set[str] = set()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.lower().startswith(("flags", "features")):
            found = {_SPELLINGS.get(word, word) for word in line.partition(":")[2].split()}
            break
    if platform.system() == "Darwin":
        told = _said("sysctl", "hw.optional") or ""
        found = {ours for theirs, ours in _APPLE.items() if f"{theirs}: 1" in told}
        found |= {"neon"} if "hw.optional.arm64: 1" in told else set()
        found |= {name for name in ("avx2", "avx512f") if f"hw.optional.{name}_0: 1" in told or f"{name}: 1" in told}
    if not found:  # Windows: numpy knows what it chooses its own kernels by
        import numpy as np

        told = " ".join(np.show_config(mode="dicts")["SIMD Extensions"]["found"]).upper()
        levels = {"AVX2": "avx2", "X86_V3": "avx2 f16c fma", "X86_V4": "avx512f", "AVX512_ICL": "avx512_vnni",
                  "AVX512_SPR": "avx512_bf16 avx512_fp16", "ASIMDDP": "dotprod", "ASIMD": "neon", "SVE": "sve"}  # fmt: skip
        found = {name for level, names in levels.items() if level in told for name in names.split()}
    return tuple(name for name in FEATURES if name in found)


def bandwidth(threads: int, probe: int) -> float:
    """Bytes a second that `threads` read from memory together: the best of three passes over `probe` bytes."""
    import numpy as np

    share = max(1, probe // max(1, threads) // 8)
    parts = [np.ones(share, np.uint64) for _ in range(threads)]
    best = 0.0
    with concurrent.futures.ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in range(3):
            began = time.perf_counter()
            list(pool.map(np.max, parts))  # numpy lets go of the interpreter's lock while it reduces
            best = max(best, share * 8 * threads / max(time.perf_counter() - began, 1e-9))
    return best


def last_level_cache() -> int | None:
    """Bytes of the largest cache of the first core."""
    sizes = []
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = next(iter(_lines(size)), "").strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 0)
        if text[:-1].isdigit():
            sizes.append(int(text[:-1]) * unit)
    if platform.system() == "Darwin":
        sizes += [
            int(text) for key in ("hw.l3cachesize", "hw.l2cachesize") if (text := _said("sysctl", "-n", key)).isdigit()
        ]
    return max(sizes, default=None)


def accelerators() -> Iterable[Accelerator]:
    """What the system names without an engine: NVIDIA's own tool, Apple silicon, Linux's device files."""
    for line in _said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits").splitlines():
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            yield Accelerator("cuda", name.strip(), int(mebibytes) << 20)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        yield Accelerator("metal", processor())
    if any(Path("/dev/accel").glob("accel*")):
        yield Accelerator("npu", "a neural processor of the system (/dev/accel)")
    if any(Path("/dev/dri").glob("renderD*")):
        yield Accelerator("gpu", "a graphics processor of the system (/dev/dri)")


def _container_limit() -> int:
    """Bytes that the control group allows this process; very many where there is none."""
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = next(iter(_lines(Path(place))), "").strip()
        if text.isdigit():
            return int(text)
    return 1 << 62


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _said(*command: str) -> str:
    """What a program of the system prints; nothing where it is missing, fails or takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=3, check=False).stdout.strip()
    return ""
