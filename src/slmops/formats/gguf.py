"""GGUF for llama.cpp, and so for Ollama and LM Studio: one file `model.gguf`, and a `Modelfile` for `ollama create`.

No graph: llama.cpp knows the architecture, so a file needs names, metadata and layout. Block-affine codes land in the
smallest of ggml's types that holds them exactly, K and IQ blocks pass as they are; the rows of query and key move where
llama.cpp rotates interleaved pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slmops.core import plugins, receipt, roles, scheme
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.layout import Layout, Region
from slmops.core.model import Model, Tokenizer
from slmops.core.spec import Spec
from slmops.core.tensor import Array, Floats, Tensor, elements, shifted
from slmops.core.verify import verify
from slmops.formats import _encode, _forms, _gguf_import, _gguf_tensors, _gguf_tokenizer, _gguf_twin, _lora, _ollama
from slmops.formats import _gguf_blocks as blocks
from slmops.formats import _gguf_container as container
from slmops.formats._gguf_container import Container, Kind, Value

TITLE = "GGUF"
DENSE = ("f16", "bf16", "f32")
NATIVE = ("q2_k", "q3_k_m", "iq4_xs", "q4_k_m", "q5_k_m", "q6_k")
"""Schemes of llama.cpp alone that are worth trying."""
MIXES = ("q2_k", "q3_k", "iq4_xs", "iq4_nl", "q4_k", "q5_k", "q5_1", "q6_k", "q8", "bf16")
TOKENIZER_SHARE = 0.65
"""Bytes of a tokenizer in the file for each byte of its tokenizer.json: between 0.4 and 0.86 in those looked at."""
FILE = "model.gguf"

FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
    "IQ1_S": 24, "IQ1_M": 31, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ3_XXS": 23, "IQ3_S": 26, "MXFP4": 38,
    "BF16": 32, "TQ1_0": 36, "TQ2_0": 37,
}  # fmt: skip
"""general.file_type: what most of the matrices are (llama.h, enum llama_ftype)."""

NAMES = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attention.norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.query_key_value": "attn_qkv",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention.sub_norm": "attn_sub_norm",
    "attention.post_norm": "post_attention_norm",
    "mlp.norm": "ffn_norm",
    "mlp.sub_norm": "ffn_sub_norm",
    "mlp.post_norm": "post_ffw_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.gate_up": "ffn_up",
    "mlp.down": "ffn_down",
}
"""Role kind -> llama.cpp's name of it (gguf-py/gguf/constants.py, TENSOR_NAMES)."""

ROPE_FREQS = "rope_freqs.weight"
ROPE_FACTORS = {"rope_factors_long.weight": True, "rope_factors_short.weight": False}
"""longrope's divisors: tensor -> whether they are those past the original context."""


forms = blocks.forms


def name(role: str) -> str:
    """The tensor's name in the file: layers.3.attention.query.bias -> blk.3.attn_q.bias."""
    kind, layer = roles.kind(role), roles.layer(role)
    matrix = kind.removesuffix(".bias")
    stem = NAMES[matrix] + (".bias" if kind != matrix else ".weight")
    return stem if layer is None else f"blk.{layer}.{stem}"


def support(spec: Spec) -> None:
    """Raise Unsupported where llama.cpp has no such family, or would compute something else."""
    family = plugins.load("architectures", spec.family)
    named, able = family.GGUF, family.GGUF_TAKES
    if named is None:
        raise Unsupported(f"llama.cpp does not know {spec.family}", "use another format: onnx or openvino")
    turning = [rope is not None for rope in spec.ropes]
    bases = {rope.theta for rope, window in zip(spec.ropes, spec.windows, strict=False) if rope and window is not None}
    sixth = _sliding(spec) == _every(6, spec.layers)
    missing = [
        what
        for what, wanted, needs in (
            ("bias on the attention's output", spec.output_bias, "output bias"),
            ("biases in the MLP", spec.mlp_bias, "mlp bias"),
            ("norms of query and key heads", spec.head_norm, "head norm"),
            ("divisors of the rotation's frequencies", spec.rope.scaling == "llama3", "rope freqs"),
            ("longrope", spec.rope.scaling == "longrope", "longrope"),
            ("heads that do not add up to the hidden size", spec.heads * spec.head_dim != spec.hidden, "free head_dim"),
            ("rotation of part of a head", spec.rope.dim != spec.head_dim, "partial rotation"),
            ("layers that do not rotate", not all(turning), "every fourth layer unrotated"),
            ("rotation by such a pattern", not all(turning) and turning != _every(4, len(turning)), "any pattern"),
            ("soft cap", bool(spec.attention_cap or spec.logit_cap), "soft cap"),
            ("scale of its scores", not math.isclose(spec.score_scale, spec.head_dim**-0.5), "score scale"),
            ("rotation base but 10,000 where a window slides", bool(bases - {10000.0}), "local base"),
            ("rotation bases of layers by such a pattern", _other_bases(spec) and not sixth, "any pattern"),
        )
        if wanted and needs not in able
    ]
    if missing:
        raise Unsupported(f"llama.cpp's {named} has no {missing[0]}", "use another format: onnx, openvino or mlx")


def _sliding(spec: Spec) -> list[bool]:
    """Which layers have a window."""
    return [spec.window(layer) is not None for layer in range(spec.layers)]


def _other_bases(spec: Spec) -> bool:
    """Whether some layers rotate by another base than the model's."""
    return any(rope is not None and rope.theta != spec.rope.theta for rope in spec.ropes)


def _every(nth: int, count: int) -> list[bool]:
    """True but for every nth."""
    return [bool((number + 1) % nth) for number in range(count)]


def _context(spec: Spec) -> tuple[int, int | None, list[str]]:
    """The context and the sliding window to write, and notes: without windows the context ends where one would slide."""
    lengths = [window for window in spec.windows if window is not None]
    family = plugins.load("architectures", spec.family)
    sixth = _sliding(spec) == _every(6, spec.layers)
    of_gemma = "windows of gemma3" in family.GGUF_TAKES and len(set(lengths)) == 1 and sixth
    # A window tells llama.cpp which layers rotate by the other base too, so it is written even if nothing reaches so far.
    if of_gemma and (min(lengths) < spec.context or _other_bases(spec)):
        return spec.context, lengths[0], []
    lengths = [window for window in lengths if window < spec.context]
    if not lengths:
        return spec.context, None, []
    short = min(lengths)
    reason = f"for llama.cpp's {family.GGUF} has no sliding window and none slides within"
    return short, None, [f"context: {short:,} of {spec.context:,} positions, {reason}"]


def plan(model: Model) -> Layout:
    """Every byte's place in model.gguf; matrices as they are stored in the model, vectors in f32."""
    spec = model.spec
    support(spec)
    source, model = model, _forms.fitted(model, TITLE, blocks.forms)
    stored = {role: scheme.stored_as(tensor) for role, tensor in model.tensors.items()}
    tokenizer = _gguf_tokenizer.metadata(model)
    kinds = {role: _kind(role, stored[role]) for role in model.tensors}
    entries = {**_metadata(model, kinds), **tokenizer.entries}
    tensors = {name(role): (kinds[role], tensor.shape) for role, tensor in model.tensors.items()}
    constants: dict[str, Array] = {}
    if spec.rope.scaling == "llama3":
        constants[ROPE_FREQS] = spec.rope.divisors().astype("<f4")
    if spec.rope.scaling == "longrope":
        constants |= {key: spec.rope.divisors(far).astype("<f4") for key, far in ROPE_FACTORS.items()}
    tensors |= {key: (container.BY_NAME["F32"], values.shape) for key, values in constants.items()}
    head, places, total = container.header(container.pack_entries(entries), len(entries), tensors)
    permuted = plugins.load("architectures", spec.family).GGUF_PERMUTED
    regions = {}
    for role, tensor in model.tensors.items():
        place = places[name(role)]
        head_dim = spec.head_dim if roles.kind(role).removesuffix(".bias") in permuted else None
        dtype = np.dtype(np.float32) if place.kind.name == "F32" else tensor.dtype
        width = place.nbytes // place.shape[0]
        encode = blocks.encoder(stored[role], dtype, head_dim)
        if roles.is_norm(role):
            encode = _encode.shifted(spec.norm_offset)
        regions[role] = (Region(FILE, place.offset, width, encode),)
    modelfile, derived = _ollama.modelfile(model, FILE, tokenizer.texts)
    notes = [*tokenizer.notes, *_context(spec)[2]]
    if not derived and model.chat_template is not None:
        notes.append("Modelfile: no Ollama TEMPLATE follows from this chat template; Ollama uses one that it recognises")
    return Layout(
        format="gguf",
        sizes={FILE: total},
        literals=((FILE, 0, head), *((FILE, places[key].offset, values.tobytes()) for key, values in constants.items())),
        regions=regions,
        files={"Modelfile": modelfile.encode(), **_adapter(model)},
        forms=_forms.changed(source, model),
        notes=tuple(notes),
    )


def weights(model: Model) -> int:
    """Bytes of the tensors alone: what plan() lays out, without metadata and tokenizer (for predictions)."""
    support(model.spec)
    model = _forms.fitted(model, TITLE, blocks.forms)
    kinds = ((_kind(role, scheme.stored_as(tensor)), tensor.shape) for role, tensor in model.tensors.items())
    return sum(container.aligned(container.size(*one)) for one in kinds)


def adapter(model: Model, base: Path, out: Path) -> Path:
    """Write the model's adapter alone, for the base that is served; `out` is an empty folder. Returns its file."""
    return _lora.written(_adapter(model), out)[_lora.GGUF_FILE]


def _adapter(model: Model) -> dict[str, bytes]:
    if model.adapter is None:
        return {}
    family = plugins.load("architectures", model.spec.family)
    return _lora.gguf(model, name, family.GGUF, family.GGUF_PERMUTED, blocks.permute_rows)


def _kind(role: str, stored: str) -> Kind:
    return container.BY_NAME["F32" if roles.facts(role).float32 else blocks.KINDS[stored]]


def _metadata(model: Model, kinds: Mapping[str, Kind]) -> dict[str, Value]:
    """`general.*` and the architecture's own keys (gguf-py/gguf/constants.py, Keys)."""
    spec = model.spec
    named = plugins.load("architectures", spec.family).GGUF
    matrices = [kinds[role].name for role in kinds if roles.facts(role).quantize]
    # The embedding and the head may differ from the rest, which is what counts.
    inner = [kinds[role].name for role in kinds if roles.facts(role).quantize and roles.layer(role) is not None]
    most = max(inner or matrices, key=(inner or matrices).count)
    parameters, (context, window, _) = model.parameters, _context(spec)
    label = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{max(parameters, 1e6) / 1e6:.0f}M"
    result = {
        "general.architecture": container.string(named),
        "general.type": container.string("model"),
        "general.name": container.string(_title(model)),
        "general.size_label": container.string(label),
        "general.file_type": container.u32(FILE_TYPES[most]),
        "general.quantization_version": container.u32(2),
        f"{named}.vocab_size": container.u32(spec.vocab),
        f"{named}.context_length": container.u32(context),
        f"{named}.embedding_length": container.u32(spec.hidden),
        f"{named}.block_count": container.u32(spec.layers),
        f"{named}.feed_forward_length": container.u32(spec.intermediate),
        f"{named}.attention.head_count": container.u32(spec.heads),
        f"{named}.attention.head_count_kv": container.u32(spec.kv_heads),
        f"{named}.attention.key_length": container.u32(spec.head_dim),
        f"{named}.attention.value_length": container.u32(spec.head_dim),
        f"{named}.attention.layer_norm_rms_epsilon": container.f32(spec.norm_eps),
        f"{named}.rope.dimension_count": container.u32(spec.rope.dim),
        f"{named}.rope.freq_base": container.f32(spec.rope.theta),
    }
    if model.licence:
        result["general.license"] = container.string(model.licence)
    if window is not None:
        result[f"{named}.attention.sliding_window"] = container.u32(window)
    if spec.rope.scaling == "longrope":
        result[f"{named}.rope.scaling.original_context_length"] = container.u32(spec.rope.original_context)
        result[f"{named}.rope.scaling.attn_factor"] = container.f32(spec.rope.magnitude)
    if spec.rope.scaling == "linear":
        result[f"{named}.rope.scaling.type"] = container.string("linear")
        result[f"{named}.rope.scaling.factor"] = container.f32(spec.rope.factor)
    for key, theirs in (("temperature", "temp"), ("top_p", "top_p")):
        value = model.generation.get(key)
        if model.generation.get("do_sample") and isinstance(value, int | float):
            result[f"general.sampling.{theirs}"] = container.f32(float(value))
    if model.generation.get("do_sample") and isinstance(model.generation.get("top_k"), int):
        result["general.sampling.top_k"] = Value(container.I32, model.generation["top_k"])
    return result


def _title(model: Model) -> str:
    """The name, but not as a Phi-3's where the tokens are no Phi-3's: llama.cpp sets their attributes by the model's name,
    and ends where one is missing (llama-vocab.cpp, load)."""
    wanted = ("</s>", "<unk>", "<s>", "<|endoftext|>")
    if re.search("phi-?3", model.name, re.IGNORECASE) and None in map(model.tokenizer.encoder.token_to_id, wanted):
        return re.sub("phi-?3", "phi_3", model.name, flags=re.IGNORECASE)
    return model.name


def locate(path: Path) -> Path:
    """The GGUF file: `path` itself, or the folder's only one; of a model in several files, the first."""
    if not path.is_dir():
        return container.shards(path)[0]
    files = sorted(path.glob("*.gguf"))
    if not files or files != container.shards(files[0]):
        found = f"{len(files)} .gguf files" if files else "no .gguf file"
        raise SourceNotFound(f"{path} has {found}", "give the file itself")
    return files[0]


def detect(path: Path) -> bool:
    """A file that begins with GGUF's magic, or a folder that holds one .gguf file."""
    try:
        file = locate(path)
        with file.open("rb") as opened:
            return opened.read(4) == container.MAGIC
    except (OSError, SourceNotFound):
        return False


def read(path: Path) -> Model:
    """The model in this file, packed tensors code for code. Raises CorruptInput, UnknownFamily or Unsupported.

    Of what slmops wrote, the config is in slmops.json; of other files it is derived from the header.
    """
    file = locate(path)
    held = container.parse_all(file)
    facts = receipt.load(file.parent) if (file.parent / receipt.NAME).is_file() else {}
    ours = facts.get("format") == "gguf" and file.name in (facts.get("files") or {})
    config = dict(facts["config"]) if ours else _gguf_import.config(held, _divisors(held))
    spec = specs.from_config(config)
    family = plugins.load("architectures", spec.family)
    if held.metadata.get("general.architecture") != container.string(family.GGUF):
        raise CorruptInput(f"{file.name} is no {family.GGUF}, which {receipt.NAME} says it is", "keep both files together")
    tensors: dict[str, Tensor] = {}
    left = dict(held.tensors)
    for role, shape in family.shapes(spec).items():
        if name(role) not in left:
            raise CorruptInput(f"{file.name} has no tensor {name(role)}", "download it again, or write it again")
        place = left.pop(name(role))
        if place.shape != shape:
            raise CorruptInput(f"{file.name}: {name(role)} is {list(place.shape)}, where the config makes it {list(shape)}")
        permuted = roles.kind(role).removesuffix(".bias") in family.GGUF_PERMUTED
        tensor = _gguf_tensors.tensor(name(role), held.file(name(role)), place, spec.head_dim if permuted else None)
        tensors[role] = shifted(tensor, -spec.norm_offset) if roles.is_norm(role) else tensor
    for key in (ROPE_FREQS, *ROPE_FACTORS):
        left.pop(key, None)
    if left:
        raise CorruptInput(f"{file.name} holds {min(left)}, which a {spec.family} of this config has not")
    model = Model(
        name=str(facts["name"]) if ours else str(held.metadata.get("general.name", container.string(file.stem)).value),
        spec=spec,
        tensors=tensors,
        tokenizer=_tokenizer(held, ours),
        chat_template=_gguf_import.chat_template(held),
        config=config,
        licence=None if ours else _gguf_import.licence(held),
        source={"path": str(file), "files": {one.name: one.stat().st_size for one in container.shards(file)}},
    )
    if not ours:
        verify(model)
    return model


def _divisors(held: Container) -> dict[str, Floats]:
    """The small tensors of rope divisors by name, those that the file has."""
    found: dict[str, Floats] = {}
    for key in (ROPE_FREQS, *ROPE_FACTORS):
        place = held.tensors.get(key)
        if place is None:
            continue
        if place.kind.name != "F32" or elements(place.shape) > 4096:
            raise CorruptInput(f"{held.path.name}: {key} is no small f32 vector", "download it again")
        found[key] = _gguf_tensors.rows_of(held.file(key), place)(0, place.shape[0]).reshape(-1).view(np.float32)
    return found


def _tokenizer(held: Container, ours: bool) -> Tokenizer:
    """The source's tokenizer, as the header has it. Of a file of ours whose splitting cannot be told from llama.cpp's name
    of it, the ids that matter: proofs take the source's own."""
    try:
        return _gguf_import.tokenizer(held)
    except Unsupported:
        if not ours:
            raise

    def number(key: str) -> int | None:
        entry = held.metadata.get(f"tokenizer.ggml.{key}_token_id")
        return entry.value if entry is not None and entry.kind == container.U32 else None

    ends = tuple(dict.fromkeys(n for n in (number("eos"), number("eot"), number("eom")) if n is not None))
    adds = held.metadata.get("tokenizer.ggml.add_bos_token")
    return Tokenizer(b"", {}, number("bos"), ends, number("padding"), bool(adds and adds.value))


def twin(folder: Path, target: Path) -> Path:
    """Write `target`/model.gguf with every tensor as the f32 numbers that its codes stand for (_gguf_twin)."""
    return _gguf_twin.write(locate(folder), target / FILE)
