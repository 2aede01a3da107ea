"""Models that slmops did not make, in the registry: described by their headers, opened by their names, with lineage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from conftest import write_toy
from needs import needs
from slmops import cli, generate, load, run
from slmops import compile as compiler
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, Unsupported, UsageError
from slmops.core.tensor import to_numpy
from slmops.registry import Registry, contents, lineage, plain
from slmops.registry.references import named

MB = 1_000_000
QWEN = {
    "README.md": 10_000, "LICENSE": 11_000, ".gitattributes": 1500, "config.json": 700, "generation_config.json": 200,
    "model.safetensors.index.json": 30_000, "model-00001-of-00002.safetensors": 400 * MB,
    "model-00002-of-00002.safetensors": 300 * MB, "tokenizer.json": 11 * MB, "tokenizer_config.json": 9000,
    "merges.txt": 2 * MB, "vocab.json": 3 * MB, "figures/bench.png": 100_000,
}  # fmt: skip
QUANTS = {
    "README.md": 10_000, "params": 80, "x-Q4_K_M.gguf": 400 * MB, "x-Q8_0.gguf": 600 * MB, "x-UD-IQ2_XXS.gguf": 200 * MB,
    "BF16/x-BF16-00001-of-00002.gguf": 800 * MB, "BF16/x-BF16-00002-of-00002.gguf": 700 * MB, "mmproj-F16.gguf": 90 * MB,
}  # fmt: skip
GRAPHS = {
    "README.md": 10_000, "LICENSE": 1000, "cpu/int4/genai_config.json": 2000, "cpu/int4/model.onnx": MB,
    "cpu/int4/model.onnx.data": 300 * MB, "cpu/int4/tokenizer.json": 7 * MB, "cuda/fp16/genai_config.json": 2000,
    "cuda/fp16/model.onnx": MB, "cuda/fp16/model.onnx.data": 900 * MB, "cuda/fp16/configuration_phi.py": 9000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("listing", "variant", "patterns", "weights"),
    [
        (QWEN, None, (), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        ({**QWEN, **QUANTS}, None, (), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (QUANTS, "q4_k_m", (), ["x-Q4_K_M.gguf"]),
        (QUANTS, "UD-IQ2_XXS", (), ["x-UD-IQ2_XXS.gguf"]),
        (QUANTS, "bf16", (), ["BF16/x-BF16-00001-of-00002.gguf", "BF16/x-BF16-00002-of-00002.gguf"]),
        (QUANTS, "x-Q8_0.gguf", (), ["x-Q8_0.gguf"]),
        (QUANTS, None, ("*Q8*",), ["x-Q8_0.gguf"]),
        (GRAPHS, "int4", (), ["cpu/int4/model.onnx", "cpu/int4/model.onnx.data"]),
        (GRAPHS, "cuda/fp16", (), ["cuda/fp16/model.onnx", "cuda/fp16/model.onnx.data"]),
    ],
)
def test_what_of_a_repository_is_meant(
    listing: dict[str, int], variant: str | None, patterns: tuple[str, ...], weights: list[str]
) -> None:
    found = contents.choose(listing, "org/x", variant, patterns)
    assert list(found.weights) == weights and found.nbytes == sum(listing[name] for name in weights)
    assert "README.md" in found.others and not any(name.endswith((".py", ".png")) for name in found.others)
    assert not {".gitattributes", "params"} & set(found.others)


def test_what_is_not_clear_or_not_there_is_said() -> None:
    for listing, count in ((QUANTS, 4), (GRAPHS, 2)):
        with pytest.raises(UsageError, match=f"{count} models") as unclear:
            contents.choose(listing, "org/x")
        assert unclear.value.cure.count("MB") + unclear.value.cure.count("GB") == count
    with pytest.raises(UsageError, match="2 Q4_K_M"):
        contents.choose({"a-Q4_K_M.gguf": 1, "b-Q4_K_M.gguf": 1}, "org/x", "Q4_K_M")
    with pytest.raises(Unsupported, match="pickle"):
        contents.choose({"config.json": 1, "pytorch_model.bin": 1}, "org/x")
    with pytest.raises(Unsupported, match="LoRA"):
        contents.choose({"adapter_config.json": 1, "adapter_model.safetensors": 1}, "org/x")
    with pytest.raises(SourceNotFound, match=r"\.h5"):
        contents.choose({"tf_model.h5": 1}, "org/x")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy("qwen3", tmp_path_factory.mktemp("source") / "Tiny-0.5B")


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model in a format, without its receipt: as another tool would leave it."""
    out = tmp_path_factory.mktemp("made")

    def make(form: str) -> Path:
        folder = out / form
        if not folder.exists():
            (one,) = compiler.convert(load(source), [form], "q4", folder, verify=False)
            (one.folder / "slmops.json").unlink()
            return one.folder
        return folder

    return make


def ask(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    monkeypatch.setenv("SLMOPS_HOME", str(home))
    assert cli.main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_name_is_taken_for_a_path_everywhere(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(tmp_path, monkeypatch, capsys, "models", "add", source)
    assert ask(tmp_path, monkeypatch, capsys, "inspect", "tiny-0.5b")["name"] == "Tiny-0.5B"
    ask(
        tmp_path,
        monkeypatch,
        capsys,
        "convert",
        "tiny-0.5b",
        "--to",
        "gguf",
        "--quantize",
        "q4",
        "--no-verify",
        "--name",
        "q4",
    )
    with Registry.open(tmp_path) as registry:
        parent, child = registry.resolve("tiny-0.5b"), registry.resolve("q4")
        (edge,) = lineage.edges(registry, child)
        assert (edge.child, edge.parent, edge.role) == (child, parent, "source")
        assert registry.manifest(child).ours("name") == "Tiny-0.5B"


@pytest.mark.parametrize("form", ["gguf", "mlx", "openvino", "compressed_tensors"])
def test_what_our_readers_read_is_filed(form: str, made: Callable[[str], Path], tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        digest = registry.add(made(form), named(f"x:{form.replace('_', '-')}"))
        (row,) = registry.rows()
        assert (row.format, row.family, row.verified) == (form, "qwen3", 0) and "4" in row.scheme
        config = registry.document(registry.manifest(digest).config)
        assert config["config"]["paramSize"] and config["config"]["quantization"] == row.scheme
        folder = registry.place(digest)
        assert load(folder).parameters == load(made(form)).parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "modules"), [("gguf", "xllamacpp"), ("onnx", "onnxruntime_genai"), ("openvino", "openvino_genai")]
)
def test_engines_open_them(form: str, modules: str, made: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip(modules)
    with Registry.open(tmp_path) as registry:
        folder = registry.place(registry.add(made(form), named("x")))
    assert run.Artifact.open(folder).format == form
    assert "".join(generate(folder, "hello", sampling=run.Sampling(max_tokens=4)))


@pytest.fixture(scope="module")
def cut(made: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF in several files, by ggml's own writer."""
    folder = tmp_path_factory.mktemp("cut")
    reader = gguf.GGUFReader(made("gguf") / "model.gguf")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(folder / "tiny-Q4_0.gguf", architecture, split_max_tensors=10)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def test_a_gguf_in_several_files_is_one_model(cut: Path, made: Callable[[str], Path], tmp_path: Path) -> None:
    names = sorted(path.name for path in cut.iterdir())
    assert len(names) > 2 and names[0].endswith(f"-00001-of-{len(names):05}.gguf")
    whole, parts = load(made("gguf")), load(cut)
    assert whole.tensors.keys() == parts.tensors.keys()
    for role, tensor in whole.tensors.items():
        assert np.array_equal(to_numpy(tensor), to_numpy(parts.tensors[role])), role
    with Registry.open(tmp_path) as registry:
        found = registry.manifest(registry.add(cut / names[1], named("x")))
        assert [layer.path for layer in found.layers] == names
    lacking = tmp_path / "lacking"
    shutil.copytree(cut, lacking, ignore=lambda _, all_of: [names[1]])
    with pytest.raises(SlmopsError):
        load(lacking)
    with pytest.raises(SourceNotFound, match=names[1]):
        load(lacking / names[0])
    shutil.copyfile(cut / names[0], lacking / names[1])
    with pytest.raises(CorruptInput, match="repeats"):
        load(lacking / names[0])


@pytest.mark.slow
@needs("xllamacpp")
def test_llama_cpp_opens_several_files(cut: Path) -> None:
    assert "".join(generate(cut, "hello", sampling=run.Sampling(max_tokens=4)))


@pytest.mark.slow
@needs("torch", "onnxruntime_genai")
def test_a_graph_that_cannot_be_lifted_is_filed_as_it_is_and_runs(tmp_path: Path) -> None:
    folder = write_toy("phi3", tmp_path / "toy", rope_scaling=None, sliding_window=None)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(tmp_path / "built")]
    command += ["-p", "int4", "-e", "cpu", "-c", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with pytest.raises(SlmopsError):
        load(tmp_path / "built")
    with Registry.open(tmp_path / "home") as registry:
        placed = registry.place(registry.add(tmp_path / "built", named("phi")))
        (row,) = registry.rows()
        assert (row.format, row.scheme, row.family) == ("onnx", plain.AS_IS, "phi3")
    assert "".join(generate(placed, "hello", sampling=run.Sampling(max_tokens=4)))


def test_hostile_folders_are_refused(source: Path, tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        for number, (name, content) in enumerate({
            "model.safetensors": b"\xff" * 64,
            "config.json": b"[1]",
            "tokenizer.json": b"{",
        }.items()):  # fmt: skip
            folder = tmp_path / str(number)
            shutil.copytree(source, folder)
            (folder / name).write_bytes(content)
            with pytest.raises(SlmopsError):
                registry.add(folder, named("x"))
        outside = tmp_path / "linked"
        shutil.copytree(source, outside)
        (outside / "config.json").unlink()
        (outside / "config.json").symlink_to(source / "config.json")
        with pytest.raises(CorruptInput, match="link"):
            registry.add(outside, named("x"))
        assert not registry.rows()
