"""Which format, scheme and engine could serve a model on a machine within limits, and why others cannot. Opens no weight.

    speed = bandwidth x the engine's efficiency / bytes that one token reads
    bytes = the weights, without an embedding that is only looked up, + the KV cache of half the context

That is the roofline of decoding one sequence (every weight is read once a token). Its interval is +-SPEED_SPREAD: what was
measured decides, this only says what is worth measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmops.core import plugins, units
from slmops.core.errors import Unsupported, UsageError
from slmops.core.model import Model
from slmops.core.tensor import elements
from slmops.engines import _installed
from slmops.passes import mix
from slmops.passes.quantize import packed
from slmops.plan import memory
from slmops.plan.hardware import Machine
from slmops.plan.memory import Memory

PORTABLE = ("q4", "q4a", "q8", "f16")
"""Schemes that every format holds."""
FULL = 0.99
"""Of a limit of size, what a mix is made to fill."""
SPEED_SPREAD = 0.35
"""Share of the predicted speed by which measured ones lie apart from it (bench/planner.py)."""


@dataclass(frozen=True)
class Limits:
    """What the user asks for; None where nothing is."""

    size: int | None = None
    """Bytes of the artifact."""
    memory: int | None = None
    """Bytes of the engine's process at its peak."""
    speed: float | None = None
    """Tokens a second of decoding, one sequence."""
    context: int = 4096
    """Tokens that the KV cache must hold."""
    kv: str | None = None
    """Precision of the KV cache (KV in the engines' files); None: the engine's own, and a smaller one too where memory asks
    for it."""


def read_limits(said: Mapping[str, Any], parameters: int) -> Limits:
    """What was typed (max_size, max_memory, min_speed, context, kv), for so many parameters. Raises UsageError."""
    context = said.get("context", 4096)
    if context < 1:
        raise UsageError(f"a context of {context} tokens makes no sense", "give 1 or more")
    return Limits(
        size=units.parse_size(said["max_size"], 2 * parameters) if said.get("max_size") else None,
        memory=units.parse_size(said["max_memory"]) if said.get("max_memory") else None,
        speed=units.parse_rate(said["min_speed"]) if said.get("min_speed") else None,
        context=context,
        kv=said.get("kv"),
    )


@dataclass(frozen=True)
class Candidate:
    """One way to serve the model, with what it will take."""

    format: str
    scheme: str
    engine: str
    size: int
    """Bytes of the artifact: the weights as they will be laid out, and about as much as the tokenizer takes."""
    bits: float
    """Bits of the weights, scales and all, for each parameter."""
    memory: Memory | None
    speed: tuple[float, float, float]
    """Tokens a second: low, likely, high."""
    dropped: str = ""
    """Why it is out; empty where it is worth measuring."""
    kv: str = "auto"
    """Precision of the KV cache."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it another candidate."""
        return (self.format, self.scheme, self.engine, self.kv)

    @property
    def named(self) -> str:
        """Format and scheme as people read them, and a KV cache that is not the engine's usual one."""
        return f"{self.format.replace('_', '-')} {self.scheme}" + (f" with a KV cache of {self.kv}" * (self.kv != "auto"))

    @property
    def codes(self) -> str:
        """The same for candidates that compute with the same codes: a mix has each format's own schemes."""
        own = self.scheme if mix.bits(self.scheme) is None else f"{self.scheme} of {self.format}"
        return own if self.kv == "auto" else f"{own}, {self.kv}"


def candidates(
    model: Model,
    machine: Machine,
    limits: Limits,
    formats: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    here: bool = True,
    told: bool = False,
    mixes: bool = False,
    lean: bool = False,
) -> list[Candidate]:
    """All that could be made, the fastest first, the dropped ones last. `here`: each in every engine that is installed. Of a
    model that is quantized already: its codes as they are, in every format that holds them. told: with what needs a text to
    calibrate on too; mixes: with bits by matrix too. lean: each with the smallest KV cache of its engine too, and not only
    where memory asks for it.

    Raises UsageError for a KV cache that no engine has.
    """
    found: list[Candidate] = []
    engines = plugins.names("engines")
    if limits.kv is not None and not any(limits.kv in plugins.load("engines", name).KV for name in engines):
        known = {kv for name in engines for kv in plugins.load("engines", name).KV}
        raise UsageError(f"no engine has a KV cache of {limits.kv}", f"one of: {', '.join(sorted(known))}")
    for form in formats or memory.writers():
        for scheme in schemes or ((memory.KEEP,) if packed(model) else schemes_of(form, model, limits, told, mixes)):
            found += _candidates(model, machine, limits, form, scheme, here, lean)
    return sorted(found, key=lambda one: (bool(one.dropped), -one.speed[1], one.size))


def schemes_of(form: str, model: Model, limits: Limits, told: bool = False, mixes: bool = False) -> tuple[str, ...]:
    """The schemes worth trying in a format: those that all hold, its own (NATIVE in its file; with a text, TOLD), and mixes
    of about 5 bits and of what the limit of its size leaves."""
    module = plugins.load("formats", form)
    found = [*PORTABLE, *getattr(module, "NATIVE", ()), *(getattr(module, "TOLD", ()) if told else ())]
    if mixes and hasattr(module, "MIXES"):
        found.append("mixed:5bpw")
        if limits.size is not None:
            left = limits.size * FULL - memory.unmixed(model, form) - memory.tokenizer(model, form)
            bits = 8 * left / mix.weights(model)
            found += [f"mixed:{bits:.3f}bpw"] if 3 <= bits <= 9 and abs(bits - 5) > 0.25 else []
    return tuple(found)


def lacking(engine: str) -> str:
    """Why nothing can be measured in it here; empty where it can."""
    if engine and _installed.installed(engine):
        return ""
    return f"no engine for it is installed ({_installed.install_command(engine)})" if engine else "no engine opens it"


def _candidates(
    model: Model, machine: Machine, limits: Limits, form: str, scheme: str, here: bool, lean: bool
) -> Iterable[Candidate]:
    """One for each engine, or two that differ in the KV cache; a pair that cannot be is one, whatever opens the format."""
    try:
        weights = memory.weights(model, form, scheme)
    except Unsupported as refusal:
        name, _ = memory.footprint(form)
        yield Candidate(form, scheme, name, 0, 0.0, None, (0.0, 0.0, 0.0), f"not possible: {refusal}")
        return
    most = min(machine.usable, limits.memory or machine.usable)
    for name in memory.engines(form, here):
        usual = _in(model, machine, limits, form, scheme, weights, name, limits.kv or "auto", here)
        less = memory.smaller(name) if limits.kv is None else None
        tight = usual.memory is not None and usual.memory.high > most
        if less is None or not (tight or lean):
            yield usual
            continue
        leaner = _in(model, machine, limits, form, scheme, weights, name, less, here)
        # Where neither can be, the leaner one's figures say by how much.
        yield from [usual, leaner] if not leaner.dropped else [leaner if usual.dropped and tight else usual]


def _in(
    model: Model, machine: Machine, limits: Limits, form: str, scheme: str, weights: int, name: str, kv: str, here: bool
) -> Candidate:
    """In one engine, with the KV cache in one precision."""
    context, bits = min(limits.context, model.spec.context), 8 * weights / model.parameters
    size = weights + memory.tokenizer(model, form)
    if name and kv not in (known := plugins.load("engines", name).KV):
        why = f"{name} has no KV cache of {kv}, but {', '.join(known)}"
        return Candidate(form, scheme, name, size, bits, None, (0.0, 0.0, 0.0), why, kv)
    engine = plugins.load("engines", name).FOOTPRINT if name else memory.UNKNOWN
    taken = memory.of(model.spec, form, scheme, context, weights, model.parameters, (name, engine), kv)
    read = 2 * model.parameters if engine.dense else weights * (1 - _looked_up(model)) + taken.kv_cache / 2
    if engine.plain is not None and engine.plain > engine.copies and scheme in ("f16", "bf16"):
        read += weights  # they grow when they are loaded, for they are held, and read, as f32
    likely = machine.bandwidth * engine.efficiency / max(read, 1)
    speed = (likely * (1 - SPEED_SPREAD), likely, likely * (1 + SPEED_SPREAD))
    lack = lacking(name) if here else ""
    dropped = "; ".join(filter(None, [lack, *_reasons(taken, size, speed, machine, limits)]))
    return Candidate(form, scheme, name, size, bits, taken, speed, dropped, kv)


def _looked_up(model: Model) -> float:
    """Share of the parameters that are an embedding with a head of its own beside it: one row of it is read a token."""
    embedding = elements(model.tensors["embedding"].shape)
    return 0.0 if model.spec.tied else embedding / model.parameters


def _reasons(taken: Memory, size: int, speed: tuple[float, float, float], machine: Machine, limits: Limits) -> Iterable[str]:
    """Each limit that surely is not kept: by the better end of the interval."""
    if limits.size is not None and size > limits.size:
        yield f"{units.size(size)} on disk, {units.size(limits.size)} are allowed"
    if machine.disk is not None and size > machine.disk:
        yield f"{units.size(size)} on disk, {units.size(machine.disk)} are free"
    if limits.memory is not None and taken.low > limits.memory:
        yield f"at least {units.size(taken.low)} of memory, {units.size(limits.memory)} are allowed"
    if taken.low > machine.usable:
        yield f"at least {units.size(taken.low)} of memory, {units.size(machine.usable)} can be had"
    if limits.speed is not None and speed[2] < limits.speed:
        yield f"at most {speed[2]:.1f} tokens/s by the memory's bandwidth, {limits.speed:g} are asked"


def relax(found: Sequence[Candidate], limits: Limits) -> list[str]:
    """Where nothing is left: for each limit that nothing keeps, what comes nearest to it."""
    able = [(one, one.memory) for one in found if one.memory is not None]
    if not able:
        return ["the model cannot be written in any of these formats"]
    hints = []
    least = min((one for one, _ in able), key=lambda one: one.size)
    if limits.size is not None and least.size > limits.size:
        both = f"{units.size(least.size)}; allowed are {units.size(limits.size)}"
        hints.append(f"the smallest, {least.named}, has {both}")
    lean, taken = min(able, key=lambda pair: pair[1].low)
    if limits.memory is not None and taken.low > limits.memory:
        between = f"{units.size(taken.low)} to {units.size(taken.high)}"
        hints.append(f"the leanest, {lean.named}, takes {between}; allowed are {units.size(limits.memory)}")
    fast = max((one for one, _ in able), key=lambda one: one.speed[2])
    if limits.speed is not None and fast.speed[2] < limits.speed:
        reached = f"{fast.speed[1]:.1f} tokens/s, {fast.speed[2]:.1f} at most"
        hints.append(f"the fastest, {fast.named}, reaches about {reached}; {limits.speed:g} are asked")
    return hints or ["each limit can be kept, but not all of them by one candidate: give up one"]
