"""LoRA adapters: merged as PEFT merges, and beside the weights in the file of each engine, loaded by that engine."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slmops import compile as compiler
from slmops import load
from slmops.core.errors import CorruptInput, SlmopsError, Unsupported
from slmops.core.model import Model
from slmops.core.tensor import to_numpy
from slmops.engines import Options
from slmops.formats import _lora, _peft, gguf, onnx
from slmops.ops.numpy import Reference
from slmops.passes.merge import beside, merge

Toy = Callable[..., Path]
IDS = [int(i) for i in np.random.default_rng(4).integers(3, 300, 48)]
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def lora(folder: Path, model: Model, *, rank: int = 4, alpha: float = 16.0, **said: Any) -> Path:
    """An adapter as PEFT saves one, written without the code under test: random pairs on three matrices of each layer."""
    rng, arrays = np.random.default_rng(7), {}
    ranks = said.get("rank_pattern", {})
    shapes = {"self_attn.q_proj": "attention.query", "self_attn.v_proj": "attention.value", "mlp.down_proj": "mlp.down"}
    for number in range(model.spec.layers):
        for name, kind in shapes.items():
            rows, columns = model.tensors[f"layers.{number}.{kind}"].shape
            own = ranks.get(name.split(".")[1], rank)
            stem = f"base_model.model.model.layers.{number}.{name}"
            arrays[f"{stem}.lora_A.weight"] = (rng.standard_normal((own, columns)) * 0.1).astype(np.float32)
            arrays[f"{stem}.lora_B.weight"] = (rng.standard_normal((rows, own)) * 0.1).astype(np.float32)
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none",
              "target_modules": [name.split(".")[1] for name in TARGETS], **said}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture
def plain(toy: Toy, tmp_path: Path) -> Model:
    """A toy in plain f32 numbers, so that nothing is rounded on the way."""
    (made,) = compiler.convert(load(toy("llama", rope_scaling=None)), ["huggingface"], "f32", tmp_path / "f32", verify=False)
    return load(made.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 3}}],
    ids=["", "rs", "mixed"],
)
def test_the_merge_gives_the_logits_of_peft(said: dict[str, Any], plain: Model, tmp_path: Path) -> None:
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    folder = lora(tmp_path / "lora", plain, **said)
    judge = transformers.AutoModelForCausalLM.from_pretrained(plain.source["path"], dtype=torch.float32)
    before = judge(torch.tensor([IDS])).logits.detach().numpy()[0]
    judge = peft.PeftModel.from_pretrained(judge, folder).eval()
    with torch.no_grad():
        expected = judge(torch.tensor([IDS])).logits.numpy()[0]
    merged = Reference(merge(plain, _peft.read(folder, plain.spec))).logits(IDS)
    assert relative(merged, expected) < 1e-5 < 0.05 < relative(before, expected)


def test_rows_merge_alike_wherever_blocks_begin(plain: Model, tmp_path: Path) -> None:
    merged = merge(plain, _peft.read(lora(tmp_path / "lora", plain), plain.spec)).tensors["layers.1.mlp.down"]
    assert np.allclose(np.concatenate([merged.rows(0, 40), merged.rows(40, 128)]), to_numpy(merged), rtol=0, atol=1e-7)


def artifact(form: str, plain: Model, tmp_path: Path, scheme: str = "q8", **said: Any) -> tuple[Model, Path, np.ndarray]:
    """The model in codes, its folder with the adapter beside, and the logits that the two together should give."""
    source = beside(plain, _peft.read(lora(tmp_path / "lora", plain, **said), plain.spec))
    planned = compiler.plan(source, [form], scheme)
    (made,) = compiler.convert(source, [form], scheme, tmp_path / form, verify=False)
    numbers = {role: to_numpy(tensor) for role, tensor in planned.model.tensors.items()}
    assert source.adapter is not None
    for role, pair in source.adapter.pairs.items():
        numbers[role] = numbers[role].astype(np.float32) + pair.scale * (pair.b @ pair.a)
    from slmops.core.tensor import Constant

    whole = Model(**{**planned.model.__dict__, "tensors": {role: Constant(values) for role, values in numbers.items()}})
    without = Reference(planned.model).logits(IDS)
    expected = Reference(whole).logits(IDS)
    assert relative(without, expected) > 0.05
    return planned.model, made.folder, expected


@pytest.mark.slow
@pytest.mark.parametrize("said", [{}, {"rank_pattern": {"v_proj": 2}}], ids=["one rank", "two ranks"])
def test_llama_cpp_takes_its_adapter(said: dict[str, Any], plain: Model, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from slmops.engines import llamacpp

    _, folder, expected = artifact("gguf", plain, tmp_path, **said)
    twin = gguf.twin(folder, tmp_path / "twin")
    session = llamacpp.open(twin.parent, Options(proof=True, device="cpu", threads=2, context=256))
    package = importlib.util.find_spec("xllamacpp")
    assert package is not None and package.submodule_search_locations
    raw = ctypes.CDLL(str(next(Path(package.submodule_search_locations[0]).glob("xllamacpp*.so"))))
    raw.llama_adapter_lora_init.restype = ctypes.c_void_p
    raw.llama_adapter_lora_init.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    raw.llama_set_adapters_lora.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    adapter = raw.llama_adapter_lora_init(session._model, str(folder / _lora.GGUF_FILE).encode())
    assert adapter
    handles, scales = (ctypes.c_void_p * 1)(adapter), (ctypes.c_float * 1)(1.0)
    assert raw.llama_set_adapters_lora(session._context, handles, 1, scales) == 0
    found = session.logits(IDS, [len(IDS)])
    session.close()
    assert relative(found, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("said", [{}, {"rank_pattern": {"v_proj": 2}}], ids=["one rank", "two ranks"])
def test_mlx_takes_its_adapter(said: dict[str, Any], plain: Model, tmp_path: Path) -> None:
    mx, mlx_lm = pytest.importorskip("mlx.core"), pytest.importorskip("mlx_lm")
    _, folder, expected = artifact("mlx", plain, tmp_path, scheme="f32", **said)
    with mx.stream(mx.cpu):
        model, _ = mlx_lm.load(str(folder), adapter_path=str(folder / _lora.FOLDER))
        found = np.array(model(mx.array([IDS])).astype(mx.float32))[0]
    assert relative(found, expected) < 1e-4


@pytest.mark.slow
def test_onnx_runtime_takes_its_adapter(plain: Model, tmp_path: Path) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    model, folder, expected = artifact("onnx", plain, tmp_path)
    base = Reference(model).logits(IDS)
    onnx.twin(folder, tmp_path / "twin")
    opened = og.Model(str(tmp_path / "twin"))
    adapters = og.Adapters(opened)
    adapters.load(str(folder / _lora.ONNX_FILE), "tuned")

    def last(active: bool) -> np.ndarray:
        settings = og.GeneratorParams(opened)
        settings.set_search_options(max_length=100)
        generator = og.Generator(opened, settings)
        if active:
            generator.set_active_adapter(adapters, "tuned")
        generator.append_tokens(np.array([IDS], np.int32))
        return np.array(generator.get_logits()).reshape(-1, model.spec.vocab)[-1]

    assert relative(last(False), base[-1]) < 1e-4
    assert relative(last(True), expected[-1]) < 1e-4


@pytest.mark.slow
def test_peft_takes_what_stands_beside_plain_safetensors(plain: Model, tmp_path: Path) -> None:
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    _, folder, expected = artifact("huggingface", plain, tmp_path, scheme="f32", rank_pattern={"v_proj": 2})
    judge = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    judge = peft.PeftModel.from_pretrained(judge, folder / _lora.FOLDER).eval()
    with torch.no_grad():
        assert relative(judge(torch.tensor([IDS])).logits.numpy()[0], expected) < 1e-4


def test_codes_take_no_merge(plain: Model, tmp_path: Path) -> None:
    (made,) = compiler.convert(plain, ["gguf"], "q8", tmp_path / "gguf", verify=False)
    model = load(made.folder)
    with pytest.raises(Unsupported, match="quantized already") as caught:
        merge(model, _peft.read(lora(tmp_path / "lora", plain), model.spec))
    assert "--beside" in caught.value.cure


def spoiled(folder: Path, key: str, value: Any) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("peft_type", "IA3"), ("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("r", 8), ("r", None),
     ("lora_alpha", "x"), ("lora_alpha", float("nan")), ("lora_alpha", 0), ("rank_pattern", [1])],
)  # fmt: skip
def test_what_is_no_plain_lora_is_refused(key: str, value: Any, plain: Model, tmp_path: Path) -> None:
    folder = lora(tmp_path / "lora", plain)
    spoiled(folder, key, value)
    with pytest.raises(SlmopsError):
        _peft.read(folder, plain.spec)


@pytest.mark.parametrize("what", ["half", "nan", "other", "shape", "empty", "cut", "gone"])
def test_damaged_adapters_are_refused(what: str, plain: Model, tmp_path: Path) -> None:
    folder = lora(tmp_path / "lora", plain)
    file = folder / "adapter_model.safetensors"
    arrays = load_file(file)
    key = next(iter(arrays))
    if what == "half":
        del arrays[key]
    elif what == "nan":
        arrays[key][0, 0] = np.nan
    elif what == "other":
        arrays["base_model.model.model.layers.77.mlp.up_proj.lora_A.weight"] = arrays[key]
    elif what == "shape":
        arrays[key] = arrays[key][:, :-1].copy()
    elif what == "empty":
        arrays = {}
    save_file(arrays, file)
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    if what == "gone":
        shutil.move(file, folder / "adapter_model.bin")
    with pytest.raises((CorruptInput, SlmopsError)):
        _peft.read(folder, plain.spec)


def test_the_command_merges(plain: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from slmops import cli

    folder = lora(tmp_path / "lora", plain)
    words = ["convert", str(plain.source["path"]), "--to", "huggingface", "--quantize", "f32", "--no-verify"]

    def run(*more: str) -> int:
        return cli.main([*words, *more])

    assert run("--adapter", str(folder), "-o", str(tmp_path / "merged")) == 0
    expected = merge(plain, _peft.read(folder, plain.spec))
    for role in ("layers.0.attention.query", "layers.0.mlp.up"):
        found = load(tmp_path / "merged").tensors[role]
        assert np.array_equal(to_numpy(found), to_numpy(expected.tensors[role]))
    assert run("--beside", "-o", str(tmp_path / "x")) == 2
    assert run("--adapter", str(folder), "--beside", "-o", str(tmp_path / "beside")) == 0
    assert (tmp_path / "beside" / "adapter" / "adapter_model.safetensors").exists()
    assert run("--adapter", str(tmp_path), "-o", str(tmp_path / "y")) == 3 and not (tmp_path / "y").exists()
