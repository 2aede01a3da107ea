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
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from bpe import SPECIALS
from corpus import SYSTEM, Example, training_stream
from generate import SEED, plain
from network import CONFIG, Muon, Qwen3, loss
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, multiprocessing

HERE = Path(__file__).resolve().parent
ANSWER_WEIGHT, TEXT_WEIGHT = 1.0, 0.3
Sequence = tuple[list[int], list[float]]
Batch = tuple[Tensor, Tensor]


def chat_sequence(example: Example, tokenizer: Tokenizer, rng: random.Random) -> Sequence:
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if rng.random() < 0.05 else ""
    prompt = tokenizer.encode(f"{system}<|im_start|>user\n{example.request}<|im_end|>\n<|im_start|>assistant\n").ids
    answer = tokenizer.encode(f"{example.answer}<|im_end|>").ids
    # Requests count in every third conversation: the output layer is a good part of the work for so small a model.
    request = TEXT_WEIGHT if rng.random() < 0.33 else 0.0
    ids = [*prompt, *answer, *tokenizer.encode("\n").ids]
    return ids, [request] * len(prompt) + [ANSWER_WEIGHT] * len(answer) + [request]


def batches(tokenizer: Tokenizer, seed: str, tokens: int, text_share: float) -> Iterator[Batch]:
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
            groups.append([(ids[i : i + window], [0.5] * window) for i in range(0, window * (tokens // window), window)])
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


def work(
    rank: int,
    options: argparse.Namespace,
    model: Qwen3,
    grads: list[list[Tensor]],
    losses: Tensor,
    progress: Tensor,
    barrier: Barrier,
) -> None:
    """One data-parallel process: gradients of its own batches, then the update of its share of the shared weights.

    Processes and not threads: with operations this small, threads would wait for Python most of the time.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    parameters = list(model.parameters())
    named = [(p, p.ndim == 2 and "embed" not in name) for name, p in model.named_parameters()]
    matrices, others = [p for p, inner in named if inner], [p for p, inner in named if not inner]
    mine = matrices[rank :: options.workers]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [(Muon(mine, lr=options.matrix_rate), options.matrix_rate)]
    if rank == options.workers - 1:
        mine = mine + others
        optimizers.append(
            (torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.97), weight_decay=0.0), options.other_rate)
        )
    own = {id(p) for p in mine}
    source = batches(tokenizer, f"{options.seed}:{rank}", options.tokens, 0.06)
    log = Log(options, model, tokenizer) if rank == 0 else None
    while True:
        batch = next(source)
        if log:
            progress.fill_(log.progress())
        barrier.wait()
        now = float(progress)
        if now >= 1:
            break
        value = loss(model, *batch)
        for buffer, grad in zip(grads[rank], torch.autograd.grad(value, parameters), strict=True):
            buffer.copy_(grad)
        losses[rank, 0], losses[rank, 1] = value.item(), batch[0].numel()
        barrier.wait()
        for i, p in enumerate(parameters):
            if id(p) in own:
                p.grad = torch.stack([part[i] for part in grads]).mean(0)
        if rank == options.workers - 1:
            torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(now)
            optimizer.step()
        if log:
            log.step(losses)
    if log:
        log.end()


class Log:
    """Clock, schedule, printed lines and checkpoints of the first process."""

    def __init__(self, options: argparse.Namespace, model: Qwen3, tokenizer: Tokenizer) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.started, self.saved = time.monotonic(), 0.0
        self.steps, self.seen = 0, 0
        self.recent: list[float] = []

    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def progress(self) -> float:
        return self.steps / self.options.steps if self.options.steps else self.minutes() / self.options.minutes

    def step(self, losses: Tensor) -> None:
        self.recent.append(float(losses[:, 0].mean()))
        self.seen += int(losses[:, 1].sum())
        self.steps += 1
        if self.steps % 50 == 0:
            mean = sum(self.recent) / len(self.recent)
            print(f"{self.minutes():5.1f} min  step {self.steps}  loss {mean:.4f}  {self.seen} tokens", flush=True)
            self.recent = []
        if self.options.checkpoints and self.minutes() - self.saved > 3:
            save(self.model, self.options.checkpoints)
            self.saved = self.minutes()

    def end(self) -> None:
        save(self.model, self.options.out)
        print(
            f"trained {self.steps} steps, {self.seen} tokens, {self.minutes():.1f} minutes, "
            f"validation answers {validation_loss(self.model, self.tokenizer):.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=28.0, help="wall-clock budget; the schedule follows it")
    parser.add_argument("--steps", type=int, help="a fixed number of steps instead, for runs that repeat exactly")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=2, help="data-parallel processes, one core each")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens in the batch of a worker")
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--other-rate", type=float, default=3e-3)
    parser.add_argument("--init", type=Path, help="start from the weights in this folder")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write")
    parser.add_argument("--checkpoints", type=Path, help="folder for a checkpoint every three minutes")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = Qwen3(CONFIG).share_memory()
    if options.init:
        model.load_state_dict({k: v.float() for k, v in load_file(options.init / "model.safetensors").items()})
    grads = [[torch.zeros_like(p).detach().share_memory_() for p in model.parameters()] for _ in range(options.workers)]
    losses, progress = torch.zeros(options.workers, 2).share_memory_(), torch.zeros(()).share_memory_()
    print("parameters", sum(p.numel() for p in model.parameters()), flush=True)
    context = multiprocessing.get_context("spawn")
    shared = (options, model, grads, losses, progress, context.Barrier(options.workers))
    multiprocessing.spawn(work, shared, nprocs=options.workers)


if __name__ == "__main__":
    main()
