"""One runtime a file, each opened in a child process by engines/_host.py. A file holds:

FORMATS                  the formats it opens
MODULES                  importable modules it needs (looked up without importing them)
PACKAGE                  the distribution whose version is quoted
EXTRA                    the extra that installs it: pip install "slmops[EXTRA]"
CAN                      frozenset of {"logits", "generate", "encode", "render", "parallel"}: what a Session of it can do
DEVICES                  device names it takes besides "auto"
FOOTPRINT                what its process takes in memory (plan/memory.py adds it up), and how fast it reads weights
KV                       the precisions of its KV cache, "auto" (its default on a CPU) first, among AUTO, "f32", "f16" and
                         "q8" (8 bits with scales): name -> bytes of a number, scales and all, which plan/memory.py counts
open(folder, options) -> Session

With "parallel", a Session has one method more, for requests that are computed together (continuous batching):

    serve(prompts, sampling, at_once) -> iterator of (which prompt, token), with (which, None) where a request is made
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from slmops.core.tensor import Floats


@dataclass(frozen=True)
class Options:
    """How an artifact is opened. An engine is asked only for what its CAN, DEVICES and KV say that it has."""

    proof: bool = False
    """Computed in f32, activations never rounded: what proofs are held against."""
    device: str = "auto"
    threads: int | None = None
    """None: as many as the engine likes."""
    context: int = 4096
    """Tokens of a sequence, prompt and answer, at most; the model's own limit, if that is less."""
    parallel: int = 1
    """Requests in flight at most."""
    kv: str = "auto"
    """Precision of the KV cache."""


AS_IT_COMES = Options()


@dataclass(frozen=True)
class Constraint:
    """What an answer must be, so that no token may be picked that leads elsewhere."""

    kind: Literal["json", "json_schema", "regex", "grammar"]
    """json: any JSON object; grammar: EBNF as llama.cpp writes it (GBNF)."""
    text: str = ""


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked; temperature 0 is greedy.

    Engines take max_tokens to stop_ids; of the rest, what their SAMPLES and CONSTRAINTS name.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    """Ids that end the generation and are not yielded."""
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    """None: none; else with each token its log-probability and those of so many that were likeliest."""
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Footprint:
    """What an engine's process takes in memory, and how near decoding comes to the memory's own speed.

    Measured on x86-64 Linux by bench/planner.py, which prints how far the sums are off.
    """

    base: int
    """Bytes of the process with the engine loaded and no model."""
    copies: float = 1.0
    """Bytes resident for each byte of weights: more than 1 where codes are repacked beside the file's mapped pages."""
    plain: float | None = None
    """The same for plain numbers of 16 bits, where it differs: some engines compute with them as f32 ones."""
    dense: bool = False
    """Whether codes are written out as numbers of 16 bits when they are loaded."""
    reserved: bool = False
    """Whether the KV cache of the whole context is taken at once, and not as it fills."""
    chunk: int | None = None
    """Tokens of a prompt that are computed at once; None: all of it."""
    rows: int | None = 1
    """Positions of a chunk whose logits are held; None: all of it."""
    efficiency: float = 0.7
    """Of the bandwidth that all cores read with, what decoding one sequence reaches (bench/planner.py)."""


class Session(Protocol):
    """An artifact opened in its engine, inside the worker process. One sequence at a time."""

    @property
    def effective(self) -> Mapping[str, str]:
        """What really runs: version, device, weights, activations, kv, and a `fallback` sentence where one happened."""
        ...

    def logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Floats:
        """Logits f32 [len(ids), vocab] of a fresh sequence, fed in chunks of these lengths over the KV cache."""
        ...

    def generate(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Tokens of a fresh sequence as they come. Closing the iterator cancels at once."""
        ...

    def encode(self, text: str) -> list[int]:
        """The engine's own tokenizer, special tokens in the text taken as such, none added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The engine's own detokenizer, special tokens left out."""
        ...

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The engine's own rendering of the artifact's chat template with a generation prompt; None if it has none."""
        ...

    def close(self) -> None: ...
