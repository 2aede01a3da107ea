"""Small artifacts with a receipt, made without a model: what the registry needs to know of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def artifact(folder: Path, fill: bytes = b"x", **changes: Any) -> Path:
    """A folder of four files; of two with other fills, only weights and receipt differ."""
    files = {
        "model.gguf": fill * 70_000,
        "tokenizer.json": b'{"model": {}}',
        "onnx/genai.json": b"{}",
        "README.md": b"hello",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    receipt = {
        "format": "gguf",
        "name": "Toy",
        "scheme": "q4",
        "source": {"path": "/models/toy", "hub": "org/Toy@main", "revision": "c0ffee"},
        "licence": "apache-2.0",
        "step": {"key": f"key-{fill.hex()}", "verb": "convert", "inputs": {"source": "ab" * 32}},
        "config": {"model_type": "qwen3"},
        "tokenizer": {"bos": None, "eos": [1], "adds_bos": False},
        "chat_template": None,
        "tensors": {"embedding": {"shape": [100, 16], "crc": {}}},
        "files": {name: len(content) for name, content in files.items()},
        "probes": {"ids": [], "texts": [], "conversations": []},
        "verification": {"read_back": {"identical": True}},
    }
    (folder / "slmops.json").write_text(json.dumps({**receipt, **changes}))
    return folder
