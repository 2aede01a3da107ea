"""Train the sample model on two CPU cores and save it as a bfloat16 Hugging Face folder.

    python samples/home/generate.py && python samples/home/train.py --minutes 28 && python samples/home/evaluate.py
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from bpe import SPECIALS
from corpus import SYSTEM, Example, training_stream
from generate import SEED, plain
from network import CONFIG, Muon, Qwen3, loss
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
ANSWER_WEIGHT, TEXT_WEIGHT = 1.0, 0.3
Sequence = tuple[list[int], list[float]]
Batch = tuple[torch.Tensor, torch.Tensor]


def chat_sequence(example: Example, tokenizer: Tokenizer, rng: random.Random) -> Sequence:
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if rng.random() < 0.05 else ""
    prompt = tokenizer.encode(f"{system}<|im_start|>user\n{example.request}<|im_end|>\n<|im_start|>assistant\n").ids
    answer = tokenizer.encode(f"{example.answer}<|im_end|>").ids
    # Requests count in every third conversation: the output layer is a good part of the work for so small a model.
    request = TEXT_WEIGHT if rng.random() < 0.33 else 0.0
    ids = [*prompt, *answer, *tokenizer.encode("\n").ids]
    return ids, [request] * len(prompt) + [ANSWER_WEIGHT] * len(answer) + [request]


def batches(tokenizer: Tokenizer, seed: int, tokens: int, text_share: float) -> Iterator[Batch]:
    """Batches of about `tokens` tokens and equal lengths: conversations, and now and then windows of plain text."""
    stream, rng = training_stream(seed), random.Random(f"batches:{seed}")
    window = int(CONFIG["max_position_embeddings"])  # type: ignore[call-overload]
    while True:
        pool = sorted((chat_sequence(next(stream), tokenizer, rng) for _ in range(1024)), key=lambda s: len(s[0]))
        groups: list[list[Sequence]] = [[]]
        for sequence in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(sequence[0]) > tokens:
                groups.append([])
            groups[-1].append(sequence)
        for _ in range(round(len(groups) * text_share)):
            ids: list[int] = []
            while len(ids) < window * (tokens // window):
                ids += tokenizer.encode(plain(next(stream))).ids
            groups.append([(ids[i:i + window], [0.5] * window) for i in range(0, window * (tokens // window), window)])
        rng.shuffle(groups)
        for group in groups:
            yield pad(group, tokenizer.token_to_id(SPECIALS[0]))


def pad(group: list[Sequence], filler: int) -> Batch:
    length = max(len(ids) for ids, _ in group)
    ids = torch.tensor([ids + [filler] * (length - len(ids)) for ids, _ in group])
    weights = torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in group])
    return ids, weights


def save(model: Qwen3, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    generation = {"do_sample": False, "eos_token_id": CONFIG["eos_token_id"], "pad_token_id": CONFIG["pad_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if folder != HERE:
            (folder / name).write_bytes((HERE / name).read_bytes())


@torch.no_grad()
def validation_loss(model: Qwen3, tokenizer: Tokenizer) -> float:
    """Answer loss on templates of the validation split, with unchanged weights."""
    stream, rng = training_stream(0, "validation"), random.Random(0)
    group = [chat_sequence(next(stream), tokenizer, rng) for _ in range(96)]
    group = [(ids, [float(w == ANSWER_WEIGHT) for w in weights]) for ids, weights in group]
    return float(loss(model, *pad(group, 0)))


def rate(progress: float) -> float:
    """Warm-up, plateau, then cosine decay over the last 60 %."""
    if progress < 0.02:
        return max(progress / 0.02, 0.02)
    return 1.0 if progress < 0.4 else 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6)) * 0.99 + 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=28.0, help="wall-clock budget; the schedule follows it")
    parser.add_argument("--steps", type=int, help="a fixed number of steps instead, for runs that repeat exactly")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2, help="data-parallel workers, one core each")
    parser.add_argument("--tokens", type=int, default=768, help="tokens in the batch of a worker")
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--other-rate", type=float, default=3e-3)
    parser.add_argument("--init", type=Path, help="start from the weights in this folder")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write")
    parser.add_argument("--checkpoints", type=Path, help="folder for a checkpoint every three minutes")
    options = parser.parse_args()
    # One worker per core, each with a batch of its own and one thread: on shared cores the threads of one operation
    # would spend most of their time waiting for each other.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    workers = ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,))
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    model = Qwen3(CONFIG)
    if options.init:
        model.load_state_dict({k: v.float() for k, v in load_file(options.init / "model.safetensors").items()})
    parameters = list(model.parameters())
    named = [(p, p.ndim == 2 and "embed" not in name) for name, p in model.named_parameters()]
    matrices, others = [p for p, inner in named if inner], [p for p, inner in named if not inner]
    muons: list[torch.optim.Optimizer] = [
        Muon(matrices[i::options.threads], lr=options.matrix_rate) for i in range(options.threads)]
    adam = torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.97), weight_decay=0.0)
    print("parameters", sum(p.numel() for p in parameters), flush=True)

    def gradients(batch: Batch) -> tuple[float, tuple[torch.Tensor, ...]]:
        value = loss(model, *batch)
        return value.item(), torch.autograd.grad(value, parameters)

    started, cpu_started, saved, seen, step = time.monotonic(), time.process_time(), 0.0, 0, 0
    recent: list[float] = []
    source = batches(tokenizer, options.seed, options.tokens, 0.06)
    while True:
        minutes = (time.monotonic() - started) / 60
        progress = step / options.steps if options.steps else minutes / options.minutes
        if progress >= 1:
            break
        for optimizer, peak in [*((m, options.matrix_rate) for m in muons), (adam, options.other_rate)]:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(progress)
        group = [next(source) for _ in range(options.threads)]
        results = list(workers.map(gradients, group))
        for p, *parts in zip(parameters, *(grads for _, grads in results), strict=True):
            p.grad = torch.stack(parts).mean(0)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        list(workers.map(lambda optimizer: optimizer.step(), [*muons, adam]))
        seen += sum(ids.numel() for ids, _ in group)
        recent += [value for value, _ in results]
        if step % 40 == 0:
            cpu = (time.process_time() - cpu_started) / 60
            print(f"{minutes:5.1f} min  step {step}  loss {sum(recent) / len(recent):.4f}  validation answers "
                  f"{validation_loss(model, tokenizer):.4f}  {seen} tokens  {cpu:.1f} CPU min", flush=True)
            recent = []
        if options.checkpoints and minutes - saved > 3:
            save(model, options.checkpoints)
            saved = minutes
        step += 1
    save(model, options.out)
    wall, cpu = (time.monotonic() - started) / 60, (time.process_time() - cpu_started) / 60
    print(f"trained {step} steps, {seen} tokens, {wall:.1f} minutes wall, {cpu:.1f} minutes CPU, "
          f"validation answers {validation_loss(model, tokenizer):.4f}")


if __name__ == "__main__":
    main()
