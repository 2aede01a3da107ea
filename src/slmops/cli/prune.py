"""slmops prune: a smaller model by leaving tokens, layers or channels out, held against its source before it is written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmops.measure.gates import Verdict
    from slmops.measure.pruned import Kept

HELP = "leave out tokens, layers or MLP channels that a text does not need, hold the result against its source, write it"
EXAMPLE = "slmops prune samples/home --text samples/home/eval/calibration.jsonl --width 0.75 -o out/pruned"


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
    import functools
    import json
    from pathlib import Path

    from slmops import compile as compiler
    from slmops import probes, pruning
    from slmops.cli import _reference
    from slmops.cli._progress import Progress
    from slmops.core import receipt, store
    from slmops.core.errors import GateFailed
    from slmops.measure import gates
    from slmops.passes import calibrate
    from slmops.source import load

    progress, out = Progress(quiet=arguments.json), Path(arguments.out)
    bound = gates.QUALITY if arguments.min_quality is None else arguments.min_quality
    wanted = pruning.Wanted(
        arguments.vocabulary, arguments.vocabulary_size, arguments.layers, arguments.width, arguments.tokens, bound
    )
    if not arguments.force and not (out / receipt.NAME).is_file():
        store.refuse_existing(out)
    source = load(_reference.source(arguments.source))
    content = calibrate.read(Path(arguments.text), functools.partial(probes.conversation, source))
    pruned = pruning.prune(source, content, wanted, progress.say)
    facts, found, verdict = pruned.facts, pruned.found, pruned.verdict
    made = None
    if not verdict.stops:
        (made,) = compiler.convert(
            pruned.model, ["huggingface"], compiler.KEEP, out,
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
