"""GGUF: written files against gguf-py's reader and de-quantization, read back code for code, hostile headers, tokenizers."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as gguf_py
import numpy as np
import pytest

from checkpoints import save_receipt
from slmops import stream
from slmops.core import plugins, receipt, roles, scheme
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, Unsupported
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.core.tensor import to_numpy
from slmops.formats import _gguf_blocks, _gguf_container, _gguf_tokenizer, _ollama, gguf, huggingface
from slmops.passes.quantize import chooser, quantize
from slmops.quantize._affine import packed

Toy = Callable[..., Path]
TOKENIZERS = Path(__file__).resolve().parent.parent / "data" / "tokenizers"
FAMILIES = [name for name in plugins.names("architectures") if plugins.load("architectures", name).GGUF]
SCHEMES = ("q4", "q8", "q4a", "f16", "bf16", "f32")


def write(model: Model, folder: Path) -> dict[str, dict[str, object]]:
    """The model as a GGUF folder, as `slmops convert` leaves it."""
    folder.mkdir()
    digests = stream.write(model, {"gguf": gguf.plan(model)}, {"gguf": folder})
    save_receipt(model, "gguf", digests, folder)
    return digests


def changed(model: Model, change: Callable[[dict[str, Any]], None]) -> Model:
    """The model with another tokenizer.json."""
    data = json.loads(model.tokenizer.json)
    change(data)
    return dataclasses.replace(model, tokenizer=dataclasses.replace(model.tokenizer, json=json.dumps(data).encode()))


@pytest.fixture
def small(toy: Toy) -> Model:
    return huggingface.read(toy("qwen3"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SCHEMES)
def test_reads_back_code_for_code(toy: Toy, tmp_path: Path, family: str, name: str) -> None:
    model = quantize(huggingface.read(toy(family)), chooser(name))
    digests = write(model, tmp_path / "out")
    assert gguf.detect(tmp_path / "out")
    back = gguf.read(tmp_path / "out")
    assert set(back.tensors) == set(model.tensors)
    assert back.spec == model.spec
    for role, tensor in back.tensors.items():
        blocks = [stream.pull(tensor, *rows) for rows in stream.blocks(tensor, back.spec.row_multiple)]
        offset = stream.offset_of(model, role)
        assert [stream.digest(block, offset) for block in blocks] == digests[role]["crc"][stream.form_of(tensor)], role
    assert back.chat_template == model.chat_template
    assert (back.tokenizer.eos, back.tokenizer.pad) == (model.tokenizer.eos, model.tokenizer.pad)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SCHEMES)
def test_reference_reader_finds_the_same_numbers(toy: Toy, tmp_path: Path, family: str, name: str) -> None:
    reference = pytest.importorskip("gguf")
    model = quantize(huggingface.read(toy(family)), chooser(name))
    write(model, tmp_path / "out")
    reader = reference.GGUFReader(tmp_path / "out" / gguf.FILE)
    held = _gguf_container.parse(tmp_path / "out" / gguf.FILE)
    assert {tensor.name for tensor in reader.tensors} == set(held.tensors)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert set(fields) == set(held.metadata)
    for key in ("general.architecture", "general.file_type", "tokenizer.ggml.model", "tokenizer.ggml.tokens"):
        assert fields[key].contents() == held.metadata[key].value
    permuted = plugins.load("architectures", family).GGUF_PERMUTED
    for tensor in reader.tensors:
        place = held.tensors[tensor.name]
        assert (int(tensor.data_offset), tensor.tensor_type.name) == (place.offset, place.kind.name)
        assert place.offset % _gguf_container.ALIGNMENT == 0
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    for role, tensor in model.tensors.items():
        theirs = by_name[gguf.name(role)]
        values = reference.quants.dequantize(theirs.data, theirs.tensor_type).reshape(tensor.shape)
        ours = to_numpy(tensor) + np.float32(model.spec.norm_offset if roles.is_norm(role) else 0)
        if any(role.endswith(kind) for kind in permuted):
            # conversion/llama.py of llama.cpp: LlamaModel.permute
            heads = tensor.shape[0] // model.spec.head_dim
            ours = ours.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        assert np.array_equal(values, ours), role


def test_biases_are_permuted_too(toy: Toy, tmp_path: Path) -> None:
    model = huggingface.read(toy("llama", attention_bias=True, mlp_bias=True))
    write(model, tmp_path / "out")
    back = gguf.read(tmp_path / "out")
    for role, tensor in model.tensors.items():
        assert np.array_equal(to_numpy(back.tensors[role]), to_numpy(tensor)), role


def test_llama3_scaling_becomes_a_tensor_and_linear_an_entry(toy: Toy, tmp_path: Path) -> None:
    model = huggingface.read(toy("llama"))
    write(model, tmp_path / "out")
    place = _gguf_container.parse(tmp_path / "out" / gguf.FILE).tensors[gguf.ROPE_FREQS]
    values = np.fromfile(tmp_path / "out" / gguf.FILE, "<f4", place.shape[0], offset=place.offset)
    assert np.array_equal(values, model.spec.rope.divisors())
    assert values.min() == 1 and values.max() == 8
    linear = huggingface.read(toy("llama", rope_scaling={"rope_type": "linear", "factor": 4.0}))
    write(linear, tmp_path / "linear")
    held = _gguf_container.parse(tmp_path / "linear" / gguf.FILE)
    assert held.metadata["llama.rope.scaling.type"].value == "linear"
    assert held.metadata["llama.rope.scaling.factor"].value == 4.0
    assert gguf.ROPE_FREQS not in held.tensors


def test_columns_that_no_group_divides_stay_dense(toy: Toy, tmp_path: Path) -> None:
    model = quantize(huggingface.read(toy("qwen3", intermediate_size=272)), chooser("q4"))
    write(model, tmp_path / "out")
    kinds = {key: place.kind.name for key, place in _gguf_container.parse(tmp_path / "out" / gguf.FILE).tensors.items()}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("BF16", "Q4_0")
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_twin_holds_the_dequantized_numbers(toy: Toy, tmp_path: Path) -> None:
    model = quantize(huggingface.read(toy("llama")), chooser("q4a"))
    write(model, tmp_path / "out")
    file = gguf.twin(tmp_path / "out", tmp_path / "twin")
    whole, twin = (_gguf_container.parse(path) for path in (tmp_path / "out" / gguf.FILE, file))
    assert twin.entries == whole.entries
    assert {place.kind.name for place in twin.tensors.values()} == {"F32"}
    assert file.stat().st_size % _gguf_container.ALIGNMENT == 0
    # The twin is a GGUF of the same model, so it can be read as one.
    (tmp_path / "twin" / receipt.NAME).write_bytes((tmp_path / "out" / receipt.NAME).read_bytes())
    back = gguf.read(tmp_path / "twin")
    for role, tensor in model.tensors.items():
        assert np.array_equal(to_numpy(back.tensors[role]), to_numpy(tensor)), role


def test_sizes_are_known_before_anything_is_read(toy: Toy, tmp_path: Path) -> None:
    model = quantize(huggingface.read(toy("qwen2")), chooser("q4"))
    layout = gguf.plan(model)
    write(model, tmp_path / "out")
    assert (tmp_path / "out" / gguf.FILE).stat().st_size == layout.sizes[gguf.FILE]
    ends = [
        region.offset + model.tensors[role].shape[0] * region.unit_bytes
        for role, regions in layout.regions.items()
        for region in regions
    ]
    assert max(ends) <= layout.sizes[gguf.FILE]


def test_what_llama_cpp_cannot_do_is_refused_while_planning(toy: Toy) -> None:
    for folder, words in (
        (toy("qwen2", head_dim=64), "hidden size"),
        (toy("qwen3", attention_bias=True), "bias"),
        (toy("qwen3", rope_scaling=plugins.load("architectures", "llama").TOY["rope_scaling"]), "divisors"),
    ):
        with pytest.raises(Unsupported, match=words) as caught:
            gguf.plan(huggingface.read(folder))
        assert caught.value.cure
    assert not any("positions" in note for note in gguf.plan(huggingface.read(toy("mistral", sliding_window=512))).notes)
    assert any(
        "64 of 512 positions" in note for note in gguf.plan(huggingface.read(toy("mistral", sliding_window=64))).notes
    )


# ---- blocks


def test_nibble_order_of_q4_0() -> None:
    codes = np.arange(32, dtype=np.uint8) % 16
    packed = (codes[0::2] | codes[1::2] << 4)[None]
    block = Codes(packed, np.full((1, 1), -0.5, np.float32))
    data = _gguf_blocks.q4_0(block).view(np.uint8).reshape(-1)
    assert data[:2].view(np.float16)[0] == -0.5
    assert [int(byte) for byte in data[2:]] == [int(codes[j] | codes[j + 16] << 4) for j in range(16)]


@pytest.mark.parametrize("name", _gguf_blocks.AFFINE)
def test_blocks_there_and_back(name: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((16, 512)).astype(np.float32)
    values[3] = 0
    codes = scheme.load(name).quantize(values) if not name.startswith("tq") else ternary(rng)
    data = _gguf_blocks.ENCODERS[name](codes).view(np.uint8).reshape(16, -1)
    assert _gguf_blocks.parse(name, data).digest() == codes.digest()
    theirs = gguf_py.quants.dequantize(data, gguf_py.GGMLQuantizationType[name.upper()])
    assert np.array_equal(theirs, scheme.load(name).dequantize(codes))
    both = _gguf_blocks.permute(_gguf_blocks.permute(codes, 8), 8, back=True)
    assert isinstance(both, Codes) and both.digest() == codes.digest()


def ternary(rng: np.random.Generator) -> Codes:
    codes = packed(rng.integers(0, 3, (16, 512)).astype(np.uint8), 2)
    return Codes(codes, rng.standard_normal((16, 2)).astype(np.float16).astype(np.float32))


def test_blocks_that_no_scheme_makes_are_refused() -> None:
    broken = np.zeros((1, 18), np.uint8)
    broken[0, :2] = np.array([np.inf], np.float16).view(np.uint8)
    with pytest.raises(CorruptInput, match="scale"):
        _gguf_blocks.parse("q4_0", broken)
    odd = np.full((1, 66), 255, np.uint8)
    odd[0, 64:] = 0
    with pytest.raises(CorruptInput, match="ternary"):
        _gguf_blocks.parse("tq2_0", odd)


# ---- hostile files


@pytest.fixture(scope="module")
def written(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("written") / "out"
    write(quantize(huggingface.read(toy("qwen3")), chooser("q4")), folder)
    return (folder / gguf.FILE).read_bytes()


def test_hostile_headers_are_refused_before_memory_is_taken(written: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"

    def refused(data: bytes, words: str, kind: type[SlmopsError] = CorruptInput) -> None:
        file.write_bytes(data)
        with pytest.raises(kind, match=words):
            _gguf_container.parse(file)

    refused(b"", "not a GGUF")
    refused(b"GGUX" + written[4:], "not a GGUF")
    refused(written[:4] + struct.pack("<I", 2) + written[8:], "version", Unsupported)
    refused(written[:8] + struct.pack("<Q", 1 << 60) + written[16:], "tensors")
    refused(written[:16] + struct.pack("<Q", 1 << 60) + written[24:], "entries")
    refused(written[:24] + struct.pack("<Q", 1 << 62) + written[32:], "string")
    refused(written[: len(written) // 2], "outside the file")
    refused(written[:200], "header")
    place = written.index(b"blk.0.attn_norm.weight") + len(b"blk.0.attn_norm.weight")
    axes = place + 4
    refused(written[:place] + struct.pack("<I", 9) + written[place + 4 :], "axes")
    refused(written[:axes] + struct.pack("<Q", 1 << 50) + written[axes + 8 :], "cannot be")
    refused(written[: axes + 8] + struct.pack("<I", 77) + written[axes + 12 :], "type 77", Unsupported)
    refused(written[: axes + 12] + struct.pack("<Q", 0) + written[axes + 20 :], "overlaps")
    refused(written[: axes + 12] + struct.pack("<Q", 1 << 62) + written[axes + 20 :], "outside")
    with pytest.raises(SourceNotFound):
        _gguf_container.parse(tmp_path / "absent.gguf")


def test_damaged_headers_never_escape_as_anything_else(written: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    rng = random.Random(5)
    end = written.index(b"output_norm.weight") + 200
    for _ in range(300):
        data = bytearray(written)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(end)] = rng.randrange(256)
        file.write_bytes(data)
        try:
            held = _gguf_container.parse(file)
            assert all(place.offset + place.nbytes <= len(data) for place in held.tensors.values())
        except SlmopsError:
            pass


def test_a_sidecar_must_match_and_need_not_be_there(toy: Toy, tmp_path: Path) -> None:
    write(huggingface.read(toy("qwen3")), tmp_path / "out")
    file = tmp_path / "out" / receipt.NAME
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "config": {**facts["config"], "num_hidden_layers": 2}}))
    with pytest.raises(CorruptInput, match="not"):
        gguf.read(tmp_path / "out")
    file.write_text(json.dumps({**facts, "config": {**facts["config"], "model_type": "llama"}}))
    with pytest.raises(CorruptInput, match="llama"):
        gguf.read(tmp_path / "out")
    file.unlink()
    assert gguf.read(tmp_path / "out").spec.family == "qwen3"


# ---- tokenizers


def entries(model: Model) -> dict[str, Any]:
    return {key: value.value for key, value in _gguf_tokenizer.metadata(model).entries.items()}


def test_padded_vocabulary_and_special_ids(small: Model) -> None:
    found = entries(small)
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == small.spec.vocab
    assert tokens[-1] == f"[PAD{small.spec.vocab - 1}]" and types[-1] == _gguf_tokenizer.UNUSED
    end = found["tokenizer.ggml.eos_token_id"]
    assert tokens[end] == "<|im_end|>" and types[end] == _gguf_tokenizer.CONTROL
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["slmops.normalizer"] == "NFC"
    assert found["tokenizer.chat_template"] == small.chat_template


def splitting(*stages: dict[str, Any], regex: bool = False, **model: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*stages, last]}
        data["model"].update(model)

    return change


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
    r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (splitting(split(LLAMA3), ignore_merges=True), "llama-bpe"),
        (splitting(split(LLAMA3)), "smaug-bpe"),
        (splitting(regex=True), "gpt-2"),
        (splitting({"type": "Digits", "individual_digits": True}, regex=True), "smollm"),
        (splitting(split(TEKKEN), ignore_merges=True), "tekken"),
    ],
)
def test_pre_tokenizers_are_recognised(small: Model, change: Callable[[dict[str, Any]], None], name: str) -> None:
    assert entries(changed(small, change))["tokenizer.ggml.pre"] == name


def test_ignore_merges_matters_only_where_merging_cannot_make_a_word(small: Model) -> None:
    assert entries(changed(small, splitting(regex=True, ignore_merges=True)))["tokenizer.ggml.pre"] == "gpt-2"

    def unreachable(data: dict[str, Any]) -> None:
        splitting(regex=True, ignore_merges=True)(data)
        data["model"]["vocab"]["zqzqzq"] = len(data["model"]["vocab"]) + 5

    with pytest.raises(Unsupported, match="ignore_merges"):
        entries(changed(small, unreachable))


def test_what_cannot_be_said_exactly_is_refused(small: Model) -> None:
    def unigram(data: dict[str, Any]) -> None:
        data["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}

    def lower(data: dict[str, Any]) -> None:
        data["normalizer"] = {"type": "Lowercase"}

    def twice(data: dict[str, Any]) -> None:
        data["added_tokens"].append({**data["added_tokens"][0], "id": small.spec.vocab - 1})

    for change, words in (
        (splitting(split(r"\w+|[^\w\s]+")), "no name for this tokenizer's splitting"),
        (unigram, "Unigram"),
        (lower, "does not change text"),
        (twice, "two tokens"),
    ):
        with pytest.raises(Unsupported, match=words) as caught:
            entries(changed(small, change))
        assert caught.value.cure


def test_sentencepiece_merges_become_scores(small: Model) -> None:
    text = gzip.decompress((TOKENIZERS / "phi3" / "tokenizer.json.gz").read_bytes())
    model = dataclasses.replace(
        small,
        spec=dataclasses.replace(small.spec, vocab=32064),
        tokenizer=dataclasses.replace(small.tokenizer, json=text, bos=1, eos=(32000,), pad=None),
    )
    found = entries(model)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.add_space_prefix"]) == ("llama", True)
    types, tokens = found["tokenizer.ggml.token_type"], found["tokenizer.ggml.tokens"]
    assert types[tokens.index("<0x0A>")] == _gguf_tokenizer.BYTE
    assert types[tokens.index("<unk>")] == _gguf_tokenizer.CONTROL or types[tokens.index("<unk>")] == _gguf_tokenizer.UNKNOWN
    scores = dict(zip(tokens, found["tokenizer.ggml.scores"], strict=True))
    merges = [merge.split(" ") for merge in json.loads(text)["model"]["merges"]]
    assert all(scores[a + b] >= scores[c + d] for (a, b), (c, d) in itertools.pairwise(merges))

    def reordered(data: dict[str, Any]) -> None:
        # A second way to make a token, far from the first, cannot be told by one score.
        merges = data["model"]["merges"]
        seen: dict[str, int] = {}
        for number, merge in enumerate(merges):
            token = merge.replace(" ", "")
            if token in seen:
                merges.append(merges.pop(number))
                return
            seen[token] = number

    with pytest.raises(Unsupported, match="do not stand together"):
        entries(changed(model, reordered))


# ---- Modelfile


def renderer(template: str) -> _ollama.Render:
    return _ollama._renderer(template, "<s>", "</s>")


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML


def test_modelfile_names_file_template_and_stops(small: Model) -> None:
    text = gguf.plan(small).files["Modelfile"].decode()
    assert "FROM ./model.gguf\n" in text and 'PARAMETER stop "<|im_end|>"' in text
    assert "<|im_start|>user\n{{ .Content }}<|im_end|>\n" in text
    bare = dataclasses.replace(small, chat_template="{{ messages | length }}")
    layout = gguf.plan(bare)
    assert "\nTEMPLATE" not in layout.files["Modelfile"].decode()
    assert any("TEMPLATE" in note for note in layout.notes)


def test_default_system_message_is_kept_for_who_gives_none() -> None:
    pieces = _ollama.find(renderer(DEFAULT))
    assert pieces is not None
    go = pieces.go()
    assert go is not None and "{{ else }}" in go and "Be kind." in go


def test_start_of_text_is_left_to_the_tokenizer(small: Model) -> None:
    tokenizer = dataclasses.replace(small.tokenizer, bos=small.tokenizer.eos[0], adds_bos=True)
    model = dataclasses.replace(small, chat_template="{{ bos_token }}" + CHATML, tokenizer=tokenizer)
    text = gguf.plan(model).files["Modelfile"].decode()
    assert 'TEMPLATE """{{ if .System }}<|im_start|>system' in text


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system') if messages[0].role == 'system' }}" + CHATML,
        "{{ strftime_now('%d %b %Y') }}" + CHATML,
        CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"),
        CHATML.replace("{{ m.content }}", "{{ m.content }}{{ loop.index }}"),
        CHATML.replace("<|im_start|>", "{{ '{{' }}"),
        "{{ ",
    ],
)
def test_templates_that_go_could_not_repeat_are_left_out(small: Model, template: str) -> None:
    layout = gguf.plan(dataclasses.replace(small, chat_template=template))
    assert "\nTEMPLATE" not in layout.files["Modelfile"].decode()


def test_end_of_a_text_that_asks_for_nothing_may_differ() -> None:
    template = CHATML.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")
    assert _ollama.find(renderer(template)) is None
    assert _ollama.find(_ollama._renderer(template, "", "qzENDzq"), ends="qzENDzq") is not None


def test_packed_tensors_come_back_packed(toy: Toy, tmp_path: Path) -> None:
    write(quantize(huggingface.read(toy("llama")), chooser("q8")), tmp_path / "out")
    back = gguf.read(tmp_path / "out" / gguf.FILE)
    tensor = back.tensors["layers.0.attention.query"]
    assert isinstance(tensor, Packed) and tensor.scheme.name == "q8_0"
