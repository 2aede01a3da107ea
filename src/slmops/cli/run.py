"""slmops run: one answer from a model, which is fetched and compiled first where it is absent."""

from __future__ import annotations

import argparse

from slmops.cli import _sampling, _units

HELP = "ask a model in its engine, fetched and compiled first where it is absent; only the answer goes to standard output"
EXAMPLE = 'slmops run out/gguf "turn the kitchen light to 30 percent"'


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact",
        help="a folder of slmops, a name in the registry, a Hugging Face folder (needs PyTorch), or a Hugging Face name "
        "(org/name[@revision]), which is pulled, compiled and kept under that name the first time",
    )
    parser.add_argument("prompt", help="what the user says")
    parser.add_argument("--variant", metavar="V", help="of a Hugging Face name that holds several models: which (Q4_K_M)")
    parser.add_argument("--quantize", metavar="SCHEME", help="of a Hugging Face name: as convert has it (kept, else q4)")
    parser.add_argument("--engine", help="an engine by name; default: the preferred one that is installed")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="at most so many new tokens (256)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest (40)")
    parser.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest that sum to P (1)")
    parser.add_argument("--seed", type=int, metavar="N", help="for sampling (0)")
    parser.add_argument("--raw", action="store_true", help="continue the text as it stands, without the chat template")
    _units.add_kv(parser, "default: the engine's own (auto)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "npu"), help="where the engine runs")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from slmops import run as runner
    from slmops.cli import _obtain, _text
    from slmops.engines import Options, Sampling

    said = _sampling.said(arguments)
    folder = _obtain.folder(
        arguments.artifact,
        engine=arguments.engine,
        variant=arguments.variant,
        scheme=arguments.quantize,
        quiet=arguments.json,
    )
    artifact = runner.Artifact.open(folder)
    text = arguments.prompt if arguments.raw else artifact.prompt([{"role": "user", "content": arguments.prompt}])
    sampling = artifact.defaults.fill(Sampling(**{"max_tokens": 256, **said}), said)
    pieces: list[str] = []
    count, first, last = 0, 0.0, 0.0
    with runner.open_worker(artifact, arguments.engine, Options(device=arguments.device, kv=arguments.kv)) as worker:
        _say_fallback(worker.effective)
        ids = runner.tokens_of(worker, artifact, text)
        for token in runner.answer(worker, artifact, ids, sampling):
            if token.id is not None:
                count, last = count + 1, token.seconds
                first = first or token.seconds
            pieces.append(token.text)
            if not arguments.json:
                _text.answer(token.text)
        effective = worker.effective
        engine = worker.engine
    if arguments.json:
        facts = {
            "text": "".join(pieces),
            "engine": engine,
            "effective": effective,
            "prompt_tokens": len(ids),
            "tokens": count,
            "first_token_seconds": first,
            "tokens_per_second": (count - 1) / (last - first) if count > 1 and last > first else None,
        }
        print(json.dumps(facts, indent=1))
    else:
        sys.stdout.write("\n")
    return 0


def _say_fallback(effective: dict[str, str]) -> None:
    import sys

    if "fallback" in effective:
        print(f"slmops: {effective['fallback']}", file=sys.stderr)
