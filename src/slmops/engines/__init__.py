"""One runtime a file, each opened in a child process by engines/_host.py. A file holds:

FORMATS                  the formats it opens
MODULES                  importable modules it needs (looked up without importing them)
PACKAGE                  the distribution whose version is quoted
EXTRA                    the extra that installs it: pip install "slmops[EXTRA]"
CAN                      frozenset of {"logits", "generate", "encode", "render", "parallel", "turns", "embed", "adapt"}: what
                         a Session of it can do; "turns": several generate() iterators may be held at once; "adapt":
                         Options.adapters; the others below
SAMPLES                  names of the fields of Sampling, beyond those up to stop_ids, that it honours
CONSTRAINTS              kinds of Constraint that it honours
DEVICES                  device names it takes besides "auto"
FOOTPRINT                what its process takes in memory (plan/memory.py adds it up), and how fast it reads weights
KV                       the precisions of its KV cache, "auto" (its default on a CPU) first, among AUTO, "f32", "f16" and
                         "q8" (8 bits with scales): name -> bytes of a number, scales and all, which plan/memory.py counts
open(folder, options) -> Session
ONCE                     True where a process keeps to the device that it first opened something on (default: False)

With "parallel", a Session has one method more, for requests that come and go and are computed together by the engine's own
continuous batching; the others have _flow.Turns in its place:

    flow() -> Flow

With "turns", it says of the generation that was begun last how many tokens of the prompt were not computed again, because
Options.reuse had them kept (_kept.Kept):

    reused: int

With "embed", another:

    embed(ids) -> a vector of one sequence
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from slmops.core.errors import SlmopsError

if TYPE_CHECKING:  # numpy is not for who only asks an engine
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
    """Requests in flight at most; with "turns", also how many caches are held, of those and of earlier ones together."""
    kv: str = "auto"
    """Precision of the KV cache."""
    reuse: bool = False
    """Whether a Flow may keep what it computed of prompts, for others that begin alike. Off where it is measured."""
    adapters: tuple[str, ...] = ()
    """Files of low-rank adapters (LoRA), each as the format's `adapter` wrote it; Sampling.adapter picks one."""


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
    adapter: int | None = None
    """Which of Options.adapters changes the weights for this answer; None: none."""


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


@dataclass(frozen=True, slots=True)
class Likely:
    """A token in text with its natural log-probability, and those that were likeliest in its place, the likeliest first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class News:
    """What came of one request in a step."""

    which: int
    text: str = ""
    """That became certain: it may lag behind the tokens by a few."""
    tokens: int = 0
    """Generated in this step; one that ended the answer is not counted."""
    cached: int | None = None
    """Said once, before anything else: tokens of the prompt that were not computed again."""
    logprobs: tuple[Likely, ...] = ()
    end: Literal["stop", "length"] | None = None
    error: SlmopsError | None = None
    """In place of an end."""


class Flow(Protocol):
    """Requests that come and go while others run. All of it but `wake` is called on one thread."""

    def add(self, which: int, ids: Sequence[int], sampling: Sampling) -> None:
        """A request under a number that no other in flight has. Raises what is wrong with it."""
        ...

    def cancel(self, which: int) -> None:
        """Its place is free at once and no news of it comes any more; nothing where it has ended."""
        ...

    def step(self) -> list[News]:
        """What came: waits for something while a request is in flight, but may return nothing. Raises what fails them all,
        and none is in flight after that."""
        ...

    def wake(self) -> None:
        """From any thread: a step that waits returns."""
        ...

    def close(self) -> None: ...
