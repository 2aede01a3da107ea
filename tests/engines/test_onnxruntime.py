"""ONNX Runtime GenAI against the reference: logits, generation, tokenizer, chat template, devices."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from needs import needs
from slmops import probes, stream
from slmops.core import chat, plugins
from slmops.core.errors import CorruptInput, EngineFailed, UsageError
from slmops.core.model import Model
from slmops.core.tensor import Floats
from slmops.engines import Options, Sampling, onnxruntime
from slmops.formats import huggingface
from slmops.formats import onnx as container
from slmops.ops.numpy import Reference
from slmops.passes.quantize import chooser, quantize

pytestmark = [pytest.mark.slow, needs(*onnxruntime.MODULES)]

Toy = Callable[..., Path]
IDS = np.random.default_rng(0).integers(3, 300, 96).tolist()
CHUNKS = [40, 56]


def write(model: Model, folder: Path, provider: str = "cpu") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stream.write(model, {"onnx": container.plan(model, provider=provider)}, {"onnx": folder})
    return folder


def relative(actual: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("family", plugins.names("architectures"))
def test_a_batch_of_several_lengths(family: str, toy: Toy, tmp_path: Path) -> None:
    """As GroupQueryAttention wants it, padded behind: each sequence goes on from its own last token."""
    import onnxruntime_genai as og

    model = quantize(huggingface.read(toy(family)), chooser("f32"))
    folder = write(model, tmp_path / "out")
    pad = json.loads((folder / "genai_config.json").read_text())["model"]["pad_token_id"]
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 300, length).tolist() for length in (90, 41)]
    loaded = og.Model(str(folder))
    settings = og.GeneratorParams(loaded)
    settings.set_search_options(max_length=128, batch_size=2, do_sample=False)
    generator = og.Generator(loaded, settings)
    generator.append_tokens(np.array([prompt + [pad] * (90 - len(prompt)) for prompt in prompts], np.int32))
    reference = Reference(model)
    for number, prompt in enumerate(prompts):
        expected = reference.logits(prompt)[-1]
        assert relative(generator.get_logits()[number].reshape(-1), expected) < 1e-5
    for _ in range(6):
        generator.generate_next_token()
    for number, prompt in enumerate(prompts):
        expected = list(prompt)
        for _ in range(6):
            expected.append(int(reference.logits(expected)[-1].argmax()))
        assert generator.get_sequence(number).tolist()[90:] == expected[len(prompt) :]


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = quantize(huggingface.read(toy("qwen3")), chooser("q4"))
    return model, write(model, tmp_path_factory.mktemp("onnx") / "q4")


@pytest.fixture(scope="module")
def session(made: tuple[Model, Path]) -> Iterator[onnxruntime.OrtSession]:
    opened = onnxruntime.open(made[1], Options(proof=False, device="cpu", threads=1, context=256))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("family", "changes", "stored", "provider"),
    [
        ("llama", {}, "q4", "cpu"),
        ("llama", {"attention_bias": True, "mlp_bias": True}, "q8", "cpu"),
        ("qwen2", {}, "q4a", "cpu"),
        ("qwen3", {}, "q8", "cpu"),
        ("qwen2", {}, "w8a8", "cpu"),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True}, "w8a8", "cpu"),
        ("qwen3", {}, "w8a8", "dml"),
        ("qwen3", {"tie_word_embeddings": False}, "q4a", "cpu"),
        ("qwen3", {}, "f16", "cpu"),
        ("mistral", {"sliding_window": 24}, "q4", "cpu"),
        ("mistral", {}, "f32", "cpu"),
        ("llama", {"hidden_size": 144}, "q4", "cpu"),
        ("llama", {}, "q4", "cuda"),
        ("qwen2", {}, "f16", "cuda"),
        ("llama", {}, "q8", "dml"),
    ],
)
def test_logits_are_the_references(
    toy: Toy, tmp_path: Path, family: str, changes: dict[str, object], stored: str, provider: str
) -> None:
    model = quantize(huggingface.read(toy(family, **changes)), chooser(stored))
    folder = write(model, tmp_path / "made", provider)
    expected = Reference(model).logits(IDS)
    proof = onnxruntime.open(
        container.twin(folder, tmp_path / "twin"), Options(proof=True, device="cpu", threads=1, context=256)
    )
    assert relative(proof.logits(IDS, CHUNKS), expected) < 1e-5
    proof.close()
    plain = onnxruntime.open(folder, Options(proof=False, device="cpu", threads=1, context=256))
    assert relative(plain.logits(IDS, CHUNKS), expected) < 0.05
    by_row = stored == "w8a8" and provider == "cpu"
    assert (plain.effective["activations"] == "8 bits, a scale a call") == by_row
    assert plain.effective["kv"] == ("f32" if provider == "cpu" else "f16")
    plain.close()


def test_a_graph_that_computes_something_else_is_noticed(made: tuple[Model, Path], tmp_path: Path) -> None:
    twin = container.twin(made[1], tmp_path / "twin")
    import onnx

    proto = onnx.load_model_from_string((twin / "model.onnx").read_bytes())
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "scale":
                attribute.f *= 1.5
    (twin / "model.onnx").write_bytes(proto.SerializeToString())
    opened = onnxruntime.open(twin, Options(proof=True, device="cpu", threads=1, context=256))
    with pytest.raises(EngineFailed, match="different logits"):
        opened.logits(IDS, CHUNKS)


def test_greedy_generation_follows_the_references(made: tuple[Model, Path], tmp_path: Path) -> None:
    twin = container.twin(made[1], tmp_path / "twin")
    opened = onnxruntime.open(twin, Options(proof=True, device="cpu", threads=1, context=256))
    reference, expected = Reference(made[0]), list(IDS[:20])
    for _ in range(12):
        expected.append(int(reference.logits(expected)[-1].argmax()))
    assert list(opened.generate(IDS[:20], Sampling(max_tokens=12))) == expected[20:]
    opened.close()


def test_generation_goes_on_after_measuring(session: onnxruntime.OrtSession) -> None:
    first = list(session.generate(IDS[:8], Sampling(max_tokens=6)))
    session.logits(IDS, CHUNKS)
    assert list(session.generate(IDS[:8], Sampling(max_tokens=6))) == first


def test_stop_ids_and_only_they_end_a_generation(
    session: onnxruntime.OrtSession, made: tuple[Model, Path], tmp_path: Path
) -> None:
    free = list(session.generate(IDS[:8], Sampling(max_tokens=10)))
    assert len(free) == 10
    stop = free[4]
    assert list(session.generate(IDS[:8], Sampling(max_tokens=10, stop_ids=(stop,)))) == free[: free.index(stop)]
    # The folder's own eos is no stop unless the caller says so.
    folder = Path(shutil.copytree(made[1], tmp_path / "eos"))
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = [stop]
    (folder / "genai_config.json").write_text(json.dumps(config))
    opened = onnxruntime.open(folder, Options(proof=False, device="cpu", threads=1, context=256))
    assert list(opened.generate(IDS[:8], Sampling(max_tokens=10))) == free
    opened.close()


def test_sampling_follows_the_seed(session: onnxruntime.OrtSession) -> None:
    def run(seed: int) -> list[int]:
        return list(session.generate(IDS[:8], Sampling(max_tokens=12, temperature=1.0, top_k=50, top_p=0.95, seed=seed)))

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(4)}) > 1


def test_a_closed_iterator_computes_no_more(session: onnxruntime.OrtSession) -> None:
    tokens = session.generate(IDS[:8], Sampling(max_tokens=200))
    assert len(list(itertools.islice(tokens, 3))) == 3
    tokens.close()  # type: ignore[attr-defined]
    assert len(list(session.generate(IDS[:8], Sampling(max_tokens=2)))) == 2


def test_generation_ends_with_the_context(made: tuple[Model, Path]) -> None:
    opened = onnxruntime.open(made[1], Options(proof=False, device="cpu", threads=1, context=16))
    assert len(list(opened.generate(IDS[:10], Sampling(max_tokens=100)))) == 6
    with pytest.raises(UsageError, match="context of 16"):
        list(opened.generate(IDS[:17], Sampling(max_tokens=1)))
    with pytest.raises(UsageError, match="vocabulary"):
        opened.logits([100000], [1])
    with pytest.raises(UsageError, match="add up"):
        opened.logits(IDS[:4], [3])
    opened.close()


def test_tokenizer_is_the_sources(session: onnxruntime.OrtSession, made: tuple[Model, Path]) -> None:
    source = tokenizers.Tokenizer.from_str(made[0].tokenizer.json.decode())
    for text in (*probes.TEXTS, "<|im_start|>user\nhi<|im_end|>\n", "a<|im_end|>", "<|im_end|>", ""):
        ids = source.encode(text, add_special_tokens=False).ids
        assert session.encode(text) == ids, text
        assert session.decode(ids) == source.decode(ids), text


def test_chat_template_is_the_sources(session: onnxruntime.OrtSession, made: tuple[Model, Path], tmp_path: Path) -> None:
    template = made[0].chat_template
    assert template is not None
    for messages in probes.CONVERSATIONS:
        assert session.render(messages) == chat.render(template, messages)
    folder = Path(shutil.copytree(made[1], tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    opened = onnxruntime.open(folder, Options(proof=False, device="cpu", threads=1, context=64))
    assert opened.render(probes.CONVERSATIONS[0]) is None
    opened.close()


def test_what_cannot_be_had_is_said(made: tuple[Model, Path]) -> None:
    import onnxruntime_genai as og

    opened = onnxruntime.open(made[1], Options(proof=False, device="auto", threads=1, context=64))
    assert opened.effective["device"] == "cpu"
    assert "fallback" not in opened.effective
    opened.close()
    if not og.is_cuda_available() and not sys.platform.startswith("win"):
        opened = onnxruntime.open(made[1], Options(proof=False, device="gpu", threads=1, context=64))
        assert opened.effective["device"] == "cpu"
        assert "gpu" in opened.effective["fallback"]
        opened.close()
    with pytest.raises(UsageError, match="tpu"):
        onnxruntime.open(made[1], Options(proof=False, device="tpu"))


def test_broken_folders_fail_with_words(made: tuple[Model, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made[1], tmp_path / "broken"))
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineFailed, match="cannot open"):
        onnxruntime.open(folder, Options(proof=False, device="cpu", threads=1, context=64))
    (folder / "genai_config.json").write_text("{}")
    with pytest.raises(CorruptInput, match=r"genai_config\.json"):
        onnxruntime.open(folder, Options(proof=False, device="cpu", threads=1, context=64))
