"""slmops convert: quantize once, write several formats, prove each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

HELP = "quantize a checkpoint once and write it in one or more formats, each proven in its engine"
EXAMPLE = "slmops convert samples/home --to gguf,onnx,openvino --quantize q4 -o out"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a folder, a GGUF file, a name in the registry, or a Hugging Face name: Qwen/Qwen3-0.6B (@revision)"
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMATS",
        help="with commas: gguf, onnx, openvino, mlx, compressed-tensors (all: these five), huggingface (plain numbers)",
    )
    parser.add_argument(
        "--quantize",
        metavar="SCHEME",
        help="q4, q4a, q8, f16, bf16, f32, a format's own (q4_k_m), or mixed:4.5bpw (a scheme for each matrix, with "
        "--calibrate); keep: as it was read (default: keep what is quantized already, else q4)",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="a text of the model's own domain, by which codes are solved for, not rounded to (of w8a8_static: by which "
        "activations are rounded)",
    )
    parser.add_argument(
        "--calibrate-tokens", type=int, default=8192, metavar="N", help="of that text, from its start (8192)"
    )
    parser.add_argument(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="then move scales and norms by gradients: N passes over it (0)",
    )
    parser.add_argument("--requantize", action="store_true", help="allow --quantize on a model that is quantized already")
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA (PEFT's folder) to merge into the weights first")
    parser.add_argument(
        "--beside", action="store_true", help="do not merge the adapter: write it beside, in a file of each engine's own"
    )
    parser.add_argument("-o", "--out", help="the artifact's folder; with several formats OUT/FORMAT")
    parser.add_argument(
        "--name", metavar="NAME[:TAG]", help="file it in the registry; several formats: NAME:FORMAT or NAME:TAG-FORMAT"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not read back, and do not open it in its engines")
    parser.add_argument("--force", action="store_true", help="replace what stands under the final name, and move --name")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where engines run")
    parser.add_argument("--provider", default="cpu", help="ONNX Runtime's provider: cpu, cuda, dml or qnn")


def run(arguments: argparse.Namespace) -> int:
    import contextlib
    import functools
    import json
    from pathlib import Path

    from slmops import compile as compiler
    from slmops import probes, prove
    from slmops.cli import _filing, _reference, _text
    from slmops.cli._progress import Progress
    from slmops.core import store
    from slmops.core.errors import UsageError
    from slmops.passes import calibrate
    from slmops.passes.merge import beside, merge
    from slmops.passes.quantize import packed
    from slmops.quantize._cast import warm_up
    from slmops.source import adapter, load

    progress = Progress(quiet=arguments.json)
    names = [name.strip().replace("-", "_") for name in arguments.to.split(",") if name.strip()]
    formats = compiler.writable(codes=True) if names == ["all"] else names
    if arguments.out is None and arguments.name is None and not arguments.dry_run:
        raise UsageError("there is no place to write to", "-o FOLDER, or --name NAME for the registry")
    warm_up()
    model = load(_reference.source(arguments.source))
    if arguments.beside and not arguments.adapter:
        raise UsageError("--beside says where an adapter goes, and there is none", "add --adapter FOLDER")
    if arguments.tune and not arguments.calibrate:
        raise UsageError("--tune needs the text of --calibrate", "add --calibrate FILE")
    if arguments.adapter:
        found = adapter(arguments.adapter, model)
        model = beside(model, found) if arguments.beside else merge(model, found)
    scheme = arguments.quantize or (compiler.KEEP if packed(model) else "q4")
    if arguments.dry_run:
        planned = compiler.plan(model, formats, scheme, requantize=arguments.requantize, provider=arguments.provider)
        sizes = {name: layout.nbytes for name, layout in planned.layouts.items()}
        if arguments.json:
            notes = {name: list(layout.notes) for name, layout in planned.layouts.items()}
            print(json.dumps({"scheme": planned.scheme, "bytes": sizes, "notes": notes}, indent=1))
        else:
            print(_text.table(["format", "size"], [[_label(name), _text.size(size)] for name, size in sizes.items()]))
        return 0
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(store.scratch("calibrate"))
        filing = stack.enter_context(_filing.opened(arguments.name, list(dict.fromkeys(formats)), arguments.force))
        calibration = None
        if arguments.calibrate:
            text = calibrate.read(Path(arguments.calibrate), functools.partial(probes.conversation, model))
            calibration = calibrate.Calibration(model, text, scratch, arguments.calibrate_tokens, tune=arguments.tune)
        out, known = Path(arguments.out or ""), {}
        if filing is not None:
            filing.check(step := compiler.step_of(model, scheme, arguments.provider, calibration), model.licence)
        if filing is not None and arguments.out is None:
            known = filing.recall(step)
            out = stack.enter_context(filing.scratch) / "made"
        todo = [name for name in formats if name not in known]
        made = compiler.convert(
            model,
            todo,
            scheme,
            out,
            verify=not arguments.no_verify,
            requantize=arguments.requantize,
            replace=arguments.force,
            device=arguments.device,
            provider=arguments.provider,
            calibration=calibration,
            watch=progress.watch(),
        ) if todo else []  # fmt: skip
        if filing is not None:
            made = [filing.file(one, take=arguments.out is None) for one in made]
        results = [*known.values(), *made]
    failures = [result.failure for result in results if result.failure is not None]
    if arguments.json:
        print(json.dumps([_facts(result, filing.names if filing is not None else {}) for result in results], indent=1))
    else:
        for result in results:
            if result.failure is not None:
                print(f"{_label(result.format)}: NOT written: {result.failure}")
                continue
            size = _text.size(sum(result.receipt["files"].values()))
            state = f"{result.receipt['scheme']}, {size}" if result.fresh else "already made by the same step"
            named = f"{filing.names[result.format]} in " if filing is not None else ""
            print(f"{_label(result.format)}: {named}{result.folder} ({state})")
            for line in prove.summary(result.receipt["verification"]) if "verification" in result.receipt else []:
                print(f"  {line}")
            for note in result.receipt["notes"]:
                print(f"  note: {note}")
    if failures:
        raise failures[0]
    return 0


def _label(name: str) -> str:
    return name.replace("_", "-")


def _facts(result: object, names: Mapping[str, object]) -> dict[str, object]:
    from slmops.compile import Converted

    assert isinstance(result, Converted)
    return {
        "format": _label(result.format),
        "folder": str(result.folder),
        "name": str(names[result.format]) if result.format in names else None,
        "scheme": result.receipt["scheme"],
        "bytes": sum(result.receipt["files"].values()),
        "seconds": result.receipt["seconds"],
        "fresh": result.fresh,
        "failure": str(result.failure) if result.failure else None,
        "notes": result.receipt["notes"],
        "verification": result.receipt.get("verification"),
    }
