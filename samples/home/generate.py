"""Write the sample model's tokenizer and evaluation data; with --train also a file of training conversations.

python samples/home/generate.py                           # tokenizer and eval/
python samples/home/generate.py --train 20000 train.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import bpe
from corpus import Example, balanced, training_stream

HERE = Path(__file__).resolve().parent
SEED = 20260701


def case(example: Example, split: str) -> dict[str, object]:
    return {
        "messages": example.messages()[:1],
        "expected": example.answer,
        "split": split,
        "note": {"tool": example.tool, "template": example.template},
    }


def write_jsonl(path: Path, rows: Iterable[object]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def tool_cases(seed: int) -> list[dict[str, object]]:
    rng = random.Random(f"test:{seed}")
    cases = [case(e, "unseen-template") for e in balanced("test", 3, rng, tools=True)]
    values = balanced("train", 3, rng, tools=True, unseen_values=True)
    cases += [case(e, "unseen-value") for e in rng.sample(values, 260)]
    cases += [case(e, "decline") for e in balanced("test", 3, rng, tools=False)]
    return cases


def text(seed: int, characters: int) -> str:
    """Held-out requests with their answers as plain text: unseen templates, and half of them unseen values as well."""
    rng = random.Random(f"text:{seed}")
    pool = [e for unseen in (False, True) for tools in (True, False) for e in balanced("test", 3, rng, tools, unseen)]
    rng.shuffle(pool)
    out, total = [], 0
    for example in pool:
        out.append(plain(example))
        total += len(out[-1])
        if total > characters:
            break
    return "".join(out)


def plain(example: Example) -> str:
    return f"{example.request}\n{example.answer}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--train", nargs=2, metavar=("COUNT", "FILE"), help="only write COUNT conversations to FILE")
    options = parser.parse_args()
    if options.train:
        stream = islice(training_stream(options.seed), int(options.train[0]))
        write_jsonl(Path(options.train[1]), ({"messages": e.messages()} for e in stream))
        return
    (HERE / "eval").mkdir(exist_ok=True)
    bpe.write(HERE)
    tools = tool_cases(options.seed)
    write_jsonl(HERE / "eval" / "tools.jsonl", tools)
    held_out = text(options.seed, 48_000)
    (HERE / "eval" / "text.txt").write_text(held_out, encoding="utf-8")
    # Calibration data come from the training side, so that nothing of the tests leaks into a quantized model.
    calibration = islice(training_stream(options.seed + 1), 384)
    count = write_jsonl(HERE / "eval" / "calibration.jsonl", ({"messages": e.messages()} for e in calibration))
    splits = sorted({str(c["split"]) for c in tools})
    counts = {split: sum(c["split"] == split for c in tools) for split in splits}
    print(counts, "calibration", count, "text", len(held_out))


if __name__ == "__main__":
    main()
