"""slmops prune: a smaller model by leaving tokens, layers or channels out, held against its source before it is written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from slmops.core.model import Model
    from slmops.core.tensor import Array
    from slmops.measure.gates import Verdict
    from slmops.measure.pruned import Kept

HELP = "leave out tokens, layers or MLP channels that a text does not need, hold the result against its source, write it"
EXAMPLE = "slmops prune samples/home --text samples/home/eval/calibration.jsonl --width 0.75 -o out/pruned"

WINDOW, WINDOWS = 256, 32
"""Tokens of a window, and how many are measured on at most."""
PIECES, HELD = 48, 3
"""The text is cut into so many pieces; every third is kept from choosing, to measure on."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the unquantized model: a folder, a GGUF file, or a Hugging Face name")
    parser.add_argument(
        "--text", required=True, metavar="FILE", help="of the model's own domain (or JSON lines with text or messages): two "
        "thirds of it choose, the rest measures"
    )  # fmt: skip
    parser.add_argument("--vocabulary", action="store_true", help="keep the tokens that the text uses, and all bytes")
    parser.add_argument(
        "--vocabulary-size", type=int, default=0, metavar="N", help="the same, filled up to N with the commonest others"
    )
    parser.add_argument("--layers", type=int, default=0, metavar="N", help="drop the N layers that are missed least")
    parser.add_argument("--width", type=float, metavar="FRACTION", help="of the MLPs' channels to keep, such as 0.75")
    parser.add_argument("--tokens", type=int, default=2048, metavar="N", help="that choose layers and channels (2048)")
    parser.add_argument("--min-quality", type=float, metavar="Q", help="share of the source's quality to keep (0.95)")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="a plain Hugging Face folder")
    parser.add_argument("--no-verify", action="store_true", help="do not read back, and do not open it in its engine")
    parser.add_argument("--force", action="store_true", help="replace what stands under the final name")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses
    import functools
    import json
    from pathlib import Path

    from slmops import compile as compiler
    from slmops import probes
    from slmops.cli._progress import Progress
    from slmops.core import receipt, store
    from slmops.core.errors import GateFailed, UsageError
    from slmops.measure import gates, pruned
    from slmops.passes import calibrate
    from slmops.source import load

    progress, out = Progress(quiet=arguments.json), Path(arguments.out)
    if not (arguments.vocabulary or arguments.vocabulary_size or arguments.layers or arguments.width):
        raise UsageError("nothing is to be pruned", "give --vocabulary, --layers N or --width FRACTION")
    if arguments.vocabulary_size < 0 or arguments.tokens < 1:
        raise UsageError("a number of tokens below 1 makes no sense", "give more")
    bound = gates.QUALITY if arguments.min_quality is None else arguments.min_quality
    if not 0 <= bound <= 1:
        raise UsageError(f"{bound:g} is no share of a quality", "give --min-quality from 0 to 1")
    if not arguments.force and not (out / receipt.NAME).is_file():
        store.refuse_existing(out)
    source = load(arguments.source)
    content = calibrate.read(Path(arguments.text), functools.partial(probes.conversation, source))
    choosing, measuring = split(content)
    small, kept, facts = _prune(source, choosing, arguments, progress.say)
    found = pruned.compare(source, small, kept, measuring, WINDOW, WINDOWS, progress.say)
    verdict = gates.at_least("quality", found.quality.retained, bound, "windows")
    facts |= _figures(source, small, found, verdict)
    said = {"retained": facts["quality"]["retained"], "kl": facts["quality"]["kl"], "said": verdict.said}
    small = dataclasses.replace(small, source={**small.source, "quality": said})
    made = None
    if not verdict.stops:
        (made,) = compiler.convert(
            small, ["huggingface"], compiler.KEEP, out,
            verify=not arguments.no_verify, replace=arguments.force, watch=progress.watch(),
        )  # fmt: skip
    written = made if made is not None and made.failure is None else None
    if arguments.json:
        facts |= {"folder": str(out) if written else None}
        facts |= {"verification": written.receipt.get("verification") if written else None}
        print(json.dumps(facts, indent=1))
    else:
        print(_shown(facts, found, verdict))
        if written is not None:
            print(f"written: {out}", *_proven(written.receipt), sep="\n  ")
    if made is None:
        raise GateFailed(
            f"not written: {verdict.gate}: {verdict.said}",
            "prune less, fine-tune a smaller model, give a longer text, or ask for less with --min-quality",
        )
    if made.failure is not None:
        raise made.failure
    return 0


def split(content: str) -> tuple[str, str]:
    """What chooses, and what is measured on: pieces of about one length in turn, cut where a line ends if one does there."""
    step = max(1, len(content) // PIECES)
    parts: tuple[list[str], list[str]] = ([], [])
    start = number = 0
    while start < len(content):
        stop = min(len(content), start + step)
        line = content.find("\n", stop, stop + step)
        stop = line + 1 if line >= 0 else stop
        parts[number % HELD == HELD - 1].append(content[start:stop])
        start, number = stop, number + 1
    return "".join(parts[0]), "".join(parts[1])


def _prune(
    source: Model, text: str, arguments: argparse.Namespace, say: Callable[[str], None]
) -> tuple[Model, Array | None, dict[str, Any]]:
    """The pruned model, the ids of its tokens in the source where they are fewer, and what was done."""
    from slmops.passes import prune_depth, prune_vocabulary, prune_width

    small, kept, facts = source, None, dict[str, Any]()
    if arguments.layers:
        gone = prune_depth.choose(source, _windows(source, text, arguments.tokens), arguments.layers, say)
        small = prune_depth.prune_depth(small, [layer for layer, _ in gone])
        facts["dropped"] = [{"layer": layer, "kl": kl} for layer, kl in gone]
    if arguments.width:
        width = prune_width.width(source.spec.intermediate, arguments.width)
        say("activations of the MLPs")
        scores = prune_width.importance(small, _windows(source, text, arguments.tokens))
        small = prune_width.prune_width(small, scores, width)
    if arguments.vocabulary or arguments.vocabulary_size:
        # Last, for the others choose by the source's ids.
        kept = prune_vocabulary.choose(small, text + _conversations(source), arguments.vocabulary_size)
        small = prune_vocabulary.prune_vocabulary(small, kept)
    return small, kept, facts


def _windows(model: Model, text: str, tokens: int) -> Array:
    import numpy as np

    from slmops.core.errors import UsageError
    from slmops.measure import quality

    length = min(WINDOW, model.spec.context)
    ids = model.tokenizer.encoder.encode(text, add_special_tokens=False).ids
    cut = quality.windows(ids, length, max(1, tokens // length))
    if len(cut[0] if cut else ()) < length:
        raise UsageError(f"the text has {len(ids)} tokens to choose by, and {length} are the least", "give a longer one")
    return np.array(cut, np.int64)


def _conversations(model: Model) -> str:
    """What the chat template says around any message: those tokens are always needed."""
    from slmops import probes
    from slmops.core.errors import CorruptInput

    texts = []
    for messages in probes.CONVERSATIONS if model.chat_template is not None else ():
        try:
            texts.append(probes.conversation(model, messages))
        except CorruptInput:
            continue  # some templates refuse a system message
    return "\n".join(["", *texts])


def _figures(source: Model, small: Model, found: Kept, verdict: Verdict) -> dict[str, Any]:
    import dataclasses

    def sizes(name: str) -> list[int]:
        return [getattr(one.spec, name) for one in (source, small)]

    quality = dataclasses.asdict(found.quality)
    quality.pop("losses")
    return {
        "layers": sizes("layers"),
        "intermediate": sizes("intermediate"),
        "vocabulary": sizes("vocab"),
        "parameters": [source.parameters, small.parameters],
        "quality": quality,
        "spelled": found.spelled,
        "verdict": dataclasses.asdict(verdict),
    }


def _shown(facts: dict[str, Any], found: Kept, verdict: Verdict) -> str:
    from slmops.cli import _text

    def change(name: str) -> str:
        before, after = facts[name]
        return f"{before:,} to {after:,}" if before != after else ""

    quality, layers = found.quality, change("layers")
    if layers:
        dropped = (f"{one['layer']} ({one['kl']:.3g} nats)" for one in facts["dropped"])
        layers += f"; in this order: {', '.join(dropped)}"
    tokens = change("vocabulary")
    if tokens:
        tokens += f"; {found.spelled:.2%} of the text's tokens are gone, and spelled in others"
    over = ", over the kept tokens, to which the source's distribution is renormalised" if tokens else ""
    lines = _text.pairs([
        ("layers", layers),
        ("MLP channels", change("intermediate")),
        ("tokens", tokens),
        ("parameters", f"{change('parameters')} ({facts['parameters'][1] / facts['parameters'][0]:.0%})"),
        ("KL divergence", f"{quality.kl.value:.4f} ({quality.kl.low:.4f} to {quality.kl.high:.4f}) nats a token{over}"),
        ("top-1", f"{quality.top1.value:.1%} as the source"),
    ])  # fmt: skip
    where = "quality kept, on the part of the text that nothing was chosen by:"
    return "\n".join([lines, where, *_text.verdicts([verdict])])


def _proven(receipt: Any) -> list[str]:
    from slmops import prove

    return prove.summary(receipt["verification"]) if "verification" in receipt else []
