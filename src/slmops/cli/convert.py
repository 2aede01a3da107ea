"""slmops convert: quantize once, write several formats, prove each."""

from __future__ import annotations

import argparse

HELP = "quantize a checkpoint once and write it in one or more formats, each proven in its engine"
EXAMPLE = "slmops convert samples/home --to gguf,onnx,openvino --quantize q4 -o out"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder, or a Hugging Face name such as Qwen/Qwen3-0.6B (with @revision)")
    parser.add_argument("--to", required=True, metavar="FORMATS", help="one or more of the formats, with commas; or all")
    parser.add_argument("--quantize", default="q4", metavar="SCHEME", help="q4 (default), q4a, q8, f16, bf16 or f32")
    parser.add_argument("-o", "--out", required=True, help="the artifact's folder; with several formats OUT/FORMAT")
    parser.add_argument("--no-verify", action="store_true", help="do not read back, and do not open it in its engines")
    parser.add_argument("--force", action="store_true", help="replace what stands under the final name")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where engines run")
    parser.add_argument("--provider", default="cpu", help="ONNX Runtime's provider: cpu, cuda, dml or qnn")


def run(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from slmops import compile as compiler
    from slmops import prove
    from slmops.cli import _text
    from slmops.cli._progress import Progress
    from slmops.source import load

    progress = Progress(quiet=arguments.json)
    names = [name.strip().replace("-", "_") for name in arguments.to.split(",") if name.strip()]
    formats = compiler.writable() if names == ["all"] else names
    model = load(arguments.source)
    if arguments.dry_run:
        planned = compiler.plan(model, formats, arguments.quantize, provider=arguments.provider)
        sizes = {name: layout.nbytes for name, layout in planned.layouts.items()}
        if arguments.json:
            notes = {name: list(layout.notes) for name, layout in planned.layouts.items()}
            print(json.dumps({"scheme": planned.scheme, "bytes": sizes, "notes": notes}, indent=1))
        else:
            print(_text.table(["format", "size"], [[_label(name), _text.size(size)] for name, size in sizes.items()]))
        return 0
    results = compiler.convert(
        model,
        formats,
        arguments.quantize,
        Path(arguments.out),
        verify=not arguments.no_verify,
        replace=arguments.force,
        device=arguments.device,
        provider=arguments.provider,
        watch=progress.watch(),
    )
    failures = [result.failure for result in results if result.failure is not None]
    if arguments.json:
        print(json.dumps([_facts(result) for result in results], indent=1))
    else:
        for result in results:
            if result.failure is not None:
                print(f"{_label(result.format)}: NOT written: {result.failure}")
                continue
            size = _text.size(sum(result.receipt["files"].values()))
            state = f"{result.receipt['scheme']}, {size}" if result.fresh else "already made by the same step"
            print(f"{_label(result.format)}: {result.folder} ({state})")
            for line in prove.summary(result.receipt["verification"]) if "verification" in result.receipt else []:
                print(f"  {line}")
            for note in result.receipt["notes"]:
                print(f"  note: {note}")
    if failures:
        raise failures[0]
    return 0


def _label(name: str) -> str:
    return name.replace("_", "-")


def _facts(result: object) -> dict[str, object]:
    from slmops.compile import Converted

    assert isinstance(result, Converted)
    return {
        "format": _label(result.format),
        "folder": str(result.folder),
        "scheme": result.receipt["scheme"],
        "bytes": sum(result.receipt["files"].values()),
        "seconds": result.receipt["seconds"],
        "fresh": result.fresh,
        "failure": str(result.failure) if result.failure else None,
        "notes": result.receipt["notes"],
        "verification": result.receipt.get("verification"),
    }
