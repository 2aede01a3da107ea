"""ONNX folders: places, graph, the files around it, reading back, hostile files, the proof copy. No engine is opened."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from checkpoints import save_receipt
from slmops import stream
from slmops.core import plugins, receipt
from slmops.core.errors import CorruptInput, SlmopsError, UnknownFamily, Unsupported, UsageError
from slmops.core.layout import Layout
from slmops.core.model import Model
from slmops.core.scheme import Packed
from slmops.core.tensor import Lazy
from slmops.formats import _onnx_genai, _onnx_graph, huggingface
from slmops.formats import onnx as container
from slmops.passes.quantize import chooser, quantize

Toy = Callable[..., Path]
SCHEMES = ("q4", "q8", "q4a", "w8a8", "int4-g64-zero-f16", "int8-g32-zero-f16", *container.DENSE)
WINDOW = {"sliding_window": 24}


def model_of(toy: Toy, family: str, stored: str, **changes: object) -> Model:
    return quantize(huggingface.read(toy(family, **changes)), chooser(stored))


def write(model: Model, folder: Path, **options: Any) -> tuple[Path, Layout, stream.Digests]:
    folder.mkdir(parents=True, exist_ok=True)
    layout = container.plan(model, **options)
    digests = stream.write(model, {"onnx": layout}, {"onnx": folder})
    save_receipt(model, "onnx", digests, folder)
    return folder, layout, digests


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = model_of(toy, "qwen3", "q4")
    return model, write(model, tmp_path_factory.mktemp("onnx") / "q4")[0]


@pytest.fixture
def copy(made: tuple[Model, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "copy"))


def graph_of(folder: Path, name: str = "model.onnx") -> Any:
    return onnx.load(folder / name, load_external_data=False)


@pytest.mark.parametrize("stored", SCHEMES)
def test_every_byte_has_one_place(toy: Toy, stored: str) -> None:
    layout = container.plan(model := model_of(toy, "qwen3", stored))
    spans = [(offset, offset + len(data)) for _, offset, data in layout.literals]
    for role, regions in layout.regions.items():
        rows = model.tensors[role].shape[0]
        spans += [(region.offset, region.offset + rows * region.unit_bytes) for region in regions]
    assert all(start % (4096 if stop - start >= 4096 else 64) == 0 for start, stop in spans)
    spans.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert spans[-1][1] == layout.sizes["model.onnx.data"]
    assert set(layout.regions) == set(model.tensors)


@pytest.mark.parametrize("stored", SCHEMES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_reads_back_what_was_written(toy: Toy, tmp_path: Path, family: str, stored: str) -> None:
    model = model_of(toy, family, stored)
    folder, _, digests = write(model, tmp_path / "out")
    again = container.read(folder)
    assert (again.name, again.spec, again.tokenizer.eos) == (model.name, model.spec, model.tokenizer.eos)
    assert set(again.tensors) == set(model.tensors)
    for role, tensor in again.tensors.items():
        assert isinstance(tensor, Packed) == isinstance(model.tensors[role], Packed)
        if isinstance(tensor, Packed):
            assert tensor.scheme.name.startswith(("int8", "w8a8") if "8" in stored else "int4")
        crc = [stream.digest(stream.pull(tensor, *span)) for span in stream.blocks(tensor, again.spec.row_multiple)]
        assert crc == digests[role]["crc"][stream.form_of(tensor)], role


def test_is_known_by_its_files(made: tuple[Model, Path], tmp_path: Path) -> None:
    assert container.detect(made[1])
    assert not container.detect(tmp_path)
    assert not container.detect(made[1] / "model.onnx")


def test_plan_is_the_same_every_time(toy: Toy) -> None:
    first, second = (container.plan(model_of(toy, "llama", "q4a")) for _ in range(2))
    assert first.files == second.files
    assert first.literals == second.literals


def test_graph_is_valid_and_fused(toy: Toy, made: tuple[Model, Path]) -> None:
    proto = graph_of(made[1])
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(names) == len(set(names))
    kinds = [node.op_type for node in proto.graph.node]
    layers = made[0].spec.layers
    assert kinds.count("GroupQueryAttention") == layers
    assert kinds.count("MatMulNBits") == 7 * layers + 1
    assert kinds.count("SkipSimplifiedLayerNormalization") == 2 * layers
    assert "Add" not in kinds  # every residual sum went into a norm
    known = {value.name for value in proto.graph.input} | set(names)
    for node in proto.graph.node:
        assert all(not name or name in known for name in node.input), node.name
        known |= set(node.output)
    assert {value.name for value in proto.graph.output} <= known
    read = {name for node in proto.graph.node for name in node.input}
    assert set(names) <= read, "an initializer that nobody reads"


def test_only_the_last_position_is_computed_for_generation(made: tuple[Model, Path]) -> None:
    last, every = (graph_of(made[1], name).graph for name in ("model.onnx", "logits.onnx"))
    positions = [graph.output[0].type.tensor_type.shape.dim[1] for graph in (last, every)]
    assert [dim.dim_value or dim.dim_param for dim in positions] == [1, "sequence_length"]
    assert {node.op_type for node in last.node} - {node.op_type for node in every.node} == {"Max", "Unsqueeze", "GatherND"}


def test_tied_head_shares_the_bytes_of_the_embedding(made: tuple[Model, Path]) -> None:
    tensors = {tensor.name: tensor for tensor in graph_of(made[1]).graph.initializer}
    flat, blocks = tensors["embedding.codes"], tensors["embedding.codes.blocks"]
    assert flat.external_data == blocks.external_data
    assert (len(flat.dims), len(blocks.dims)) == (2, 3)


def test_a_scale_a_row_is_multiplied_by_whole_numbers(toy: Toy) -> None:
    """The layers' matrices; the embedding and the head that shares its codes stay in blocks, which other providers know."""
    model = model_of(toy, "qwen3", "w8a8")
    kinds = [node.op_type for node in onnx.load_from_string(container.plan(model).files["model.onnx"]).graph.node]
    assert kinds.count("DynamicQuantizeMatMul") == 7 * model.spec.layers
    assert kinds.count("MatMulNBits") == kinds.count("GatherBlockQuantized") == 1
    other = onnx.load_from_string(container.plan(model, provider="cuda").files["model.onnx"]).graph.node
    assert not any(node.op_type == "DynamicQuantizeMatMul" for node in other)


def test_window_reaches_the_attention(toy: Toy) -> None:
    layout = container.plan(model_of(toy, "mistral", "q4", **WINDOW))
    graph = onnx.load_model_from_string(layout.files["model.onnx"]).graph
    nodes = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert {a.i for node in nodes for a in node.attribute if a.name == "local_window_size"} == {24}


@pytest.mark.parametrize("provider", ["cuda", "dml", "qnn"])
def test_other_providers_compute_in_float16(toy: Toy, tmp_path: Path, provider: str) -> None:
    model = model_of(toy, "llama", "q4")
    folder, layout, _ = write(model, tmp_path / provider, provider=provider)
    proto = graph_of(folder)
    kinds = {node.op_type for node in proto.graph.node}
    types = {value.name: value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    assert types["past_key_values.0.key"] == onnx.TensorProto.FLOAT16
    assert types["logits"] == onnx.TensorProto.FLOAT
    assert ("RotaryEmbedding" in kinds) == ("position_ids" in types) == (provider == "dml")
    options = json.loads(layout.files["genai_config.json"])["model"]["decoder"]["session_options"]["provider_options"]
    assert [name for entry in options for name in entry] == [provider]
    assert any("processor only" in note for note in layout.notes)
    assert set(container.read(folder).tensors) == set(model.tensors)


def test_genai_config_says_everything(toy: Toy) -> None:
    model = model_of(toy, "qwen3", "q4")
    config = json.loads(container.plan(model, max_length=128).files["genai_config.json"])
    spec, inner = model.spec, config["model"]
    assert (inner["type"], inner["vocab_size"], inner["context_length"]) == ("qwen3", spec.vocab, spec.context)
    assert inner["eos_token_id"] == model.tokenizer.eos[0]
    assert inner["decoder"]["head_size"] == spec.head_dim
    assert inner["decoder"]["num_key_value_heads"] == spec.kv_heads
    assert config["search"]["max_length"] == 128
    assert json.loads(container.plan(model).files["genai_config.json"])["search"]["max_length"] == min(spec.context, 4096)


def test_options_are_checked(toy: Toy) -> None:
    model = model_of(toy, "qwen3", "q4")
    with pytest.raises(UsageError, match="tpu"):
        container.plan(model, provider="tpu")
    with pytest.raises(UsageError, match="context"):
        container.plan(model, max_length=model.spec.context + 1)


def test_impossible_pairs_are_refused_while_planning(toy: Toy) -> None:
    with pytest.raises(Unsupported, match="bf16") as caught:
        container.plan(model_of(toy, "llama", "bf16"))
    assert "f16" in caught.value.cure
    llama = plugins.load("architectures", "llama")
    with pytest.raises(Unsupported, match="multiples of 16"):
        container.support(llama.spec({**llama.TOY, "head_dim": 24}))


def test_matrices_that_cannot_be_packed_stay_exact(toy: Toy, tmp_path: Path) -> None:
    model = model_of(toy, "llama", "q4", hidden_size=144)
    folder, layout, digests = write(model, tmp_path / "odd")
    assert any(note.startswith("embedding stays in bf16") for note in layout.notes)
    again = container.read(folder).tensors["embedding"]
    assert again.dtype == np.float32
    assert stream.digest(again.rows(0, again.shape[0])) == digests["embedding"]["crc"][stream.PLAIN][0]


def test_foundry_local_gets_its_file(toy: Toy) -> None:
    layout = container.plan(model_of(toy, "qwen3", "q4"))
    content = json.loads(layout.files["inference_model.json"])
    assert content["PromptTemplate"]["user"] == "<|im_start|>user\n{Content}<|im_end|>\n"
    assert set(content) == {"Name", "Description", "Version", "PromptTemplate", "ModelConfig"}
    assert set(content["PromptTemplate"]) == {"system", "user", "assistant", "prompt"}
    assert content["Name"]


def test_foundry_local_is_told_why_not(toy: Toy) -> None:
    model = model_of(toy, "qwen3", "q4")
    files, notes = _onnx_genai.foundry(dataclasses.replace(model, chat_template=None))
    assert not files
    assert "no chat template" in notes[0]
    merged = "{{ messages[-1].content }}"
    files, notes = _onnx_genai.foundry(dataclasses.replace(model, name="a:b", chat_template=merged))
    assert not files and "no inference_model.json" in notes[0]


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("stored", ["q4", "f16", "w8a8"])
def test_twin_computes_in_f32(toy: Toy, tmp_path: Path, provider: str, stored: str) -> None:
    folder, *_ = write(model_of(toy, "llama", stored), tmp_path / "source", provider=provider)
    twin = container.twin(folder, tmp_path / "twin")
    assert {path.name for path in twin.iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("model.onnx", "logits.onnx"):
        graph = graph_of(twin, name).graph
        for node in graph.node:
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            assert attributes.get("accuracy_level", 0) == 0 and node.op_type != "DynamicQuantizeMatMul"
            assert node.op_type != "Cast" or attributes["to"] != onnx.TensorProto.FLOAT16
        assert all(value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT16 for value in (*graph.input, *graph.output))
    assert (twin / "model.onnx.data").read_bytes() == (folder / "model.onnx.data").read_bytes()


def spoil(folder: Path, change: Callable[[Any], None]) -> None:
    proto = graph_of(folder)
    change(proto.graph)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())


def external(graph: Any, name: str) -> dict[str, Any]:
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    return {entry.key: entry for entry in tensor.external_data}


def place(key: str, value: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        external(graph, "layers.0.mlp.up.codes")[key].value = value

    return change


def dims(*sizes: int) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == "layers.0.mlp.up.codes")
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    return change


def attribute(name: str, value: int) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        node = next(node for node in graph.node if node.op_type == "MatMulNBits")
        next(a for a in node.attribute if a.name == name).i = value

    return change


def rename(graph: Any) -> None:
    node = next(node for node in graph.node if node.op_type == "MatMulNBits")
    node.input[1] = "layers.9.mlp.up.codes"


@pytest.mark.parametrize(
    "change",
    [
        place("offset", "-4096"),
        place("offset", str(1 << 62)),
        place("offset", "x"),
        place("length", str(1 << 62)),
        place("length", "-1"),
        place("location", "../model.onnx.data"),
        place("location", "/etc/hostname"),
        dims(1 << 40, 1 << 40, 16),
        dims(-1, 4, 16),
        dims(128, 8, 16),
        attribute("bits", 3),
        attribute("block_size", 128),
        attribute("bits", 8),
        rename,
    ],
    ids=lambda change: getattr(change, "__qualname__", "")[:20],
)
def test_hostile_graphs_are_refused(copy: Path, change: Callable[[Any], None]) -> None:
    spoil(copy, change)
    with pytest.raises((CorruptInput, Unsupported)):
        container.read(copy)


def test_hostile_rows_are_refused(toy: Toy, tmp_path: Path) -> None:
    """A scale a row: the product's inputs, and what turns its codes, are as hostile as blocks are."""
    folder, *_ = write(model_of(toy, "qwen3", "w8a8"), tmp_path / "rows")
    kept = (folder / "model.onnx").read_bytes()

    def first(graph: Any, kind: str) -> Any:
        return next(node for node in graph.node if node.op_type == kind)

    for change in (
        lambda graph: first(graph, "Transpose").ClearField("input"),
        lambda graph: first(graph, "DynamicQuantizeMatMul").ClearField("input"),
        lambda graph: first(graph, "DynamicQuantizeMatMul").input.__setitem__(2, "embedding.codes"),
        lambda graph: first(graph, "Transpose").input.__setitem__(0, "embedding.codes"),
    ):
        spoil(folder, change)
        with pytest.raises(SlmopsError):
            container.read(folder)
        (folder / "model.onnx").write_bytes(kept)
    assert set(container.read(folder).tensors)


def test_truncated_and_foreign_files_are_refused(copy: Path) -> None:
    data = copy / "model.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptInput, match="ends before"):
        container.read(copy)
    data.write_bytes(content)
    proto = (copy / "model.onnx").read_bytes()
    for broken in (b"", proto[: len(proto) // 3], b"\xff" * 100):
        (copy / "model.onnx").write_bytes(broken)
        with pytest.raises(SlmopsError):
            container.read(copy)
    (copy / "model.onnx").write_bytes(proto)
    facts = receipt.load(copy)
    receipt.save(copy, {**facts, "config": {"model_type": "mamba"}})
    with pytest.raises(UnknownFamily):
        container.read(copy)


def test_plan_needs_no_weight(toy: Toy) -> None:
    def never(start: int, stop: int) -> Any:
        raise AssertionError("a weight was read while planning")

    model = huggingface.read(toy("qwen3"))
    blind = {role: Lazy(tensor.shape, tensor.dtype, never) for role, tensor in model.tensors.items()}
    container.plan(quantize(dataclasses.replace(model, tensors=blind), chooser("q4")))


def test_names_of_codes_cannot_collide_with_roles() -> None:
    assert _onnx_graph.BLOCKS.startswith(_onnx_graph.CODES)
