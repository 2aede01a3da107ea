"""Shared fixtures: toy checkpoints with random weights and a tokenizer that every engine can follow."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from slmops import probes
from slmops.core import plugins

TESTS = Path(__file__).resolve().parent
SAMPLE = TESTS.parent / "samples" / "home"
LONGEST = (
    "test_optimize.py", "executors/test_ray.py", "pipeline/test_templates.py", "test_compile.py", "test_docs.py",
    "test_pairwise.py", "registry/test_crash.py", "cli/test_optimize.py", "passes/test_calibrate.py", "cli/test_measure.py",
    "registry/test_races.py", "passes/test_tune.py", "serve/test_soak.py", "engines/test_flow.py", "engines/test_host.py",
)  # fmt: skip
"""Files of more than half a minute, by --durations: a file stays in one process."""
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


# How fast an example is on a machine that others use is not what any test asks.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def byte_level_tokenizer(vocabulary: int) -> tokenizers.Tokenizer:
    """A small byte-level BPE in Qwen2's form, trained on the probe texts."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([probes.TEXT, *probes.TEXTS], trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def write_toy(family: str, folder: Path, dtype: Any = ml_dtypes.bfloat16, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint of the family's TOY config (with changes) and random weights, as Hugging Face would save it."""
    module = plugins.load("architectures", family)
    config = {**module.TOY, **changes}
    spec = module.spec(config)
    rng = np.random.default_rng(seed)
    tensors = {}
    for role, name in module.names(spec).items():
        values = rng.standard_normal(module.shapes(spec)[role]).astype(np.float32)
        scaled = 1 - spec.norm_offset + 0.1 * values if role.endswith("norm") else 0.08 * values
        tensors[name] = scaled.astype(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = byte_level_tokenizer(min(spec.vocab, 310) - len(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|im_end|>")
    config |= {"bos_token_id": None, "eos_token_id": end, "torch_dtype": np.dtype(dtype).name}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    facts = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**facts, "chat_template": CHATML}))
    return folder


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them ignore Ctrl-C, and every process that they start too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those that hold slow tests only: no worker begins one when the others are done."""
    quick = {item.path for item in items if item.get_closest_marker("slow") is None}
    longest = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (longest.get(item.path, len(LONGEST)), item.path in quick))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """toy(family, **changes to config.json) -> folder; equal calls share one."""
    made: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> Path:
        key = family + json.dumps(changes, sort_keys=True)
        if key not in made:
            made[key] = write_toy(family, tmp_path_factory.mktemp(family), **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def sample() -> Path:
    """The trained model that ships with the repository."""
    return SAMPLE
