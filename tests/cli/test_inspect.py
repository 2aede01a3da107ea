"""slmops inspect: what it says, in both forms, and that it reads no weight."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import hollow
from slmops import cli
from slmops import compile as compiler
from slmops.cli import _text, inspect
from slmops.core import plugins
from slmops.core.tensor import Stored
from slmops.formats import _quantization
from slmops.passes.quantize import chooser, quantize
from slmops.source import load

CONFIGS = Path(__file__).parent.parent / "data" / "configs"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Stored, start: int, stop: int) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Stored, "rows", refuse)


def test_says_it_in_json(tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hollow(tmp_path / "qwen3-4b", json.loads((CONFIGS / "Qwen3-4B.json").read_text()))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert cli.main(["inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "qwen3" and found["parameters"] == 4_022_468_096 and found["tier"] == "small"
    assert found["context"] == 40_960 and found["licence"] == "apache-2.0" and found["quantization"] is None
    assert found["vocabulary"] == {"tokens": 279, "rows": 151_936} and found["precision"] == "16-bit"
    assert found["bytes"]["embedding"] == 151_936 * 2560 * 2 and sum(found["bytes"].values()) == 2 * 4_022_468_096
    assert {one["context"] for one in found["memory"]} == {2048, 8192, 40_960}
    assert {one["scheme"] for one in found["memory"]} == {"q4", "q8", "f16"}
    for one in found["memory"]:
        assert one["total"] == one["weights"] + one["kv_cache"] + one["overhead"]


def test_a_model_larger_than_the_disk(tmp_path: Path, no_weights: None) -> None:
    """A hole of 58 GB: nothing but the header is touched."""
    folder = hollow(tmp_path, {**json.loads((CONFIGS / "Qwen3-4B.json").read_text()), "intermediate_size": 97_280})
    found = inspect.facts(str(folder))
    assert found["tier"] == "medium" and (folder / "model.safetensors").stat().st_size > 55e9


def test_says_it_to_people(toy: Callable[..., Path], no_weights: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(toy("llama")), "--context", "4096"]) == 0
    shown = capsys.readouterr().out
    for words in ("llama", "below micro", "310 tokens in 320 rows, shared with the head", "at 4,096", "not stated"):
        assert words in shown
    for name in plugins.names("formats"):
        if hasattr(plugins.load("formats", name), "forms"):
            assert f"\n{name.replace('_', '-')}  " in shown
    assert all(len(line) < 120 for line in shown.splitlines())


def test_steps_of_activations_are_told(toy: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = quantize(load(toy("qwen3")), chooser("w8a8_static"))
    model = dataclasses.replace(model, steps={"layers.0.mlp.down": 0.5, "layers.1.mlp.down": 0.25})
    compiler.convert(model, ["openvino"], compiler.KEEP, tmp_path / "out", verify=False)
    assert cli.main(["inspect", str(tmp_path / "out")]) == 0
    assert "8-bit, w8a8, the inputs of 2 matrices rounded to 8 bits by steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no/such/place"], 3, "no file or folder"),
        (["."], 3, "config.json"),
        ([str(CONFIGS / "Qwen3-4B.json")], 6, "format"),
        (["TOY", "--context", "0"], 2, "context"),
    ],
)
def test_errors(
    arguments: list[str], code: int, words: str, toy: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", *(word.replace("TOY", str(toy("qwen3"))) for word in arguments)]) == code
    shown = capsys.readouterr()
    assert words in shown.err and not shown.out


QUANTIZED: list[tuple[dict[str, Any], str, str]] = [
    ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}}, "gptq", "4-bit"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}, "awq", "4-bit"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes", "4-bit"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes", "8-bit"),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "fp8", "8-bit"),
    ({"quantization_config": {"quant_method": "bitnet"}}, "bitnet", "ternary (1.58-bit)"),
    ({"quantization_config": {"quant_method": "quanto", "weights": "int2"}}, "quanto", "2-bit"),
    (
        {"quantization_config": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3}}}},
        "hqq",
        "3-bit",
    ),
    (
        {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
            }
        },
        "compressed-tensors",
        "4-bit",
    ),
    ({"quantization": {"bits": 1, "group_size": 64}}, "mlx", "1-bit"),
    ({"quantization_config": {"quant_method": "new-one"}}, "new-one", "unknown"),
    ({"quantization_config": "odd"}, "unknown", "unknown"),
]


@pytest.mark.parametrize(("config", "method", "precision"), QUANTIZED)
def test_quantizations_are_known_by_name(config: dict[str, Any], method: str, precision: str) -> None:
    found = _quantization.describe(config)
    assert found is not None and (found.method, found.precision) == (method, precision)


def test_plain_numbers_are_no_quantization() -> None:
    assert _quantization.describe({"model_type": "llama", "quantization_config": None}) is None


def test_quantized_checkpoint_is_described(toy: Callable[..., Path], tmp_path: Path) -> None:
    source = toy("qwen3")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "bits": 4, "group_size": 32, "sym": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = inspect.facts(str(tmp_path))
    assert found["quantization"] == {"method": "hqq", "bits": 4, "group": 32, "details": ["sym=True"]}
    assert found["parameters"] == inspect.facts(str(source))["parameters"] and found["bytes"]["attention"] > 0
    assert [one["scheme"] for one in found["memory"]] == ["hqq"]
    assert "hqq" in inspect.text(found) and "groups of 32" in inspect.text(found)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (334_880_000, "335 MB"),
        (999_700, "1.00 MB"),
        (12_345_678_901, "12.3 GB"),
    ],
)
def test_sizes(number: int, shown: str) -> None:
    assert _text.size(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(12, "12"), (596_049_920, "596 M"), (4_022_468_096, "4.02 B"), (14.77e9, "14.8 B")]
)
def test_counts(number: float, shown: str) -> None:
    assert _text.count(number) == shown


def test_tables() -> None:
    assert (
        _text.table(["name", "size"], [["a", "1"], ["long name", "22"]])
        == "name       size\na             1\nlong name    22"
    )
    assert _text.pairs([("a", "1"), ("none", ""), ("name", "2\n3")]) == "a     1\nname  2\n      3"
