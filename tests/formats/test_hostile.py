"""What no reader may take, tried on every one of them: a clear error of ours, soon, and without much memory."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy

import slmops
from slmops import compile as compiler
from slmops.core import plugins
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, UnknownFamily, Unsupported
from slmops.formats import _onnx_read

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("huggingface", "mlx", "compressed_tensors", "gptq", "awq", "bitnet", "onnx", "openvino")
SAFETENSORS = ("huggingface", "mlx", "compressed_tensors", "gptq", "awq", "bitnet")
SECONDS, MEMORY = 1.0, 256 << 20


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small valid input of a reader, made once, by bench/fuzzseeds.py."""
    spec = importlib.util.spec_from_file_location("fuzzseeds", ROOT / "bench" / "fuzzseeds.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzseeds"] = module
    spec.loader.exec_module(module)
    made: dict[str, Path] = {}

    def seed(reader: str) -> Path:
        if reader == "huggingface-wide":
            made[reader] = module.toy(tmp_path_factory.mktemp(reader) / "toy", **module.WIDE)
        elif reader not in made:
            made[reader] = next(module.make(reader, tmp_path_factory.mktemp(reader) / "seeds"))
        return made[reader]

    return seed


@pytest.fixture
def copy(seeds: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a reader's seed that a test may spoil: the folder, or the .gguf file."""

    def make(reader: str) -> Path:
        original = seeds(reader)
        folder = tmp_path / "model"
        folder.mkdir()
        for file in original.iterdir() if original.is_dir() else (original,):
            (folder / file.name).write_bytes(file.read_bytes())
        return folder if original.is_dir() else folder / original.name

    return make


def resident(anew: bool = False) -> int:
    """The most bytes that this process has held, `anew` from now on; 0 where the system does not say."""
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def refuses(path: Path, kinds: type[SlmopsError] | tuple[type[SlmopsError], ...], words: str = ".") -> None:
    """slmops.load ends in one of these errors, within a second and 256 MB."""
    before = resident(anew=True)
    began = time.process_time()
    with pytest.raises(kinds, match=words) as caught:
        slmops.load(path)
    assert time.process_time() - began < SECONDS
    assert resident() - before < MEMORY
    assert len(str(caught.value)) < 1000


def config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("reader", FOLDERS)
def test_links_out_of_the_folder(reader: str, copy: Callable[[str], Path]) -> None:
    """Every file in turn. One that no reader opens may be a link to anywhere: it is not followed, and nothing changes."""
    folder = copy(reader)
    outside = folder.parent / "outside"
    needed = 0
    for file in sorted(folder.iterdir()):
        file.rename(outside)
        file.symlink_to(outside)
        try:
            slmops.load(folder)
        except CorruptInput as error:
            assert "link" in str(error) and file.name in str(error)
            needed += 1
        file.unlink()
        outside.rename(file)
    assert needed >= 3
    slmops.load(folder)


@pytest.mark.parametrize("reader", SAFETENSORS)
def test_code_and_pickles(reader: str, copy: Callable[[str], Path]) -> None:
    folder = copy(reader)
    config(folder, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    refuses(folder, Unsupported, "remote code")
    config(folder, auto_map=None)
    slmops.load(folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never opened")
    refuses(folder, (Unsupported, SourceNotFound), "pickle|safetensors")


CONFIGS: dict[str, Callable[[Path], object]] = {
    "nested": lambda f: (f / "config.json").write_text('{"a":' * 200_000 + "1" + "}" * 200_000),
    "lists in lists": lambda f: (f / "config.json").write_text("[" * 1_000_000),
    "a number of a million digits": lambda f: (f / "config.json").write_text('{"hidden_size":' + "9" * 1_000_000 + "}"),
    "sixteen gigabytes": lambda f: (f / "config.json").open("r+b").truncate(1 << 34),
    "absurd layers": lambda f: config(f, num_hidden_layers=1 << 40),
    "absurd width": lambda f: config(f, hidden_size=1 << 60),
    "absurd vocabulary": lambda f: config(f, vocab_size=1 << 50),
    "no numbers": lambda f: config(f, hidden_size="64", num_attention_heads=[2], rms_norm_eps={"a": 1}),
    "not a number": lambda f: config(f, rms_norm_eps=float("nan")),
    "half a layer": lambda f: config(f, num_hidden_layers=0.5),
    "a path": lambda f: config(f, model_type="../../../etc/passwd"),
}


@pytest.mark.parametrize("what", CONFIGS)
@pytest.mark.parametrize("reader", SAFETENSORS)
def test_configs(reader: str, what: str, copy: Callable[[str], Path]) -> None:
    folder = copy(reader)
    CONFIGS[what](folder)
    refuses(folder, (CorruptInput, UnknownFamily))


def rewritten(path: Path, edit: Callable[[dict[str, Any]], str | None]) -> None:
    """The header of a safetensors file edited as JSON, or given as text."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    table = json.loads(data[8 : 8 + length])
    text = edit(table)
    head = (json.dumps(table) if text is None else text).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def twice(table: dict[str, Any]) -> str:
    name = next(key for key in table if key != "__metadata__")
    return json.dumps(table)[:-1] + f', "{name}": {json.dumps(table[name])}}}'


def each(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(table: dict[str, Any]) -> None:
        entry = next(value for key, value in table.items() if key != "__metadata__")
        entry.update(changes)

    return edit


def overlap(table: dict[str, Any]) -> None:
    first, second = [entry for key, entry in table.items() if key != "__metadata__"][:2]
    length = second["data_offsets"][1] - second["data_offsets"][0]
    second["data_offsets"] = [first["data_offsets"][0], first["data_offsets"][0] + length]


HEADERS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "a name twice": twice,
    "overlap": overlap,
    "absurd shape": each(shape=[1 << 62, 1 << 62]),
    "a billion axes": each(shape=[1] * 100_000),
    "negative": each(shape=[-1, -64]),
    "past the end": each(data_offsets=[0, 1 << 62]),
    "unknown dtype": each(dtype="F4"),
    "nested": lambda table: '{"a":' * 200_000 + "1" + "}" * 200_000,
}


@pytest.mark.parametrize("what", HEADERS)
@pytest.mark.parametrize("reader", SAFETENSORS)
def test_headers(reader: str, what: str, copy: Callable[[str], Path]) -> None:
    folder = copy(reader)
    rewritten(folder / "model.safetensors", HEADERS[what])
    refuses(folder, CorruptInput, "model.safetensors")


@pytest.mark.parametrize("length", [0, 1, 7, 1 << 31, 1 << 40, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("reader", SAFETENSORS)
def test_lengths_of_headers(reader: str, length: int, copy: Callable[[str], Path]) -> None:
    folder = copy(reader)
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refuses(folder, CorruptInput, "model.safetensors")


@pytest.mark.parametrize("reader", [*FOLDERS, "gguf"])
def test_weights_cut_at_any_place(reader: str, copy: Callable[[str], Path]) -> None:
    path = copy(reader)
    weights = {"onnx": "model.onnx.data", "openvino": "openvino_model.bin"}.get(reader, "model.safetensors")
    file = path if path.is_file() else path / weights
    whole = file.read_bytes()
    for part in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:part])
        # Without its first four bytes nothing tells that a file is GGUF.
        refuses(path, Unsupported if path.is_file() and part < 4 else CorruptInput)


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
XML = {
    "a billion laughs": f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a0 "ha">{LAUGHS}]><net>&a9;</net>',
    "a file from outside": '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;">&x;</net>',
    "nested": "<a>" * 50_000 + "</a>" * 50_000,
    "many": "<net>" + "<a/>" * 2_000_000 + "</net>",
    "no layers": "<net/>",
}


@pytest.mark.parametrize("what", XML)
def test_graphs_of_openvino(what: str, copy: Callable[[str], Path]) -> None:
    folder = copy("openvino")
    (folder / "openvino_model.xml").write_text(XML[what])
    refuses(folder, CorruptInput)


@pytest.mark.parametrize("number", [1, 5, 11, 15])
def test_graphs_of_onnx(number: int, copy: Callable[[str], Path]) -> None:
    """Two million empty nodes, initializers, inputs: two bytes each in the file, two hundred in memory."""
    folder, body = copy("onnx"), bytes([number << 3 | 2, 0]) * 2_000_000
    length = bytes([len(body) & 127 | 128, len(body) >> 7 & 127 | 128, len(body) >> 14 & 127 | 128, len(body) >> 21])
    (folder / "model.onnx").write_bytes(b"\x3a" + length + body)
    refuses(folder, CorruptInput, "MB of memory")


@pytest.mark.parametrize("field", [1, 2, 3, 4])
def test_names_in_onnx_that_are_no_text(field: int) -> None:
    """A node's input, output, name or operator; the name is looked at in graphs of GenAI's builder alone."""
    node = bytes([field << 3 | 2, 2]) + b"\xff\xfe"
    graph = bytes([1 << 3 | 2, len(node)]) + node
    with pytest.raises(CorruptInput, match="no text"):
        _onnx_read.parse(bytes([7 << 3 | 2, len(graph)]) + graph, "model.onnx")


TOKENIZERS = {
    "lists in lists": "[" * 1_000_000,
    "no object": '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": [1]}',
    "absurd id": '{"model": {"type": "BPE", "vocab": {"a": 18446744073709551615}, "merges": []}, "added_tokens": []}',
}


@pytest.mark.parametrize("what", TOKENIZERS)
@pytest.mark.parametrize("reader", FOLDERS)
def test_tokenizers(reader: str, what: str, copy: Callable[[str], Path]) -> None:
    folder = copy(reader)
    assert (folder / "tokenizer.json").exists()
    (folder / "tokenizer.json").write_text(TOKENIZERS[what])
    refuses(folder, CorruptInput)


def typed(file: Path, key: bytes, kind: int) -> tuple[bytearray, int]:
    """The bytes of a GGUF, the entry's type made another; and where its type stands."""
    data = bytearray(file.read_bytes())
    at = data.index(key) + len(key)
    array = struct.unpack_from("<I", data, at) == (9,)
    assert struct.unpack_from("<I", data, at + 4 * array)[0] == (5 if array else 4)  # i32 types, u32 ids
    struct.pack_into("<I", data, at + 4 * array, kind)
    return data, at


@pytest.mark.parametrize(("kind", "first"), [(6, b"\0\0\xc0\x7f"), (6, b"\0\0\x80\x7f"), (7, b"\x01\x01\x01\x01")])
def test_token_types_that_are_no_whole_numbers(kind: int, first: bytes, copy: Callable[[str], Path]) -> None:
    """NaN, infinity, truth values: found by the fuzzer."""
    file = copy("gguf")
    data, at = typed(file, b"tokenizer.ggml.token_type", kind)
    (count,) = struct.unpack_from("<Q", data, at + 8)
    data[at + 16 : at + 20] = first
    if kind == 7:  # truth values have one byte each
        del data[at + 16 + count : at + 16 + 4 * count]
    file.write_bytes(data)
    refuses(file, CorruptInput, "token_type" if kind == 6 else ".")


@pytest.mark.parametrize(("kind", "value"), [(6, b"\0\0\xc0\x7f"), (6, b"\0\0\x80?"), (5, b"\xff\xff\xff\xff")])
def test_special_ids_that_are_no_ids(kind: int, value: bytes, copy: Callable[[str], Path]) -> None:
    file = copy("gguf")
    data, at = typed(file, b"tokenizer.ggml.eos_token_id", kind)
    data[at + 4 : at + 8] = value
    file.write_bytes(data)
    refuses(file, CorruptInput, "eos_token_id" if kind == 6 else "eos id -1")


NAMED = {"mlx": "scales", "compressed_tensors": "weight_scale", "gptq": "scales", "awq": "scales", "bitnet": "weight_scale"}


@pytest.mark.parametrize("reader", NAMED)
def test_a_scale_that_is_no_number_is_named(reader: str, copy: Callable[[str], Path]) -> None:
    """Not while the header is read, but when its block is: with the tensor and where in it."""
    folder = copy(reader)
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    name = next(key for key in sorted(arrays) if key.endswith(f"down_proj.{NAMED[reader]}"))
    flat = arrays[name].reshape(-1)
    flat[0] = np.nan
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
    model = slmops.load(folder)
    with pytest.raises(CorruptInput, match=r"down_proj\.(weight_)?scales?: row 0"):
        model.tensors["layers.0.mlp.down"].rows(0, 32)


@pytest.mark.parametrize("scheme", ["q4_k_m", "q8", "q5_1"])
def test_a_gguf_block_whose_scale_is_no_number_is_named(scheme: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    """Whether its codes are looked into or passed on as they are."""
    (made,) = compiler.convert(slmops.load(copy("huggingface-wide")), ["gguf"], scheme, tmp_path / "made", verify=False)
    file = next(made.folder.glob("*.gguf"))
    place = next(one for one in gguf.GGUFReader(file).tensors if one.name == "blk.0.ffn_up.weight")
    width = place.n_bytes // int(place.shape[1])
    with file.open("r+b") as out:
        out.seek(place.data_offset + 5 * width)  # q4_k, q8_0 and q5_1 blocks begin with their scale
        out.write(b"\xff\x7f")
    model = slmops.load(file)
    with pytest.raises(CorruptInput, match=r"ffn_up\.weight: row 5 holds NaN"):
        model.tensors["layers.0.mlp.up"].block(0, 8)  # type: ignore[attr-defined]


PACKED = {**NAMED, "compressed_tensors": "weight_packed", "gptq": "qweight", "awq": "qweight"}
"""What tells these readers that a module is packed."""


@pytest.mark.parametrize("reader", PACKED)
def test_a_norm_that_says_it_is_packed(reader: str, copy: Callable[[str], Path]) -> None:
    folder = copy(reader)
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays[f"model.norm.{PACKED[reader]}"] = np.ones((8, 1), np.int32)
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
    refuses(folder, CorruptInput, "model.norm")


@pytest.mark.parametrize("said", [None, 3, "gptq", [], {}])
@pytest.mark.parametrize("reader", NAMED)
def test_a_reader_that_is_asked_for_by_name(reader: str, said: object, copy: Callable[[str], Path]) -> None:
    """On a folder whose config.json does not say what the guess goes by."""
    folder = copy(reader)
    config = json.loads((folder / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        config[key] = said
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SlmopsError):
        plugins.load("formats", reader).read(folder)
