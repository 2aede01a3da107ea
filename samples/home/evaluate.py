"""Exact match of the tool calls and perplexity of the held-out text, from the saved folder with transformers.

python samples/home/evaluate.py [--json numbers.json]
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion."""
    p, zz = right / total, z * z
    middle, half = p + zz / (2 * total), z * math.sqrt(p * (1 - p) / total + zz / (4 * total * total))
    return (middle - half) / (1 + zz / total), (middle + half) / (1 + zz / total)


@torch.no_grad()
def answers(model: Any, tokenizer: Any, requests: list[list[dict[str, str]]], batch: int = 64) -> list[str]:
    """Greedy answers, batched by length with padding on the left."""
    tokenizer.padding_side = "left"
    prompts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in requests]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for start in range(0, len(order), batch):
        members = order[start : start + batch]
        inputs = tokenizer([prompts[i] for i in members], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        out = model.generate(**inputs, max_new_tokens=96, do_sample=False)
        for i, row in zip(members, out[:, inputs["input_ids"].shape[1] :], strict=True):
            found[i] = tokenizer.decode(row, skip_special_tokens=True)
    return found


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, text: str, window: int = 512) -> tuple[float, int]:
    """Perplexity over consecutive windows without overlap; the first token of a window is context only."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    total, count = 0.0, 0
    for part in ids.split(window):
        if len(part) > 1:
            logits = model(part[None]).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum"))
            count += len(part) - 1
    return math.exp(total / count), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE, help="model folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only that many cases, evenly spread")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--show", type=int, default=12, help="how many wrong answers to print")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.bfloat16).float().eval()
    cases = [json.loads(line) for line in (HERE / "eval" / "tools.jsonl").read_text(encoding="utf-8").splitlines()]
    if options.limit and options.limit < len(cases):
        cases = [cases[i * len(cases) // options.limit] for i in range(options.limit)]
    found = answers(model, tokenizer, [c["messages"] for c in cases])
    right, total = Counter(), Counter()
    wrong = []
    for c, answer in zip(cases, found, strict=True):
        for key in (c["split"], f"tool {c['note']['tool']}" if c["split"] == "unseen-template" else "all"):
            total[key] += 1
            right[key] += answer == c["expected"]
        if answer != c["expected"]:
            wrong.append((c, answer))
    numbers: dict[str, object] = {}
    for key in sorted(total, key=lambda k: (k.startswith("tool "), k)):
        if key != "all":
            low, high = wilson(right[key], total[key])
            numbers[key] = {"right": right[key], "n": total[key], "wilson95": [round(low, 4), round(high, 4)]}
            share = right[key] / total[key]
            print(f"{key:28s} {right[key]:4d} / {total[key]:4d} = {share:.3f}  [{low:.3f}, {high:.3f}]")
    value, count = perplexity(model, tokenizer, (HERE / "eval" / "text.txt").read_text(encoding="utf-8"))
    numbers["perplexity"] = {"value": round(value, 4), "tokens": count}
    print(f"perplexity of eval/text.txt  {value:.4f} over {count} tokens")
    for c, answer in wrong[: options.show]:
        print(f"  {c['split']}: {c['messages'][0]['content']}\n    expected {c['expected']}\n    got      {answer}")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
