"""Reading Hugging Face folders: whole ones in every spelling, and broken ones, whose error must say what to do."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import checkpoint, hollow, safetensors, tensors, tokenizer
from families import PUBLISHED, SIZES
from slmops.core import plugins
from slmops.core import spec as specs
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, UnknownFamily, Unsupported
from slmops.core.tensor import Stored, to_numpy
from slmops.formats import huggingface

FAMILIES = plugins.names("architectures")
CONFIGS = Path(__file__).parent.parent / "data" / "configs"


def toy(family: str, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {**plugins.load("architectures", family).TOY, **changes}
    return config


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def peak() -> int:
    """Most kB of memory that this process has held; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def change(folder: Path, file: str, **changes: Any) -> None:
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [1, 3])
def test_reads_every_family(family: str, shards: int, tmp_path: Path) -> None:
    config = toy(family)
    folder = checkpoint(tmp_path / "model", config, shards=shards)
    expected = tensors(config)
    model = huggingface.read(folder)
    names = plugins.load("architectures", family).names(model.spec)
    assert model.name == "model" and model.config == config
    assert {names[role] for role in model.tensors} == set(expected)
    for role, tensor in model.tensors.items():
        np.testing.assert_array_equal(to_numpy(tensor), expected[names[role]].astype(np.float32))
    assert model.parameters == sum(array.size for array in expected.values())
    assert model.tokenizer.eos == (2, 0) and model.tokenizer.pad == 0 and not model.tokenizer.adds_bos
    assert model.chat_template is not None and "chat_template" not in model.tokenizer.config


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str, tmp_path: Path) -> None:
    assert huggingface.read(hollow(tmp_path / name, config_of(name))).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", SIZES)
def test_published_parameter_counts_of_bare_sizes(name: str) -> None:
    count, config = SIZES[name]
    spec = specs.from_config(config)
    assert sum(math.prod(shape) for shape in plugins.load("architectures", spec.family).shapes(spec).values()) == count


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("*.json")) if path.stem not in PUBLISHED])
def test_other_families_are_refused_by_name(name: str) -> None:
    config = config_of(name)
    with pytest.raises(UnknownFamily, match=config["model_type"]) as caught:
        specs.from_config(config)
    assert all(family in caught.value.cure for family in FAMILIES)


def test_opens_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "model", toy("qwen3"))

    def refuse(self: Stored, start: int, stop: int) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Stored, "rows", refuse)
    huggingface.read(folder)


# What a tied head may look like


def tied(folder: Path, head: Callable[[np.ndarray], np.ndarray]) -> Path:
    config = toy("qwen3", tie_word_embeddings=True)
    checkpoint(folder, config)
    arrays = tensors(config)
    arrays["lm_head.weight"] = head(arrays["model.embed_tokens.weight"])
    safetensors(folder / "model.safetensors", arrays)
    return folder


def test_tied_head_that_is_stored_too_is_left_out(tmp_path: Path) -> None:
    model = huggingface.read(tied(tmp_path, lambda embedding: embedding))
    assert "head" not in model.tensors and any("lm_head.weight" in note for note in model.source["notes"])
    expected = tensors(toy("qwen3", tie_word_embeddings=True))["model.embed_tokens.weight"]
    np.testing.assert_array_equal(model.tensors["embedding"].rows(8, 24), expected[8:24])


def test_tied_head_with_other_numbers_is_found_when_read(tmp_path: Path) -> None:
    model = huggingface.read(tied(tmp_path, lambda embedding: embedding + embedding))
    with pytest.raises(CorruptInput, match="lm_head") as caught:
        model.tensors["embedding"].rows(0, 8)
    assert "tie_word_embeddings" in caught.value.cure


def test_untied_head_that_is_missing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, toy("qwen3", tie_word_embeddings=True))
    change(folder, "config.json", tie_word_embeddings=False)
    with pytest.raises(CorruptInput, match=r"lm_head\.weight") as caught:
        huggingface.read(folder)
    assert "tie_word_embeddings" in caught.value.cure


def test_buffers_of_old_checkpoints_are_left_out(tmp_path: Path) -> None:
    config = toy("llama")
    folder = checkpoint(tmp_path, config)
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)}
    safetensors(folder / "model.safetensors", {**tensors(config), **buffer})
    assert any("inv_freq" in note for note in huggingface.read(folder).source["notes"])


# Names, templates, licences


def test_template_file_stands_before_the_key(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, toy("qwen3"))
    (folder / "chat_template.jinja").write_text("from the file")
    assert huggingface.read(folder).chat_template == "from the file"


def test_default_of_several_templates(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, toy("qwen3"))
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    change(folder, "tokenizer_config.json", chat_template=several)
    assert huggingface.read(folder).chat_template == "plain"


@pytest.mark.parametrize(
    ("file", "text", "licence"),
    [
        ("README.md", "---\nlicense: apache-2.0\nlanguage: en\n---\n# Model", "apache-2.0"),
        ("README.md", "---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("LICENSE", "\n     Apache License\n   Version 2.0, January 2004\n", "apache-2.0"),
        ("LICENSE", "Some terms of our own", "see LICENSE"),
        ("README.md", "# No front matter", None),
    ],
)
def test_licence(file: str, text: str, licence: str | None, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, toy("qwen3"))
    (folder / file).write_text(text)
    assert huggingface.read(folder).licence == licence


def cache(root: Path, folder: Path, shared: bool) -> Path:
    """Lay a checkpoint out as Hugging Face's cache does."""
    repo = root / "models--org--tiny-model"
    snapshot, blobs, store = repo / "snapshots" / ("a" * 40), repo / "blobs", root / "blobs" / "aa"
    for place in (snapshot, blobs, store):
        place.mkdir(parents=True)
    if shared:
        (root / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    for number, file in enumerate(sorted(folder.iterdir())):
        if shared:
            shutil.copy(file, store / str(number))
            (blobs / str(number)).symlink_to(store / str(number))
        else:
            shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_links_of_the_cache_are_followed(shared: bool, tmp_path: Path) -> None:
    model = huggingface.read(cache(tmp_path / "hub", checkpoint(tmp_path / "source", toy("qwen3"), shards=2), shared))
    assert model.name == "tiny-model"
    model.tensors["norm"].rows(0, 8)


# What is refused. Each case breaks a good checkpoint; each error is quick and small.


def cut_shard(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    document = json.loads(path.read_text())
    edit(document["weight_map"])
    path.write_text(json.dumps(document))


def link_out(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    outside = folder.parent / "outside.safetensors"
    path.rename(outside)
    path.symlink_to(outside)


def link_config_in_circles(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "config.json")


def only_pickle(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never opened")


def other_dtype(name: str, dtype: str) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        arrays = {key: value.view(np.uint8) if key == name else value for key, value in tensors(config).items()}
        if arrays[name].ndim == 2:
            arrays[name] = arrays[name][:, ::2]
        else:
            arrays[name] = arrays[name][::2]
        for file in folder.glob("model*"):
            file.unlink()
        safetensors(folder / "model.safetensors", arrays, **{name: dtype})

    return breaks


def transposed(folder: Path) -> None:
    arrays = tensors(json.loads((folder / "config.json").read_text()))
    name = "model.layers.1.mlp.down_proj.weight"
    for file in folder.glob("model*"):
        file.unlink()
    safetensors(folder / "model.safetensors", {**arrays, name: np.ascontiguousarray(arrays[name].T)})


def huge_config(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 34)


def deep_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 200_000 + "1" + "}" * 200_000)


def huge_header(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def rank_of_ids(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 100_000}))


FIRST = "model-00001-of-00002.safetensors"
NORM = "model.norm.weight"
REFUSED: dict[str, tuple[Callable[[Path], object], type[SlmopsError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), SourceNotFound, r"config\.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), SourceNotFound, "tokenizer"),
    "no weights": (lambda f: [file.unlink() for file in f.glob("model*")], SourceNotFound, r"model\.safetensors"),
    "truncated shard": (cut_shard, CorruptInput, "model-00002-of-00002"),
    "missing shard": (drop_shard, SourceNotFound, "model-00002-of-00002"),
    "index leads out": (lambda f: index(f, lambda m: m.update({NORM: "../x.safetensors"})), CorruptInput, r"\.\./x"),
    "index leads to a device": (lambda f: index(f, lambda m: m.update({NORM: "/dev/zero"})), CorruptInput, "/dev/zero"),
    "index promises more": (lambda f: index(f, lambda m: m.update({"extra": FIRST})), CorruptInput, "extra"),
    "index is a list": (lambda f: change(f, "model.safetensors.index.json", weight_map=[1]), CorruptInput, "weight_map"),
    "link out of the folder": (link_out, CorruptInput, "link"),
    "links in a circle": (link_config_in_circles, CorruptInput, r"config\.json"),
    "pickle only": (only_pickle, Unsupported, "pickle"),
    "remote code": (
        lambda f: change(f, "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        Unsupported,
        "remote code",
    ),
    "unknown family": (lambda f: change(f, "config.json", model_type="t5"), UnknownFamily, "t5"),
    "no family": (lambda f: change(f, "config.json", model_type=None), UnknownFamily, "no model_type"),
    "family is a path": (lambda f: change(f, "config.json", model_type="../../os"), UnknownFamily, "os"),
    "absurd size": (lambda f: change(f, "config.json", hidden_size=1 << 40), CorruptInput, "hidden_size"),
    "no layers": (lambda f: change(f, "config.json", num_hidden_layers=-3), CorruptInput, "num_hidden_layers"),
    "wrong rope": (lambda f: change(f, "config.json", rope_scaling={"rope_type": "llama3"}), CorruptInput, "factor"),
    "quantized": (lambda f: change(f, "config.json", quantization_config={"quant_method": "gptq"}), Unsupported, "quant"),
    "other sizes": (lambda f: change(f, "config.json", intermediate_size=512), CorruptInput, "mlp"),
    "fewer layers": (lambda f: change(f, "config.json", num_hidden_layers=2), CorruptInput, r"layers\.2"),
    "more layers": (lambda f: change(f, "config.json", num_hidden_layers=4), CorruptInput, r"layers\.3"),
    "transposed": (transposed, CorruptInput, r"layers\.1\.mlp\.down"),
    "float8": (other_dtype("model.layers.0.mlp.up_proj.weight", "F8_E4M3"), Unsupported, "float8"),
    "int8": (other_dtype(NORM, "I8"), Unsupported, "int8"),
    "unknown dtype": (other_dtype(NORM, "F4"), CorruptInput, "F4"),
    "eos outside": (rank_of_ids, CorruptInput, "eos"),
    "huge config": (huge_config, CorruptInput, r"config\.json"),
    "deep config": (deep_config, CorruptInput, "deep"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), CorruptInput, r"config\.json"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), CorruptInput, r"config\.json"),
    "huge header": (huge_header, CorruptInput, "header"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"model": 1}'), CorruptInput, "tokenizer"),
    "adapter": (
        lambda f: [(f / "config.json").unlink(), (f / "adapter_config.json").write_text("{}")],
        SourceNotFound,
        "adapter",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    breaks, kind, words = REFUSED[case]
    folder = checkpoint(tmp_path / "model", toy("qwen3"), shards=2)
    breaks(folder)
    before, started = peak(), time.process_time()
    with pytest.raises(kind, match=words) as caught:
        huggingface.read(folder)
    assert type(caught.value) is kind
    assert time.process_time() - started < 1
    assert peak() - before < 100_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, toy("qwen3"))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CorruptInput, match=r"config\.json"):
        huggingface.read(folder)


@pytest.mark.skipif(peak() == 0, reason="the system does not say how much memory was held")
def test_memory_does_not_follow_the_models_size(tmp_path: Path) -> None:
    """Reading a 4 B checkpoint takes what reading a toy does."""
    code = (
        "import resource, sys; from pathlib import Path; from slmops.formats import huggingface\n"
        "huggingface.read(Path(sys.argv[1])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for name in ("SmolLM2-135M", "Qwen3-4B"):
        folder = hollow(tmp_path / name, config_of(name))
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, timeout=120)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 30_000


def test_detect(tmp_path: Path) -> None:
    assert huggingface.detect(checkpoint(tmp_path / "model", toy("qwen3")))
    (tmp_path / "empty").mkdir()
    assert not huggingface.detect(tmp_path / "empty")
    assert not huggingface.detect(tmp_path / "model" / "config.json")
    tokenizer(tmp_path / "empty")
    assert not huggingface.detect(tmp_path / "empty")
