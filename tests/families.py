"""The families: published sizes that their files must give, and the table in docs/families.md, which this prints."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from checkpoints import hollow
from slmops.core import plugins
from slmops.core.errors import Unsupported
from slmops.formats import huggingface
from slmops.passes.quantize import chooser, quantize

CONFIGS = Path(__file__).parent / "data" / "configs"
WRITERS = ("gguf", "mlx", "onnx", "openvino", "compressed_tensors", "huggingface")

PUBLISHED = {
    # Totals of the safetensors as their model pages state them; a tied head counted once.
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2-1.5B-Instruct": 1_543_714_304,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Phi-3-mini-4k-instruct": 3_821_079_552,
    "Phi-4-mini-instruct": 3_836_021_760,
    "SmolLM3-3B": 3_075_098_624,
    "BitNet-b1.58-2B-4T": 2_412_820_480,
}

GEMMA = {"model_type": "gemma3_text", "vocab_size": 262144, "num_attention_heads": 4, "num_key_value_heads": 1,
         "head_dim": 256, "max_position_embeddings": 32768, "tie_word_embeddings": True, "sliding_window": 512}  # fmt: skip
SIZES = {
    "Gemma 3 270M": (268_098_176, {**GEMMA, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18}),
    "Gemma 3 1B": (999_885_952, {**GEMMA, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26}),
    "Llama 3.2 1B": (1_235_814_400, {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": True}),
    "OLMo 2 1B": (1_484_916_736, {
        "model_type": "olmo2", "vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 4096}),
}  # fmt: skip
"""Model -> its published number of parameters, and the sizes that its config.json gives."""


def published() -> dict[str, list[tuple[str, int]]]:
    """Family -> models whose published number of parameters is what its file makes of their config.json."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name, count in PUBLISHED.items():
        config = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        found.setdefault(config["model_type"], []).append((name, count))
    for name, (count, config) in SIZES.items():
        found.setdefault(str(config["model_type"]), []).append((name, count))
    return found


def table() -> str:
    """Markdown: a line a family; then what a format refuses, in its own words."""
    known, reasons = published(), []
    lines = ["| family | lines | " + " | ".join(w.replace("_", "-") for w in WRITERS) + " | checked sizes |"]
    lines.append("|---|---:|" + "---|" * (len(WRITERS) + 1))
    for family in plugins.names("architectures"):
        module = plugins.load("architectures", family)
        assert module.__file__ is not None
        length = len(Path(module.__file__).read_text(encoding="utf-8").splitlines())
        cells = []
        with tempfile.TemporaryDirectory() as scratch:
            model = quantize(huggingface.read(hollow(Path(scratch) / family, module.TOY)), chooser("f32"))
            for writer in WRITERS:
                try:
                    plugins.load("formats", writer).plan(model)
                    cells.append("yes")
                except Unsupported as refusal:
                    cells.append("-")
                    reasons.append(f"- {family}, {writer.replace('_', '-')}: {refusal}")
        sizes = ", ".join(f"{name} ({count / 1e9:.2f} B)" for name, count in known.get(family, []))
        lines.append(f"| {family} | {length} | {' | '.join(cells)} | {sizes} |")
    return "\n".join([*lines, "", *reasons]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
