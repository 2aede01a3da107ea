"""generate: text from an artifact, in the engine that opens it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core import chat, defaults, plugins, receipt
from slmops.core.defaults import NOTHING, Defaults
from slmops.core.errors import CorruptInput, EngineMissing, SourceNotFound, UnknownFamily, Unsupported, UsageError
from slmops.core.stops import Stops
from slmops.engines import AS_IT_COMES, Options, Sampling, _host, _installed, _words

if TYPE_CHECKING:
    from slmops.core.model import Tokenizer


@dataclass(frozen=True)
class Artifact:
    """What is needed to talk to an artifact: its format, tokenizer facts and chat template."""

    folder: Path
    format: str
    eos: tuple[int, ...]
    bos: int | None
    adds_bos: bool
    chat_template: str | None
    special: Mapping[str, str | None]
    context: int
    vocab: int
    """Rows of the embedding: a tokenizer may know fewer."""
    defaults: Defaults = NOTHING
    """What it says by itself."""

    @staticmethod
    def open(folder: Path) -> Artifact:
        """From the receipt of what slmops wrote, or from what others made: a folder, or a .gguf."""
        if not (folder / receipt.NAME).is_file() and folder.exists():
            return _with_defaults(_plain(folder))
        facts = receipt.load(folder)
        spec = plugins.load("architectures", facts["config"]["model_type"]).spec(facts["config"])
        tokens = facts["tokenizer"]
        found = Artifact(
            folder,
            facts["format"],
            tuple(tokens["eos"]),
            tokens["bos"],
            bool(tokens["adds_bos"]),
            facts.get("chat_template"),
            tokens.get("special", {}),
            spec.context,
            spec.vocab,
        )
        return _with_defaults(found)

    @property
    def begin(self) -> int | None:
        """The beginning-of-text token, where the source puts one before every text."""
        return self.bos if self.adds_bos else None

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        think: bool | None = None,
    ) -> str:
        """The conversation as the model was trained to see it (core.chat.render). Raises UsageError where there is no chat
        template."""
        if self.chat_template is None:
            raise UsageError("this model has no chat template", "use --raw to continue the text as it stands")
        said = self.defaults.before(messages)
        return chat.render(self.chat_template, said, special=self.special, tools=tools, think=think)


def _with_defaults(found: Artifact) -> Artifact:
    """With what its folder says of itself. Foundry's template stands in where the model has none, as Foundry has it."""
    if not found.folder.is_dir():
        return found
    said = defaults.read(found.folder)
    if said == NOTHING and not (found.folder / receipt.NAME).is_file():
        said = defaults.foundry(found.folder)
    template = said.template or found.chat_template or defaults.foundry_template(found.folder)
    return dataclasses.replace(found, defaults=said, chat_template=template)


def _plain(folder: Path) -> Artifact:
    """Raises what reading the model raises. A graph that cannot be lifted runs all the same, by the files beside it."""
    from slmops import source

    form = source.format_of(folder)
    try:
        model = source.load(str(folder))
    except (Unsupported, UnknownFamily):
        if form not in ("onnx", "openvino"):
            raise
        return _unlifted(folder, form)
    # GPTQ, AWQ and their kin have no engine of their own.
    form = form if _installed.engines_for(form) else "huggingface"
    return _told(folder, form, model.tokenizer, model.chat_template, model.spec.context, model.spec.vocab)


def _unlifted(folder: Path, form: str) -> Artifact:
    """Of a graph: tokenizer, template and sizes from genai_config.json or config.json."""
    from slmops.formats import _chat, _files, _tokenizer

    names = ("config.json", "generation_config.json", "genai_config.json")
    config, generation, genai = (_files.read_json(folder, one) if _files.there(folder, one) else {} for one in names)
    said = genai.get("model")
    config = {**config, **(said if isinstance(said, dict) else {})}
    tokenizer = _tokenizer.read(folder, config, generation)
    if tokenizer is None:
        raise SourceNotFound(f"{folder} has no tokenizer.json", "look for one where the model came from")
    sizes = [config.get(key) for key in ("context_length", "max_position_embeddings", "vocab_size")]
    context, vocab = sizes[0] or sizes[1], sizes[2]
    if not isinstance(context, int) or not isinstance(vocab, int):
        raise CorruptInput(f"{folder} does not say its context length and its vocabulary", "download it again")
    return _told(folder, form, tokenizer, _chat.read(folder), context, vocab)


def _told(folder: Path, form: str, tokens: Tokenizer, template: str | None, context: int, vocab: int) -> Artifact:
    from slmops.probes import special_names

    special = special_names(tokens)
    return Artifact(folder, form, tokens.eos, tokens.bos, tokens.adds_bos, template, special, context, vocab)


def together(form: str) -> list[str]:
    """Installed engines that open a format and compute requests together, the preferred one first."""
    able = [name for name in _installed.engines_for(form) if "parallel" in plugins.load("engines", name).CAN]
    return [name for name in able if _installed.installed(name) is not None]


def choose_engine(form: str, wanted: str | None = None, together: bool = False, adapts: bool = False) -> str:
    """The engine to use for a format: the one asked for, or the preferred of those installed; `together`: of those first
    that compute requests together; `adapts`: of those alone that load adapters.

    Raises UsageError when it does not open the format, Unsupported when it loads no adapters, EngineMissing with the command
    that installs one.
    """
    able = [name for name in _installed.engines_for(form) if "generate" in plugins.load("engines", name).CAN]
    if wanted is not None:
        if wanted not in able:
            raise UsageError(f"{wanted} does not open {form}", f"engines that do: {', '.join(able)}")
        _installed.require(wanted)
        if adapts:
            _installed.check_can(wanted, form, "adapt")
        return wanted
    if adapts:
        able = [name for name in able if "adapt" in plugins.load("engines", name).CAN]
    if together:
        able.sort(key=lambda name: "parallel" not in plugins.load("engines", name).CAN)
    for name in able:
        if _installed.installed(name) is not None:
            return name
    cures = " or ".join(dict.fromkeys(_installed.install_command(name) for name in able))
    raise EngineMissing(f"no engine that opens {form} is installed", cures)


def open_worker(artifact: Artifact, engine: str | None = None, options: Options = AS_IT_COMES) -> _host.Worker:
    """The artifact in its engine, in a child process. A context manager.

    Raises UsageError for options that the engine does not have, EngineMissing."""
    name = choose_engine(artifact.format, engine)
    context = min(options.context, artifact.context)
    return _host.Worker(name, artifact.folder, dataclasses.replace(options, context=context))


def tokens_of(worker: _host.Worker, artifact: Artifact, text: str) -> list[int]:
    """Ids of a rendered prompt, with the beginning-of-text token where the source puts one and the text has none."""
    return _words.begun(worker.encode([text])[0], artifact.begin)


def generate(
    artifact: Artifact,
    text: str,
    options: Options = AS_IT_COMES,
    *,
    engine: str | None = None,
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """Pieces of what goes on from a text. sampling: None is greedy, with what the model's own parameters say.

    Raises UsageError for a text that leaves no room in the context.
    """
    settings = sampling or artifact.defaults.fill(Sampling())
    with open_worker(artifact, engine, options) as worker:
        for token in answer(worker, artifact, tokens_of(worker, artifact, text), settings):
            if token.text:
                yield token.text


def answer(
    worker: _host.Worker, artifact: Artifact, ids: Sequence[int], options: Sampling, context: int = 4096
) -> Generator[_host.Token, None, None]:
    """Tokens to the model's own end, to one of its stop strings, or to the end of the context.

    Text that may be the beginning of a stop string waits. Raises UsageError for a prompt that leaves no room.
    """
    stops, seconds = Stops(artifact.defaults.stop), 0.0
    with contextlib.closing(worker.generate(ids, fit(options, artifact, len(ids), context))) as tokens:
        for token in tokens:
            seconds = token.seconds
            yield dataclasses.replace(token, text=stops.feed(token.text))
            if stops.met is not None:
                return
    if rest := stops.rest():
        yield _host.Token(None, rest, seconds)


def fit(options: Sampling, artifact: Artifact, prompt: int, context: int = 4096) -> Sampling:
    """The options with the model's own stop ids, and no more tokens than the context has room for."""
    return _words.fit(stopping(options, artifact), prompt, min(context, artifact.context))


def stopping(options: Sampling, artifact: Artifact) -> Sampling:
    """The options with the model's own stop ids."""
    return dataclasses.replace(options, stop_ids=tuple(dict.fromkeys((*options.stop_ids, *artifact.eos))))
