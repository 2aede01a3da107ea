"""The files that make a folder of an ONNX graph: genai_config.json, Foundry Local's inference_model.json, tokenizer.

Source: onnxruntime-genai src/config.cpp (what is read) and src/python/py/models/builders/base.py (what is written);
Foundry-Local sdk_v2/cpp/src/download/inference_model_writer.cc and catalog/local_model_scanner.cc.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from slmops.core.errors import UsageError
from slmops.core.model import Model
from slmops.formats import _prompt

PROVIDERS: Mapping[str, tuple[tuple[str, Mapping[str, str]], ...]] = {
    "cpu": (),
    "cuda": (("cuda", {"enable_cuda_graph": "0"}),),
    "dml": (("dml", {}),),
    "qnn": (("qnn", {"backend_path": "QnnHtp.dll", "htp_performance_mode": "burst"}),),
}
"""Name -> provider_options of the session, as onnxruntime-genai spells them."""

KNOWN = ("gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
"""Families that onnxruntime-genai knows by name (src/models/model_type.h); `decoder` means any other one."""

MAX_LENGTH = 4096
"""Default of search.max_length. The shared KV cache is allocated for all of it at once: a context of 40,960 would take
gigabytes before the first token. Callers raise it up to context_length."""

SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size")
TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""Told to ONNX Runtime's tokenizer where it does not know the class: it then goes by tokenizer.json alone."""


def check_provider(provider: str) -> None:
    if provider not in PROVIDERS:
        raise UsageError(f"no ONNX Runtime provider is called {provider!r}", f"one of: {', '.join(PROVIDERS)}")


def config(model: Model, provider: str, inputs: Iterable[str], max_length: int | None) -> dict[str, Any]:
    """The content of genai_config.json. Every size is said, though the runtime asks for few of them."""
    spec, tokenizer = model.spec, model.tokenizer
    if max_length is not None and not 0 < max_length <= spec.context:
        raise UsageError(f"max_length {max_length} is not between 1 and the model's context of {spec.context}")
    eos = list(tokenizer.eos)
    names: dict[str, str] = {name: name for name in inputs if not name.startswith("past_key_values.")}
    names |= {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    ids: dict[str, Any] = {"eos_token_id": eos[0] if len(eos) == 1 else eos} if eos else {}
    if tokenizer.bos is not None:
        ids["bos_token_id"] = tokenizer.bos
    pad = tokenizer.pad if tokenizer.pad is not None else next(iter(tokenizer.eos), None)
    if pad is not None:
        ids["pad_token_id"] = pad
    return {
        "model": {
            "type": spec.family if spec.family in KNOWN else "decoder",
            "context_length": spec.context,
            "vocab_size": spec.vocab,
            **ids,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {
                    "log_id": "onnxruntime-genai",
                    "provider_options": [{name: dict(options)} for name, options in PROVIDERS[provider]],
                },
                "head_size": spec.head_dim,
                "hidden_size": spec.hidden,
                "num_attention_heads": spec.heads,
                "num_hidden_layers": spec.layers,
                "num_key_value_heads": spec.kv_heads,
                "inputs": names,
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "max_length": max_length or min(spec.context, MAX_LENGTH),
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "do_sample": False,
            **{key: model.generation[key] for key in SAMPLING if model.generation.get(key) is not None},
        },
    }


def tokenizer_files(model: Model) -> dict[str, bytes]:
    """The tokenizer as ONNX Runtime's own reader (onnxruntime-extensions) and transformers expect it."""
    settings = dict(model.tokenizer.config)
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = TOKENIZER_CLASS
    files = {"tokenizer.json": model.tokenizer.json}
    if model.chat_template is not None:
        settings["chat_template"] = model.chat_template
        files["chat_template.jinja"] = model.chat_template.encode()
    files["tokenizer_config.json"] = dump(settings)
    return files


NFC = (
    "ONNX Runtime's tokenizer does not compose Unicode (NFC), as this one does: outside slmops, which does it first, letters"
    " with separate accents become other tokens"
)


def tokenizer_notes(model: Model) -> list[str]:
    """What ONNX Runtime's own reader does differently from the checkpoint's."""
    # The key stands before the vocabulary; parsing all of a tokenizer.json takes longer than the whole plan.
    _, found, rest = model.tokenizer.json.partition(b'"normalizer":')
    head = rest[:4096].decode(errors="replace").lstrip()
    return [NFC] if found and head.startswith("{") and '"NFC"' in head.partition('"pre_tokenizer":')[0] else []


def foundry(model: Model) -> tuple[dict[str, bytes], list[str]]:
    """({"inference_model.json": content} or {}, notes): what makes Foundry Local list the folder as a model.

    Refused, with the reason in the notes, where the four texts do not follow from the chat template: a wrong prompt is
    worse than a model that is not listed. ModelConfig holds the checkpoint's own sampling, in genai_config's names.
    """
    special = {key: value.get("content") if isinstance(value, Mapping) else value for key, value in _named(model)}
    templates, reason = _prompt.derive(model.chat_template, special, model.tokenizer.adds_bos)
    if templates is None:
        return {}, [f"no inference_model.json for Foundry Local: {reason}"]
    sampling = {key: model.generation[key] for key in SAMPLING if model.generation.get(key) is not None}
    content = {
        # A colon would be read as the start of a version.
        "Name": model.name.replace(":", "-"),
        "Description": f"{model.spec.family}, {model.parameters:,} parameters, converted by slmops",
        "Version": "1",
        "PromptTemplate": templates,
        "ModelConfig": {"max_length": min(model.spec.context, MAX_LENGTH), **sampling},
    }
    return {"inference_model.json": dump(content)}, []


def _named(model: Model) -> list[tuple[str, Any]]:
    """bos_token, eos_token and so on, as tokenizer_config.json has them."""
    return [(key, model.tokenizer.config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")]


def dump(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
