"""OpenVINO's two back ends against the reference: logits, generation, tokenizer, chat template, devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tokenizers

from needs import needs
from slmops import stream
from slmops.core import chat, plugins
from slmops.core.errors import EngineFailed, UsageError
from slmops.core.model import Model, Weights
from slmops.core.tensor import Floats
from slmops.engines import Options, Sampling, _openvino, openvino, openvino_paged
from slmops.engines import Session as Session
from slmops.formats import huggingface
from slmops.formats import openvino as container
from slmops.ops.numpy import NumpyOps, Reference
from slmops.passes import activations
from slmops.passes.quantize import chooser, quantize

pytestmark = [pytest.mark.slow, needs(*openvino.MODULES)]

Toy = Callable[..., Path]
ENGINES = (openvino, openvino_paged)
IDS = np.random.default_rng(0).integers(3, 300, 96).tolist()


def write(model: Model, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    stream.write(model, {"openvino": container.plan(model)}, {"openvino": folder})
    return folder


def relative(actual: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = quantize(huggingface.read(toy("qwen3")), chooser("q4"))
    return model, write(model, tmp_path_factory.mktemp("openvino") / "q4")


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: engine.__name__.split(".")[-1])
def session(request: pytest.FixtureRequest, made: tuple[Model, Path]) -> Iterator[Session]:
    opened = request.param.open(made[1], Options(proof=True, device="cpu", threads=1, context=256))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("family", "changes", "stored"),
    [
        ("llama", {}, "q4"),
        ("llama", {"attention_bias": True, "mlp_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "q8"),
        ("mistral", {"head_dim": 64, "num_key_value_heads": 4}, "q4a"),
        ("mistral", {"sliding_window": 24}, "q4"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}, "f16"),
        ("qwen2", {}, "q8"),
        ("qwen3", {}, "bf16"),
        ("qwen3", {"hidden_size": 96}, "q4a"),
        ("qwen3", {}, "w8a8"),
    ],
)
def test_computes_what_the_reference_computes(
    toy: Toy, tmp_path: Path, family: str, changes: dict[str, object], stored: str
) -> None:
    model = quantize(huggingface.read(toy(family, **changes)), chooser(stored))
    expected = Reference(model).logits(IDS)
    folder = write(model, tmp_path / "out")
    for engine in ENGINES:
        proof = engine.open(folder, Options(proof=True, device="cpu", threads=1))
        assert relative(proof.logits(IDS, [40, 56]), expected) < 1e-5, engine.__name__
        assert proof.effective["kv"] == proof.effective["activations"] == "f32"
        usual = engine.open(folder, Options(device="cpu", threads=1))
        assert relative(usual.logits(IDS, [96]), expected) < 0.1, engine.__name__


def test_larger_groups_of_activations_where_each_row_has_one_scale(toy: Toy, tmp_path: Path) -> None:
    """The graph asks for them, so that whatever opens it gets them; who asks the engine for others is obeyed."""
    folder = write(quantize(huggingface.read(toy("qwen3", hidden_size=192)), chooser("w8a8")), tmp_path / "out")
    wanted = "8 bits in groups of 64"  # 128 does not divide the rows
    usual, exact = (openvino.open(folder, Options(proof=proof, device="cpu", threads=1)) for proof in (False, True))
    assert wanted in usual.effective["activations"] and exact.effective["activations"] == "f32"
    usual.logits(IDS[:8], [8])
    exact.logits(IDS[:8], [8])
    assert wanted in usual.effective["activations"] and exact.effective["activations"] == "f32"


class Rounded(NumpyOps):
    """The reference with inputs rounded as OpenVINO specifies FakeQuantize."""

    steps: dict[str, float]

    def linear(self, x: Floats, weight: str, bias: str | None = None) -> Floats:
        step = np.float32(self.steps[weight])
        return super().linear(np.asarray(np.clip(np.rint(x / step), -128, 127) * step, np.float32), weight, bias)


@pytest.mark.parametrize(("family", "tied"), [("qwen3", True), ("llama", False), ("gemma3_text", True)])
def test_activations_are_rounded_by_the_models_steps(toy: Toy, tmp_path: Path, family: str, tied: bool) -> None:
    """In f32, where nothing else is rounded; four times as coarse as a text would have them, so that it shows.

    Of sequences of a few ids: a number halfway between two steps may fall on the other side, and all that follows with it.
    """
    import openvino as runtime

    plain = huggingface.read(toy(family, tie_word_embeddings=tied))
    steps = {role: 4 * step for role, step in activations.steps(plain, np.array([IDS])).items()}
    model = dataclasses.replace(quantize(plain, chooser("w8a8_static")), steps=steps)
    ops, program = Rounded(model.tensors), plugins.load("architectures", model.spec.family)
    ops.steps = steps
    exact, few = Reference(model), [IDS[start : start + 3] for start in range(0, 33, 3)]
    rounded = []
    for ids in few:
        ops.reset()
        rounded.append(program.forward(ops, model.spec, Weights(model.tensors), np.array([ids]))[0])
    assert min(relative(one, exact.logits(ids)) for one, ids in zip(rounded, few, strict=True)) > 0.05
    folder, core = write(model, tmp_path / "out"), runtime.Core()
    for engine, runner in ((openvino, openvino.Stateful), (openvino_paged, openvino_paged.Paged)):
        proof = engine.open(folder, Options(proof=True, device="cpu", threads=1))
        assert relative(proof.logits(IDS, [40, 56]), exact.logits(IDS)) < 1e-5, engine.__name__
        assert proof.effective["activations"] == "f32"
        opened = runner(core, core.read_model(folder / container.XML), "CPU", _openvino.EXACT)
        found = [np.concatenate([part.copy() for part in opened.run(ids, [2, 1])]) for ids in few]
        apart = [relative(one, other) for one, other in zip(found, rounded, strict=True)]
        assert np.median(apart) < 1e-5, f"{engine.__name__}: {apart}"
        usual = engine.open(folder, Options(device="cpu", threads=1))
        assert usual.effective["activations"].endswith("8 bits by the artifact's steps")


def test_whole_numbers_are_multiplied_and_no_matrix_grows(toy: Toy, tmp_path: Path) -> None:
    """What the plugin really runs: without codes by row, or with the embedding multiplied first, they would be floats."""
    import openvino as runtime

    plain = huggingface.read(toy("qwen3"))
    steps = activations.steps(plain, np.array([IDS]))
    model = dataclasses.replace(quantize(plain, chooser("w8a8_static")), steps=steps)
    folder = write(model, tmp_path / "out")
    compiled = runtime.Core().compile_model(folder / container.XML, "CPU")
    kinds: dict[str, list[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        told = node.get_rt_info()
        kinds.setdefault(str(told["layerType"].astype(str)), []).append(str(told["runtimePrecision"].astype(str)))
    assert kinds["FullyConnected"].count("i8") == len(steps) and "i8" in kinds["Gather"]


def test_the_kv_cache_is_as_large_as_is_counted(made: tuple[Model, Path]) -> None:
    """Bytes of a number in the blocks that OpenVINO asks for, scales and all; the head is small, so they weigh more here."""
    spec, head = made[0].spec, made[0].spec.head_dim
    for kv, number in openvino_paged.KV.items():
        opened = openvino_paged.open(made[1], Options(device="cpu", threads=1, kv=kv))
        opened.logits(IDS[:8], [8])
        assert opened._runner is not None
        items = [item for item in opened._runner.compiled.inputs if "_cache." in item.any_name]
        shapes = [[extent.get_length() for extent in list(item.partial_shape)[1:]] for item in items]
        whole = sum(item.element_type.size * math.prod(shape) for item, shape in zip(items, shapes, strict=True))
        found = whole / 32 / (2 * spec.layers * spec.kv_heads * head)
        assert found == (pytest.approx(number) if number > 2 or kv == "f16" else pytest.approx(1 + (8 / 32 + 8 / head) / 2))


@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_a_batch_of_several_lengths(family: str, toy: Toy, tmp_path: Path) -> None:
    """As transformers pads it: in front, masked out; in two calls, past every window."""
    import openvino as ov

    model = huggingface.read(toy(family))
    compiled = ov.Core().compile_model(
        write(model, tmp_path / "out") / "openvino_model.xml",
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
    )
    request, length = compiled.create_infer_request(), 150
    rng = np.random.default_rng(1)
    whole, short = rng.integers(3, 300, length), rng.integers(3, 300, 71)
    ids = np.stack([whole, np.concatenate([np.zeros(length - 71, np.int64), short])])
    mask = np.stack([np.ones(length, np.int64), np.arange(length) >= length - 71]).astype(np.int64)
    positions, found = np.maximum(mask.cumsum(1) - 1, 0), []
    for start, stop in ((0, 100), (100, length)):
        fed = {"input_ids": ids[:, start:stop], "position_ids": positions[:, start:stop], "attention_mask": mask[:, :stop]}
        request.infer({**fed, "beam_idx": np.arange(2, dtype=np.int32)})
        found.append(request.get_tensor("logits").data.copy())
    logits, reference = np.concatenate(found, axis=1), Reference(model)
    assert relative(logits[0], reference.logits(whole.tolist())) < 1e-5
    assert relative(logits[1, -71:], reference.logits(short.tolist())) < 1e-5


def test_logits_of_a_fresh_sequence_each_time(session: Session) -> None:
    whole = session.logits(IDS, [96])
    assert relative(session.logits(IDS, [1, 31, 64]), whole) < 1e-5
    assert relative(session.logits(IDS[:40], [40]), whole[:40]) < 1e-5


def test_chunks_must_add_up(session: Session) -> None:
    with pytest.raises(UsageError):
        session.logits(IDS, [40, 40])


def test_generates_what_the_reference_would(session: Session, made: tuple[Model, Path]) -> None:
    reference, expected = Reference(made[0]), list(IDS[:20])
    for _ in range(12):
        expected.append(int(reference.logits(expected)[-1].argmax()))
    tokens = list(session.generate(IDS[:20], Sampling(max_tokens=12)))
    assert tokens == expected[20:]
    stop = tokens[5]
    assert list(session.generate(IDS[:20], Sampling(max_tokens=12, stop_ids=(stop,)))) == tokens[: tokens.index(stop)]


def test_a_seed_decides_what_is_drawn(session: Session) -> None:
    def draw(seed: int) -> list[int]:
        return list(session.generate(IDS[:20], Sampling(max_tokens=16, temperature=1.5, top_k=100, seed=seed)))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_closing_the_iterator_cancels(session: Session) -> None:
    tokens = session.generate(IDS[:20], Sampling(max_tokens=200))
    first = next(tokens)
    tokens.close()  # type: ignore[attr-defined]
    assert next(iter(session.generate(IDS[:20], Sampling(max_tokens=1)))) == first


def test_tokenizer_and_template(session: Session, made: tuple[Model, Path]) -> None:
    model = made[0]
    theirs = tokenizers.Tokenizer.from_str(model.tokenizer.json.decode())
    for text in ("Hello  world\n", "<|im_start|>user\nhé 你好 🤷🏽‍♂️<|im_end|>\n", ""):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert session.encode(text) == ids
        assert session.decode(ids) == theirs.decode(ids)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n there"}]
    assert model.chat_template is not None
    assert session.render(messages) == chat.render(model.chat_template, messages, add_generation_prompt=True, special={})


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__.split(".")[-1])
def test_effective_says_what_runs(engine: ModuleType, made: tuple[Model, Path]) -> None:
    opened = engine.open(made[1], Options(device="cpu", threads=1))
    before = dict(opened.effective)
    opened.logits(IDS, [96])
    after = dict(opened.effective)
    # What is told before anything is compiled is what the compiled graph then says.
    assert before == after
    assert after["weights"].startswith("i4") and after["kv"] == "u8" and after["threads"] == "1"
    assert "8 bits" in after["activations"]


def test_an_absent_device_falls_back_and_says_so() -> None:
    assert _openvino.choose("auto", ["CPU"]) == ("CPU", "")
    assert _openvino.choose("auto", ["CPU", "GPU.0", "GPU.1"]) == ("GPU.0", "")
    device, fallback = _openvino.choose("npu", ["CPU"])
    assert device == "CPU" and "NPU" in fallback
    with pytest.raises(UsageError):
        _openvino.choose("tpu", ["CPU"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):
        openvino.open(tmp_path, Options())
