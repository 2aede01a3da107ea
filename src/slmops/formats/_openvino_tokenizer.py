"""openvino_tokenizer.xml and openvino_detokenizer.xml, made from tokenizer.json in a process of its own.

`openvino_tokenizers` parses a tokenizer.json, but takes it from a transformers object and so imports transformers (seconds,
hundreds of MB). What its parser really asks of that object is little; here a small stand-in answers, under the names it
looks for. The trick changes sys.modules, which is why it runs as `python -m` beside the streaming of the weights.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from slmops.core.errors import Unsupported
from slmops.core.model import Model

NAMES = ("openvino_tokenizer", "openvino_detokenizer")


def request(model: Model) -> dict[str, Any]:
    """What the process is told about a model besides its tokenizer.json: all that the stand-in answers with."""
    tokenizer = model.tokenizer
    return {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos[0] if tokenizer.eos else None,
        "pad_token_id": tokenizer.pad if tokenizer.pad is not None else (tokenizer.eos[0] if tokenizer.eos else None),
        "chat_template": model.chat_template,
        "model_max_length": model.spec.context,
        "clean_up_tokenization_spaces": bool(tokenizer.config.get("clean_up_tokenization_spaces", False)),
    }


def convert(content: Mapping[str, Any], text: bytes, folder: Path) -> None:
    """Write both models of the tokenizer.json `text` into the folder.

    Raises Unsupported for a tokenizer that the converter does not know.
    """
    # -P: nothing in the working folder may stand in for a module.
    command = [sys.executable, "-P", "-m", __name__, str(folder.resolve())]
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    message = json.dumps(content).encode() + b"\n" + text
    done = subprocess.run(command, input=message, capture_output=True, env=environment)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unsupported(
            f"openvino_tokenizers cannot convert this tokenizer: {said[-1][:300] if said else done.returncode}",
            "leave openvino out of the formats, or bring openvino-tokenizers to the version of openvino",
        )


def _main(folder: Path) -> None:
    gc.disable()  # a vocabulary is a million objects that all stay
    content = json.loads(sys.stdin.buffer.readline())
    text = sys.stdin.buffer.read()
    parsed = json.loads(text)
    tokenizer = _stand_in(content, text, parsed)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks, and reports use to its maker
    import openvino
    from openvino_tokenizers import convert_tokenizer

    _hasten(parsed)
    models = convert_tokenizer(tokenizer, with_detokenizer=True)
    for model, name in zip(models, NAMES, strict=True):
        # f16 would round the numbers that truncation and padding count with.
        openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)


def _hasten(parsed: Mapping[str, Any]) -> None:
    """Put quick twins in the place of three slow helpers of the converter, where it still has them: half of its time."""
    import numpy as np
    from openvino import Tensor
    from openvino.op import Constant
    from openvino_tokenizers import tokenizer_pipeline, utils

    # GPT-2's alphabet: 188 printable bytes stand for themselves, the others are moved past 255.
    table = dict.fromkeys(range(256), "\uffff")
    table.update({ord(char): chr(byte) for char, byte in utils.unicode_to_bytes().items()})

    def apply_unicode_to_bytes(token: str, return_corrupted_tokens: bool = False) -> bytes:
        try:
            return token.translate(table).encode("latin-1")
        except UnicodeEncodeError:
            return token.encode() if return_corrupted_tokens else b""

    def create_unpacked_string(strings: Iterable[str | bytes]) -> list[Any]:
        parts = [part.encode() if isinstance(part, str) else part for part in strings]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int32)
        begins = np.concatenate([np.zeros(min(1, len(parts)), np.int32), ends[:-1]])
        chars = np.frombuffer(b"".join(parts), np.uint8)
        return [Constant(Tensor(values)).output(0) for values in (begins, ends, chars)]

    twins: dict[str, Any] = {
        "apply_unicode_to_bytes": apply_unicode_to_bytes,
        "create_unpacked_string": create_unpacked_string,
        "get_processor_template": lambda tokenizer: parsed.get("post_processor"),
    }
    for name, twin in twins.items():
        for module in (utils, tokenizer_pipeline):
            if hasattr(module, name):
                setattr(module, name, twin)


def _stand_in(content: Mapping[str, Any], text: bytes, parsed: Mapping[str, Any]) -> Any:
    """An object that openvino_tokenizers takes for a fast tokenizer of transformers, without transformers."""
    transformers = ModuleType("transformers")

    class PreTrainedTokenizerBase:
        pass

    class PreTrainedTokenizerFast(PreTrainedTokenizerBase):
        is_fast = True
        padding_side = truncation_side = "right"
        model_input_names = ("input_ids", "attention_mask")
        vocab_files_names: Mapping[str, str] = {"tokenizer_file": "tokenizer.json"}

        def __init__(self) -> None:
            self._added = {token["id"]: SimpleNamespace(**token) for token in parsed.get("added_tokens", ())}
            self._vocabulary = _vocabulary(parsed)
            self.bos_token_id, self.eos_token_id = content["bos_token_id"], content["eos_token_id"]
            self.pad_token_id, self.chat_template = content["pad_token_id"], content["chat_template"]
            self.pad_token = next((word for word, number in self._vocabulary.items() if number == self.pad_token_id), None)
            self.model_max_length = content["model_max_length"]
            self.clean_up_tokenization_spaces = content["clean_up_tokenization_spaces"]

        @property
        def added_tokens_decoder(self) -> dict[int, SimpleNamespace]:
            return dict(sorted(self._added.items()))

        def get_vocab(self) -> dict[str, int]:
            return self._vocabulary

        def save_pretrained(self, folder: str) -> None:
            Path(folder, "tokenizer.json").write_bytes(text)

    def require_version(requirement: str) -> None:
        """Answers like the newest transformers: every minimum is met."""

    def import_protobuf() -> None:
        raise ImportError("sentencepiece models are not used: every tokenizer is a tokenizer.json here")

    transformers.__dict__.update(
        PreTrainedTokenizerBase=PreTrainedTokenizerBase, PreTrainedTokenizerFast=PreTrainedTokenizerFast
    )
    parts = {
        "transformers": transformers,
        "transformers.convert_slow_tokenizer": SimpleNamespace(import_protobuf=import_protobuf),
        "transformers.utils": ModuleType("transformers.utils"),
        "transformers.utils.versions": SimpleNamespace(require_version=require_version),
    }
    sys.modules.update(parts)  # type: ignore[arg-type]
    return PreTrainedTokenizerFast()


def _vocabulary(parsed: Mapping[str, Any]) -> dict[str, int]:
    words = parsed["model"]["vocab"]
    numbered = dict(words) if isinstance(words, dict) else {word: number for number, (word, _) in enumerate(words)}
    return numbered | {token["content"]: token["id"] for token in parsed.get("added_tokens", ())}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
