"""OpenVINO IR: places, shapes as the real runtime infers them, reading back, hostile files, tokenizer models."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import pytest

from slmops import stream
from slmops.core import scheme
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.core.layout import Layout
from slmops.core.model import Model
from slmops.core.scheme import Codes, Packed
from slmops.formats import (
    _encode,
    _openvino_ir,
    _openvino_read,
    _openvino_tokenizer,
    _openvino_weights,
    huggingface,
    openvino,
)
from slmops.passes.quantize import chooser, quantize

Toy = Callable[..., Path]
SCHEMES = ("q4", "w8a8", "q8", "q4a", "f32", "f16", "bf16")
WINDOW = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}


def model_of(toy: Toy, family: str, stored: str, **changes: object) -> Model:
    return quantize(huggingface.read(toy(family, **changes)), chooser(stored))


def without_jobs(layout: Layout) -> Layout:
    return dataclasses.replace(layout, side_jobs=())


def write(model: Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    stream.write(model, {"openvino": without_jobs(openvino.plan(model))}, {"openvino": folder})
    return folder


@pytest.mark.parametrize("stored", SCHEMES)
def test_every_byte_has_one_place(toy: Toy, stored: str) -> None:
    layout = openvino.plan(model := model_of(toy, "qwen3", stored))
    size = layout.sizes["openvino_model.bin"]
    spans = [(offset, offset + len(data)) for _, offset, data in layout.literals]
    for role, regions in layout.regions.items():
        rows = model.tensors[role].shape[0]
        spans += [(r.offset, r.offset + -(-rows // r.unit_rows) * r.unit_bytes) for r in regions]
    assert all(start % _openvino_ir.ALIGNMENT == 0 for start, _ in spans)
    spans.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert spans[-1][1] == size
    assert set(layout.regions) == set(model.tensors)


def test_planning_needs_no_openvino(toy: Toy) -> None:
    code = (
        "import sys, pathlib; from slmops.core import scheme; from slmops.formats import huggingface, openvino\n"
        "from slmops.passes.quantize import chooser, quantize\n"
        "openvino.plan(quantize(huggingface.read(pathlib.Path(sys.argv[1])), chooser('q4')))\n"
        "assert 'openvino' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(toy("qwen3"))], check=True, timeout=120)


@pytest.mark.parametrize("stored", SCHEMES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_reads_back_code_for_code(toy: Toy, tmp_path: Path, family: str, stored: str) -> None:
    model = model_of(toy, family, stored)
    back = openvino.read(write(model, tmp_path))
    assert openvino.detect(tmp_path)
    assert back.spec == model.spec
    assert back.chat_template == model.chat_template
    assert (back.tokenizer.bos, back.tokenizer.eos, back.tokenizer.pad) == (
        model.tokenizer.bos, model.tokenizer.eos, model.tokenizer.pad,
    )  # fmt: skip
    assert list(back.tensors) == list(model.tensors)
    for role, tensor in model.tensors.items():
        read = back.tensors[role]
        assert read.shape == tensor.shape, role
        kinds = {"q4": "int4-g32-f16", "q8": "int8-g32-f16", "q4a": "int4-g32-zero-f16"}
        assert scheme.stored_as(read) == ("f32" if len(tensor.shape) == 1 else kinds.get(stored, stored)), role
        for start, stop in ((0, tensor.shape[0]), (8, min(40, tensor.shape[0]))):
            if isinstance(tensor, Packed):
                assert isinstance(read, Packed)
                assert read.block(start, stop).digest() == tensor.block(start, stop).digest(), role
            else:
                assert np.array_equal(read.rows(start, stop).astype("f4"), tensor.rows(start, stop).astype("f4")), role


def stepped(toy: Toy, **changes: object) -> Model:
    """w8a8 with a step for every matrix that is multiplied, the input's own for query, key and value."""
    model = model_of(toy, "qwen3", "w8a8", **changes)
    kinds = {"query": 0.01, "key": 0.01, "value": 0.01, "output": 1e-3, "gate": 0.3, "up": 0.3, "down": 2.5e4}
    steps = {role: kinds.get(role.rsplit(".", 1)[-1], 0.02) for role in model.tensors if "norm" not in role}
    if not model.spec.tied:
        del steps["embedding"]
    return dataclasses.replace(model, steps={role: float(np.float32(step)) for role, step in steps.items()})


@pytest.mark.parametrize("tied", [True, False])
def test_steps_of_activations_read_back(toy: Toy, tmp_path: Path, tied: bool) -> None:
    model = stepped(toy, tie_word_embeddings=tied)
    back = openvino.read(write(model, tmp_path))
    assert back.steps == model.steps and len(back.steps) == 3 * 7 + 1
    for role, tensor in model.tensors.items():
        read = back.tensors[role]
        if isinstance(tensor, Packed):
            assert isinstance(read, Packed) and read.block(0, 32).digest() == tensor.block(0, 32).digest(), role
    text = (tmp_path / openvino.XML).read_text()
    # One for query, key and value, and for gate and up.
    assert text.count('type="FakeQuantize"') == 3 * 4 + 1 and "DYNAMIC_QUANTIZATION_GROUP_SIZE" not in text


@pytest.mark.parametrize(
    ("before", "after"),
    [('levels="256"', 'levels="16"'), ('levels="256"', 'levels="x"'), ('to-port="3"', 'to-port="9"')],
)
def test_activations_that_are_rounded_otherwise_are_refused(toy: Toy, tmp_path: Path, before: str, after: str) -> None:
    path = write(stepped(toy), tmp_path) / openvino.XML
    text = path.read_text()
    start = text.index('type="FakeQuantize"')
    number = text[text.rindex('<layer id="', 0, start) :].split('"')[1]
    if "port" in before:
        before, after = f'to-layer="{number}" {before}', f'to-layer="{number}" {after}'
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises((Unsupported, CorruptInput), match=r"rounds in another way|not OpenVINO's IR"):
        openvino.read(tmp_path)


def test_zero_points_run_on_over_odd_rows() -> None:
    zeros = np.arange(24, dtype=np.uint8).reshape(8, 3) % 16
    block = Codes(np.zeros((8, 48), np.uint8), np.ones((8, 3), np.float32), zeros)
    assert _encode.zeros(4, padded=False)(block).ravel().tolist() == [
        low | high << 4 for low, high in zip(zeros.ravel()[0::2], zeros.ravel()[1::2], strict=True)
    ]


def test_an_odd_number_of_groups_reads_back(toy: Toy, tmp_path: Path) -> None:
    model = model_of(toy, "qwen3", "q4a", hidden_size=96)
    back = openvino.read(write(model, tmp_path))
    tensor, read = model.tensors["layers.1.attention.query"], back.tensors["layers.1.attention.query"]
    assert isinstance(tensor, Packed) and isinstance(read, Packed)
    assert tensor.block(0, 8).scales.shape == (8, 3)
    for rows in ((0, 128), (32, 64), (33, 36)):
        assert read.block(*rows).digest() == tensor.block(*rows).digest()


@pytest.mark.parametrize(
    ("family", "changes"), [("qwen3", {}), ("llama", {}), ("qwen2", WINDOW), ("mistral", {"sliding_window": 24})]
)
def test_shapes_are_those_that_the_runtime_infers(toy: Toy, tmp_path: Path, family: str, changes: dict[str, object]) -> None:
    ov = pytest.importorskip("openvino")
    folder = write(model_of(toy, family, "q4", **changes), tmp_path)
    root = ElementTree.parse(folder / openvino.XML).getroot()
    written = {
        layer.attrib["name"]: (port.attrib["precision"], [int(dim.text or "") for dim in port.iterfind("dim")])
        for layer in root.iterfind("layers/layer")
        for port in layer.iterfind("output/port")
    }
    seen = 0
    for node in ov.Core().read_model(folder / openvino.XML).get_ops():
        if node.get_type_name() in ("Result", "Assign"):
            continue
        precision, dims = written[node.get_friendly_name()]
        inferred = node.output(0)
        assert [size.get_length() if size.is_static else -1 for size in inferred.get_partial_shape()] == dims, node
        assert precision == _openvino_ir.PRECISIONS[inferred.get_element_type().to_string()]
        seen += 1
    assert seen > 200


def test_each_matrix_has_a_zero_point_of_its_own(toy: Toy) -> None:
    # One shared with the embedding would become f32 in the CPU plugin, and every matrix slow.
    xml = openvino.plan(model := model_of(toy, "qwen2", "q4a")).files[openvino.XML]
    matrices = sum(isinstance(tensor, Packed) for tensor in model.tensors.values())
    assert len(re.findall(rb'name="[^"]*/zero_point"', xml)) == matrices


def test_companions(toy: Toy) -> None:
    model = model_of(toy, "qwen3", "q4")
    files = openvino.plan(model).files
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} < set(files)
    assert files["tokenizer.json"] == model.tokenizer.json


def test_what_does_not_fit_is_refused(toy: Toy) -> None:
    with pytest.raises(Unsupported, match="q6_k"):
        openvino.plan(model_of(toy, "qwen3", "q6_k", hidden_size=256))


# Hostile files.


@pytest.fixture
def folder(toy: Toy, tmp_path: Path) -> Path:
    return write(model_of(toy, "qwen3", "q4"), tmp_path)


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / openvino.XML
    text = path.read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    path.write_text(changed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<net ", '<!DOCTYPE net [<!ENTITY a "aaaa">]><net '),
        (r'offset="\d+"', 'offset="999999999999"'),
        (r'offset="\d+"', 'offset="-64"'),
        (r'size="\d\d\d+"', 'size="7"'),
        (r'shape="320,4,32"', 'shape="320,4,4000000000"'),
        (r'shape="320,4,32"', 'shape="320,-4,-32"'),
        (r'shape="320,4,32"', 'shape="320,4,x"'),
        (r'from-layer="\d+"', 'from-layer="99999999"'),
        (r'to-layer="\d+"', 'to-layer="99999999"'),
        (r'name="model.layers.1.mlp.up_proj.weight"', 'name="other"'),
        (r"</layers>", ""),
        (r'type="Const"', ""),
        (r'shape="320,4,32"', 'shape="160,8,32"'),
    ],
)
def test_hostile_headers_are_refused(folder: Path, old: str, new: str) -> None:
    edit(folder, old, new)
    with pytest.raises((CorruptInput, Unsupported)):
        openvino.read(folder)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_xml_raises_our_errors_only(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = folder / openvino.XML
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 30):
        content[place] = rng.integers(32, 127)
    path.write_bytes(bytes(content))
    try:
        for tensor in openvino.read(folder).tensors.values():
            tensor.rows(0, 8)
    except SlmopsError:
        pass


def test_a_short_bin_is_refused(folder: Path) -> None:
    path = folder / _openvino_weights.BIN
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptInput, match="outside"):
        openvino.read(folder)


def test_utf16_does_not_hide_a_document_type() -> None:
    with pytest.raises(CorruptInput):
        _openvino_read.parse('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE net><net/>'.encode("utf-16"), 0)


# Tokenizer models.

TEXTS = (
    "", " ", "Hello world", "  leading and   inner   spaces  ", "tab\tand\nlines\n\n\n end\r\n x", "naïve café — “quotes” ½",
    "日本語のテキスト、中文字符。한국어", "emoji 👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u00e9", "def f(x):\n    return x**2  # комментарий\n",
    "1234567890 3.14 ٣٤٥", "don't I'LL we've", "<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|> b <|im_end|>  c",
    "\u200b\ufeff\u00a0nbsp\u3000x", "مرحبا שלום हिन्दी ไทย", "ﬁ Ａ ①", "\x01\x7f control", "a" * 300, "  \n  \n\t ",
)  # fmt: skip


@pytest.mark.slow
def test_tokenizer_models_give_the_same_ids(toy: Toy, tmp_path: Path) -> None:
    genai = pytest.importorskip("openvino_genai")
    pytest.importorskip("openvino_tokenizers")
    import tokenizers

    model = huggingface.read(toy("qwen3"))
    for name, content in openvino.plan(model).files.items():
        (tmp_path / name).write_bytes(content)
    _openvino_tokenizer.convert(_openvino_tokenizer.request(model), model.tokenizer.json, tmp_path)
    theirs, ours = tokenizers.Tokenizer.from_str(model.tokenizer.json.decode()), genai.Tokenizer(tmp_path)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False).input_ids.data.reshape(-1).tolist() == ids, repr(text)
        assert ours.encode(text).input_ids.data.reshape(-1).tolist() == theirs.encode(text).ids, repr(text)
        assert (ours.decode(ids) if ids else "") == theirs.decode(ids), repr(text)
    assert ours.get_eos_token_id() == model.tokenizer.eos[0]
    assert ours.get_pad_token_id() == model.tokenizer.pad
    assert ours.chat_template == model.chat_template
    # The models carry the template themselves.
    assert b"chat_template" in (tmp_path / "openvino_tokenizer.xml").read_bytes()


@pytest.mark.slow
def test_an_unknown_tokenizer_is_unsupported(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("openvino_tokenizers")
    model = huggingface.read(toy("qwen3"))
    content, text = _openvino_tokenizer.request(model), model.tokenizer.json.replace(b'"BPE"', b'"Novel"')
    with pytest.raises(Unsupported, match="cannot convert this tokenizer"):
        _openvino_tokenizer.convert(content, text, tmp_path)


def test_bf16_stays_bf16(toy: Toy, tmp_path: Path) -> None:
    back = openvino.read(write(model_of(toy, "qwen2", "bf16"), tmp_path))
    assert back.tensors["head"].dtype == np.dtype(ml_dtypes.bfloat16)
