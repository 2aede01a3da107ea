"""GGUF files that others made: written here by gguf-py, de-quantized by gguf-py, read by us."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, quants

from slmops import compile as compiler
from slmops import load
from slmops.core import plugins, roles, scheme
from slmops.core.errors import CorruptInput, UnknownFamily, Unsupported
from slmops.core.scheme import Codes, Packed, stored_as
from slmops.core.tensor import to_numpy
from slmops.formats import _gguf_blocks
from slmops.formats import gguf as ours

BLOCKS = ("Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0")
HALVES = {"Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,)}  # fmt: skip
"""Where the f16 numbers of a block lie: random bytes elsewhere are always a valid block."""


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Bytes [rows, row bytes] of a ggml type whose scales are ordinary numbers."""
    held, nbytes = gguf.GGML_QUANT_SIZES[Type[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // held, nbytes), dtype=np.uint8)
    for at in HALVES[kind]:
        numbers = (rng.standard_normal(len(blocks)) * 0.01).astype("<f2")
        blocks[:, at : at + 2] = numbers.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_stand_for_the_numbers_that_gguf_py_finds(kind: str) -> None:
    rows = random_blocks(kind, 8, 512)
    if kind == "TQ2_0":
        rows &= np.where(np.arange(rows.shape[1]) % 66 < 64, 0x55, 0xFF).astype(np.uint8)  # digits of 0 and 1 alone
    held = scheme.load(kind.lower())
    values = held.dequantize(_gguf_blocks.parse(kind.lower(), rows))
    assert np.array_equal(values, quants.dequantize(rows, Type[kind]))


def test_a_block_whose_scale_is_no_number_is_refused() -> None:
    rows = random_blocks("Q4_K", 1, 256)
    rows[:, :2] = np.array([np.nan], "<f2").view(np.uint8)
    with pytest.raises(CorruptInput, match="no number"):
        scheme.load("q4_k").dequantize(Codes(rows, np.empty((1, 0), np.float32)))


def write_foreign(file: Path, family: str, kinds: dict[str, str], **changes: Any) -> dict[str, np.ndarray]:
    """A GGUF of the family's toy as gguf-py writes it: role kind -> ggml type, else F32. Returns HF-ordered numbers."""
    module = plugins.load("architectures", family)
    config = {**module.TOY, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, **changes}
    spec = module.spec(config)
    writer = GGUFWriter(file, module.GGUF)
    writer.add_name("foreign")
    writer.add_vocab_size(spec.vocab)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.intermediate)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_freq_base(spec.rope.theta)
    writer.add_rope_dimension_count(spec.rope.dim)
    if spec.rope.scaling == "llama3":
        writer.add_tensor("rope_freqs.weight", spec.rope.divisors())
    tokens = [f"<tok{i}>" for i in range(spec.vocab - 257)]
    alphabet = sorted(
        {chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]} | {chr(256 + i) for i in range(68)}
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*alphabet, "ab", *tokens])
    writer.add_token_types([1] * 257 + [3] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(spec.vocab - 1)
    writer.add_add_bos_token(False)
    numbers: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(1)
    for number, (role, shape) in enumerate(module.shapes(spec).items()):
        kind = kinds.get(roles.kind(role), "F32")
        values = (rng.standard_normal(shape) * 0.05).astype(np.float32)
        permuted = roles.kind(role).removesuffix(".bias") in module.GGUF_PERMUTED
        if kind in ("F32", "F16"):
            data = values.astype(np.float32 if kind == "F32" else np.float16)
            data = interleave(data, spec.head_dim) if permuted else data
            writer.add_tensor(ours.name(role), data)
            plain = data.astype(np.float32)
        else:
            data = (
                quants.quantize(values, Type[kind]) if kind in ("Q4_0", "Q8_0") else random_blocks(kind, *shape, seed=number)
            )
            writer.add_tensor(ours.name(role), data, raw_dtype=Type[kind])
            plain = quants.dequantize(data, Type[kind])
        numbers[role] = halves(plain, spec.head_dim) if permuted else plain
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """convert_hf_to_gguf.py, LlamaModel.permute."""
    shape = rows.shape
    return rows.reshape(-1, 2, head_dim // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    shape = rows.shape
    return rows.reshape(-1, head_dim // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


K_M = {"embedding": "Q4_K", "attention.query": "Q4_K", "attention.key": "Q4_K", "attention.value": "Q6_K",
       "attention.output": "Q4_K", "mlp.gate": "Q4_K", "mlp.up": "Q5_K", "mlp.down": "Q6_K", "head": "Q6_K"}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "kinds", [K_M, dict.fromkeys(K_M, "Q4_0"), dict.fromkeys(K_M, "Q8_0"), {}], ids=["k", "q4", "q8", "f32"]
)
def test_tensors_are_the_numbers_that_gguf_py_finds(family: str, kinds: dict[str, str], tmp_path: Path) -> None:
    scaling = {"rope_scaling": None} if family == "llama" else {}
    numbers = write_foreign(tmp_path / "foreign.gguf", family, kinds, **scaling)
    model = load(tmp_path / "foreign.gguf")
    assert model.spec.family == family
    assert set(model.tensors) == set(numbers)
    for role, expected in numbers.items():
        assert np.array_equal(to_numpy(model.tensors[role]), expected), role


@pytest.mark.parametrize("kinds", [K_M, dict.fromkeys(K_M, "Q4_0"), dict.fromkeys(K_M, "Q8_0")], ids=["k", "q4", "q8"])
def test_codes_pass_through_byte_for_byte(kinds: dict[str, str], tmp_path: Path) -> None:
    """Read from GGUF and written to GGUF: the very same tensor bytes, permuted rows included."""
    write_foreign(tmp_path / "foreign.gguf", "llama", kinds, rope_scaling=None)
    model = load(tmp_path / "foreign.gguf")
    (made,) = compiler.convert(model, ["gguf"], compiler.KEEP, tmp_path / "again", verify=False)
    before = {t.name: t for t in gguf.GGUFReader(tmp_path / "foreign.gguf").tensors}
    after = {t.name: t for t in gguf.GGUFReader(made.folder / "model.gguf").tensors}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.tensor_type == after[name].tensor_type
        assert np.array_equal(tensor.data, after[name].data), name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "mlx", "compressed_tensors"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_blocks_of_32_go_to_other_formats_code_for_code(form: str, kind: str, tmp_path: Path) -> None:
    write_foreign(tmp_path / "foreign.gguf", "qwen3", dict.fromkeys(K_M, kind))
    model = load(tmp_path / "foreign.gguf")
    (made,) = compiler.convert(model, [form], compiler.KEEP, tmp_path / form, verify=False)
    again = load(made.folder)
    for role, tensor in model.tensors.items():
        found = again.tensors[role]
        assert np.array_equal(to_numpy(found), to_numpy(tensor)), role
        if isinstance(tensor, Packed) and isinstance(found, Packed):
            rows = slice(0, tensor.shape[0])
            assert np.array_equal(found.block(rows.start, rows.stop).codes, tensor.block(rows.start, rows.stop).codes)


def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_foreign(tmp_path / "foreign.gguf", "qwen3", K_M)
    model = load(tmp_path / "foreign.gguf")
    with pytest.raises(Unsupported, match=r"q4_k|q5_k|q6_k") as caught:
        compiler.convert(model, ["onnx"], compiler.KEEP, tmp_path / "onnx")
    assert "--requantize" in caught.value.cure
    with pytest.raises(Unsupported, match="second time"):
        compiler.convert(model, ["onnx"], "q4", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
    (made,) = compiler.convert(model, ["onnx"], "q4", tmp_path / "onnx", requantize=True, verify=False)
    assert any("second time" in note for note in made.receipt["notes"])
    assert {stored_as(t) for r, t in load(made.folder).tensors.items() if roles.facts(r).quantize} == {"int4-g32-f16"}


def test_llama3_scaling_is_recognised_by_its_divisors(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
    write_foreign(tmp_path / "foreign.gguf", "llama", {}, rope_scaling=scaling)
    rope = load(tmp_path / "foreign.gguf").spec.rope
    assert (rope.scaling, rope.factor, rope.original_context) == ("llama3", 32.0, 8192)


def test_a_scaling_of_nobody_is_refused(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 3.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    write_foreign(tmp_path / "foreign.gguf", "llama", {}, rope_scaling=scaling)
    with pytest.raises(Unsupported, match="rope_freqs"):
        load(tmp_path / "foreign.gguf")


def test_the_sample_comes_back_from_its_gguf_alone(sample: Path, tmp_path: Path) -> None:
    """Without slmops.json beside it: the same config, tokenizer and template as the source's."""
    source = load(sample)
    (made,) = compiler.convert(source, ["gguf"], "q8", tmp_path / "made", verify=False)
    shutil.copy(made.folder / "model.gguf", tmp_path / "alone.gguf")
    model = load(tmp_path / "alone.gguf")
    assert model.spec == source.spec
    assert model.chat_template == source.chat_template
    assert (model.tokenizer.eos, model.tokenizer.adds_bos) == (source.tokenizer.eos, False)
    text = (sample / "eval" / "text.txt").read_text(encoding="utf-8")[:4000] + "<|im_start|>é e\u0301 12 \n\n  x<|im_end|>"
    ids = source.tokenizer.encoder.encode(text, add_special_tokens=False).ids
    assert model.tokenizer.encoder.encode(text, add_special_tokens=False).ids == ids
    assert model.tokenizer.encoder.decode(ids) == source.tokenizer.encoder.decode(ids)


def test_an_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnknownFamily, match="mamba"):
        load(tmp_path / "other.gguf")


def test_json_of_the_tokenizer_is_what_the_library_takes(tmp_path: Path) -> None:
    write_foreign(tmp_path / "foreign.gguf", "qwen2", {})
    tokenizer = load(tmp_path / "foreign.gguf").tokenizer
    assert json.loads(tokenizer.json)["model"]["type"] == "BPE"
    assert tokenizer.encoder.encode("a<tok3>", add_special_tokens=False).ids[-1] == 257 + 3
