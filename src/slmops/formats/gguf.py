"""GGUF for llama.cpp, and so for Ollama and LM Studio: one file `model.gguf`, and a `Modelfile` for `ollama create`.

No graph: llama.cpp knows the architecture, so a file needs names, metadata and layout. Codes of q4, q8 and q4a land in
Q4_0, Q8_0 and Q4_1 as they are; the rows of query and key move where llama.cpp rotates interleaved pairs.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from slmops.core import plugins, receipt, roles, scheme
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported
from slmops.core.layout import Layout, Region
from slmops.core.model import Model, Tokenizer
from slmops.core.scheme import Codes, Packed
from slmops.core.spec import Spec
from slmops.core.tensor import DTYPES, Array, Lazy, Tensor, row_blocks
from slmops.formats import _gguf_blocks as blocks
from slmops.formats import _gguf_container as container
from slmops.formats import _gguf_tokenizer, _ollama
from slmops.formats._gguf_container import Container, Kind, Place, Value

TITLE = "GGUF"
QUANTIZED = ("q4", "q8", "q4a")
DENSE = ("f16", "bf16", "f32")
FILE = "model.gguf"

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}
"""general.file_type: what most of the matrices are (llama.h, enum llama_ftype)."""

NAMES = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attention.norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "mlp.norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
"""Role kind -> llama.cpp's name of it (gguf-py/gguf/constants.py, TENSOR_NAMES)."""

ROPE_FREQS = "rope_freqs.weight"


def name(role: str) -> str:
    """The tensor's name in the file: layers.3.attention.query.bias -> blk.3.attn_q.bias."""
    kind, layer = roles.kind(role), roles.layer(role)
    matrix = kind.removesuffix(".bias")
    stem = NAMES[matrix] + (".bias" if kind != matrix else ".weight")
    return stem if layer is None else f"blk.{layer}.{stem}"


def support(spec: Spec, schemes: Iterable[str]) -> None:
    """Raise Unsupported where llama.cpp cannot hold one of the schemes, or would compute something else."""
    for wanted in schemes:
        if wanted not in blocks.KINDS:
            raise Unsupported(f"GGUF cannot hold {wanted} as it is", f"it holds {', '.join((*QUANTIZED, *DENSE))}")
    family = plugins.load("architectures", spec.family)
    named, able = family.GGUF, family.GGUF_TAKES
    missing = [
        what
        for what, wanted, needs in (
            ("a bias on the attention's output", spec.output_bias, "output bias"),
            ("biases in the MLP", spec.mlp_bias, "mlp bias"),
            ("norms of query and key heads", spec.head_norm, "head norm"),
            ("llama3's rope scaling", spec.rope.scaling == "llama3", "rope freqs"),
            ("heads that do not add up to the hidden size", spec.heads * spec.head_dim != spec.hidden, "free head_dim"),
            ("a rotation of part of a head", spec.rope.dim != spec.head_dim, "partial rotation"),
        )
        if wanted and needs not in able
    ]
    if missing:
        raise Unsupported(f"llama.cpp's {named} has no {missing[0]}", "use another format: onnx, openvino or mlx")
    shortest = min((window for window in spec.windows if window is not None), default=spec.context)
    if shortest < spec.context:
        raise Unsupported(
            f"llama.cpp's {named} has no sliding window; this model looks back {shortest:,} of {spec.context:,} positions",
            f'use another format, or set "max_position_embeddings": {shortest} in config.json: within it nothing slides',
        )


def plan(model: Model) -> Layout:
    """Every byte's place in model.gguf; matrices as they are stored in the model, vectors in f32."""
    spec = model.spec
    stored = {role: scheme.stored_as(tensor) for role, tensor in model.tensors.items()}
    support(spec, {kind for role, kind in stored.items() if roles.facts(role).quantize})
    tokenizer = _gguf_tokenizer.metadata(model)
    kinds = {role: _kind(role, stored[role]) for role in model.tensors}
    entries = {**_metadata(model, kinds), **tokenizer.entries}
    tensors = {name(role): (kinds[role], tensor.shape) for role, tensor in model.tensors.items()}
    constants: dict[str, Array] = {}
    if spec.rope.scaling == "llama3":
        constants[ROPE_FREQS] = spec.rope.divisors().astype("<f4")
        tensors[ROPE_FREQS] = (container.BY_NAME["F32"], constants[ROPE_FREQS].shape)
    head, places, total = container.header(container.pack_entries(entries), len(entries), tensors)
    permuted = plugins.load("architectures", spec.family).GGUF_PERMUTED
    regions = {}
    for role, tensor in model.tensors.items():
        place = places[name(role)]
        head_dim = spec.head_dim if roles.kind(role).removesuffix(".bias") in permuted else None
        dtype = np.dtype(np.float32) if place.kind.name == "F32" else tensor.dtype
        width = place.nbytes // place.shape[0]
        regions[role] = (Region(FILE, place.offset, width, blocks.encoder(place.kind.name, dtype, head_dim)),)
    modelfile, derived = _ollama.modelfile(model, FILE, tokenizer.texts)
    notes = [*tokenizer.notes]
    if not derived and model.chat_template is not None:
        notes.append("Modelfile: no Ollama TEMPLATE follows from this chat template; Ollama uses one that it recognises")
    return Layout(
        format="gguf",
        sizes={FILE: total},
        literals=((FILE, 0, head), *((FILE, places[key].offset, values.tobytes()) for key, values in constants.items())),
        regions=regions,
        files={"Modelfile": modelfile.encode()},
        notes=tuple(notes),
    )


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
    parameters = model.parameters
    label = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{max(parameters, 1e6) / 1e6:.0f}M"
    result = {
        "general.architecture": container.string(named),
        "general.type": container.string("model"),
        "general.name": container.string(model.name),
        "general.size_label": container.string(label),
        "general.file_type": container.u32(FILE_TYPES[most]),
        "general.quantization_version": container.u32(2),
        f"{named}.vocab_size": container.u32(spec.vocab),
        f"{named}.context_length": container.u32(spec.context),
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


def locate(path: Path) -> Path:
    """The GGUF file: `path` itself, or the folder's only one."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
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
    """What slmops wrote, code for code. The config comes from slmops.json, places and types from the file's own header."""
    file = locate(path)
    facts = receipt.load(file.parent)
    config = dict(facts.get("config") or {})
    held = container.parse(file)
    family = plugins.load("architectures", str(config.get("model_type")))
    spec: Spec = family.spec(config)
    if held.metadata.get("general.architecture") != container.string(family.GGUF):
        raise CorruptInput(f"{file.name} is no {family.GGUF}, which {receipt.NAME} says it is", "keep both files together")
    tensors: dict[str, Tensor] = {}
    left = dict(held.tensors)
    for role, shape in family.shapes(spec).items():
        if name(role) not in left:
            raise CorruptInput(f"{file.name} has no tensor {name(role)}", "write it again")
        place = left.pop(name(role))
        if place.shape != shape:
            raise CorruptInput(f"{file.name}: {name(role)} is {list(place.shape)}, where the config makes it {list(shape)}")
        permuted = roles.kind(role).removesuffix(".bias") in family.GGUF_PERMUTED
        tensors[role] = _tensor(file, place, spec.head_dim if permuted else None)
    left.pop(ROPE_FREQS, None)
    if left:
        raise CorruptInput(f"{file.name} holds {min(left)}, which a {spec.family} of this config has not")
    template = held.metadata.get("tokenizer.chat_template")
    return Model(
        name=str(facts.get("name", file.parent.name)),
        spec=spec,
        tensors=tensors,
        tokenizer=_tokenizer(held),
        chat_template=template.value if template else None,
        config=config,
        source={"path": str(file), "files": {file.name: file.stat().st_size}},
    )


def _tokenizer(held: Container) -> Tokenizer:
    """The ids that matter. The tokenizer itself stays in the GGUF: nothing here needs it as a tokenizer.json."""

    def number(key: str) -> int | None:
        entry = held.metadata.get(f"tokenizer.ggml.{key}_token_id")
        return entry.value if entry is not None and entry.kind == container.U32 else None

    ends = tuple(dict.fromkeys(n for n in (number("eos"), number("eot"), number("eom")) if n is not None))
    adds = held.metadata.get("tokenizer.ggml.add_bos_token")
    return Tokenizer(b"", {}, number("bos"), ends, number("padding"), bool(adds and adds.value))


def _bytes(file: Path, place: Place) -> Callable[[int, int], Array]:
    """(start, stop) -> the rows' bytes [rows, row bytes]."""
    width = place.nbytes // place.shape[0]

    def rows(start: int, stop: int) -> Array:
        count = (stop - start) * width
        data = np.fromfile(file, np.uint8, count, offset=place.offset + start * width)
        if data.size != count:
            raise CorruptInput(f"{file.name} was cut short while it was read", "write it again")
        return data.reshape(stop - start, width)

    return rows


def _tensor(file: Path, place: Place, head_dim: int | None) -> Tensor:
    """A tensor in Hugging Face's row order. Blocks start and stop at whole heads where rows were permuted."""
    stored = _bytes(file, place)
    if place.kind.name in blocks.SCHEMES:

        def codes(start: int, stop: int) -> Codes:
            block = blocks.parse(place.kind.name, stored(start, stop))
            if head_dim is not None:
                block = blocks.permute(block, head_dim, back=True)  # type: ignore[assignment]
            return block

        return Packed(place.shape, scheme.load(blocks.SCHEMES[place.kind.name]), codes)
    dtype = DTYPES[place.kind.name.lower()]

    def rows(start: int, stop: int) -> Array:
        values = stored(start, stop).view(dtype).reshape(stop - start, *place.shape[1:])
        if head_dim is None:
            return values
        restored = blocks.permute(values, head_dim, back=True)
        assert not isinstance(restored, Codes)
        return restored

    return Lazy(place.shape, dtype, rows)


def twin(folder: Path, target: Path) -> Path:
    """Write `target`/model.gguf: the same model with every tensor as the f32 numbers that its codes stand for.

    llama.cpp quantizes activations wherever weights are codes, so only in such a twin do its logits show that names,
    metadata and graph are right. Metadata is copied byte for byte (general.file_type too, which is only a hint). Streams
    row blocks; returns the file.
    """
    source = container.parse(locate(folder))
    single = container.BY_NAME["F32"]
    wanted = {key: (single, place.shape) for key, place in source.tensors.items()}
    head, places, total = container.header(source.entries, len(source.metadata), wanted, source.alignment)
    target.mkdir(parents=True, exist_ok=True)
    file = target / FILE
    with file.open("wb") as out:
        out.write(head)
        out.truncate(total)

    def expand(key: str, start: int, stop: int) -> None:
        place = source.tensors[key]
        values = np.ascontiguousarray(_tensor(source.path, place, None).rows(start, stop), dtype="<f4")
        with file.open("r+b") as out:
            out.seek(places[key].offset + start * places[key].nbytes // place.shape[0])
            out.write(values.reshape(-1).view(np.uint8))

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        jobs = [pool.submit(expand, key, *rows) for key, place in source.tensors.items() for rows in row_blocks(place.shape)]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return file
