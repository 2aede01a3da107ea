"""llama.cpp's C functions in xllamacpp's shared object, through ctypes.

The wheel's own Python API generates text but gives no logits; the C API (llama.h) is exported by the same file. Structs
are declared as far as fields are set here, with room behind: all calling conventions in use pass a struct of this size in
memory, where a longer one does no harm, and fields are only appended or moved further back. Their defaults are compared
with known ones before anything is set, so another layout is an error, not a crash. Seen to work with TESTED on Linux
x86-64; macOS and other processors follow the same rules and are unchecked; Windows wheels may not export the functions.
"""

from __future__ import annotations

import ctypes as c
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from slmops.core.errors import EngineFailed, EngineMissing

TESTED = "2026.10.11549"
CURE = f'install the version that was tested: pip install "xllamacpp=={TESTED}"'

F32, F16, Q8_0 = 0, 1, 8
FLASH_AUTO, FLASH_OFF, FLASH_ON = -1, 0, 1
LOAD_READ = 0
LEVEL_ERROR = 4


class ModelParams(c.Structure):
    """struct llama_model_params, up to main_gpu."""

    _fields_ = (
        ("devices", c.c_void_p),
        ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int32),
        ("load_mode", c.c_int32),
        ("lazy_mode", c.c_int32),
        ("main_gpu", c.c_int32),
        ("rest", c.c_ubyte * 988),
    )


class ContextParams(c.Structure):
    """struct llama_context_params, up to type_v."""

    _fields_ = (
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32),
        ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("ctx_type", c.c_int32),
        ("rope_scaling_type", c.c_int32),
        ("pooling_type", c.c_int32),
        ("attention_type", c.c_int32),
        ("flash_attn_type", c.c_int32),
        ("rope_freq_base", c.c_float),
        ("rope_freq_scale", c.c_float),
        ("yarn_ext_factor", c.c_float),
        ("yarn_attn_factor", c.c_float),
        ("yarn_beta_fast", c.c_float),
        ("yarn_beta_slow", c.c_float),
        ("yarn_orig_ctx", c.c_uint32),
        ("defrag_thold", c.c_float),
        ("cb_eval", c.c_void_p),
        ("cb_eval_user_data", c.c_void_p),
        ("type_k", c.c_int32),
        ("type_v", c.c_int32),
        ("rest", c.c_ubyte * 912),
    )


class Batch(c.Structure):
    """struct llama_batch, whole: it is passed and filled."""

    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


MODEL_DEFAULTS = {
    "devices": None, "tensor_buft_overrides": None, "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1,
    "main_gpu": 0,
}  # fmt: skip
CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_rs_seq": 0, "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1, "n_threads": 4, "n_threads_batch": 4, "ctx_type": 0, "rope_scaling_type": -1,
    "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0, "yarn_orig_ctx": 0,
    "defrag_thold": -1.0, "cb_eval": None, "cb_eval_user_data": None, "type_k": F16, "type_v": F16,
}  # fmt: skip

_LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)

_P, _I, _S, _F = c.c_void_p, c.c_int32, c.c_char_p, c.POINTER(c.c_float)
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LOG, _P)),
    "llama_version": (_S, ()),
    "llama_supports_gpu_offload": (c.c_bool, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (_P, (_S, ModelParams)),
    "llama_model_free": (None, (_P,)),
    "llama_model_get_vocab": (_P, (_P,)),
    "llama_model_n_ctx_train": (_I, (_P,)),
    "llama_model_n_params": (c.c_uint64, (_P,)),
    "llama_model_size": (c.c_uint64, (_P,)),
    "llama_model_meta_val_str": (_I, (_P, _S, _S, c.c_size_t)),
    "llama_model_chat_template": (_S, (_P, _S)),
    "llama_init_from_model": (_P, (_P, ContextParams)),
    "llama_free": (None, (_P,)),
    "llama_n_ctx": (c.c_uint32, (_P,)),
    "llama_get_memory": (_P, (_P,)),
    "llama_memory_clear": (None, (_P, c.c_bool)),
    "llama_batch_init": (Batch, (_I, _I, _I)),
    "llama_batch_free": (None, (Batch,)),
    "llama_decode": (_I, (_P, Batch)),
    "llama_get_logits": (_F, (_P,)),
    "llama_get_logits_ith": (_F, (_P, _I)),
    "llama_vocab_n_tokens": (_I, (_P,)),
    "llama_tokenize": (_I, (_P, _S, _I, c.POINTER(_I), _I, c.c_bool, c.c_bool)),
    "llama_token_to_piece": (_I, (_P, _I, c.c_char_p, _I, _I, c.c_bool)),
}


class Library:
    """The functions above as attributes without their prefix, and the errors that llama.cpp has logged."""

    def __init__(self, path: Path) -> None:
        try:
            handle = c.CDLL(str(path))
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(handle, name)
                function.restype, function.argtypes = result, list(arguments)
                setattr(self, name.removeprefix("llama_"), function)
        except (OSError, AttributeError) as error:
            raise EngineFailed(f"xllamacpp {version()} does not give llama.cpp's functions: {error}", CURE) from None
        self.errors: list[str] = []
        self._log = _LOG(self._keep)
        self.log_set(self._log, None)
        self.backend_init()
        check("llama_model_params", self.model_default_params(), MODEL_DEFAULTS)
        check("llama_context_params", self.context_default_params(), CONTEXT_DEFAULTS)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _keep(self, level: int, text: bytes, _: Any) -> None:
        if level == LEVEL_ERROR and text and text.strip():
            self.errors.append(text.decode("utf-8", "replace").strip())
            del self.errors[:-20]

    def said(self) -> str:
        """The last errors as the end of a sentence."""
        return f": {'; '.join(self.errors[-3:])[:600]}" if self.errors else ""


def check(name: str, params: c.Structure, expected: dict[str, Any]) -> None:
    """Compare defaults with the known ones; a struct of another layout cannot have them all."""
    for field, value in expected.items():
        found = getattr(params, field)
        if found != value:
            raise EngineFailed(
                f"xllamacpp {version()} has another {name} than the tested {TESTED} ({field} is {found}, not {value})", CURE
            )


def version() -> str:
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"


def load() -> Library:
    """Open the shared object of the installed xllamacpp, without importing it."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise EngineMissing("xllamacpp is not installed", 'pip install "slmops[llamacpp]"')
    folder = Path(spec.submodule_search_locations[0])
    found = [file for pattern in ("*.so", "*.dylib", "*.pyd") for file in sorted(folder.glob("xllamacpp" + pattern))]
    if not found:
        raise EngineFailed(f"xllamacpp {version()} has no compiled module in {folder}", CURE)
    return Library(found[0])
