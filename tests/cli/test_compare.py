"""slmops compare, as it is typed, on artifacts that were really written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slmops import cli
from slmops import compile as compiler
from slmops.core.errors import CorruptInput, SourceNotFound, UsageError
from slmops.source import load

Toy = Callable[..., Path]


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy as GGUF and ONNX in q4, each by a conversion of its own, as GGUF in q8, and another toy."""
    out = tmp_path_factory.mktemp("compare")
    for name, form, scheme in (("gguf", "gguf", "q4"), ("onnx", "onnx", "q4"), ("q8", "gguf", "q8")):
        compiler.convert(load(toy("qwen3")), [form], scheme, out / name, verify=False)
    compiler.convert(load(toy("qwen3", num_hidden_layers=1)), ["gguf"], "q4", out / "shallow", verify=False)
    return out


def compared(capsys: pytest.CaptureFixture[str], *paths: Path) -> dict[str, Any]:
    assert cli.main(["compare", *map(str, paths), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_one_quantization_in_two_formats(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, made / "gguf", made / "onnx")
    assert found["tensors"]["different"] == {} and len(found["tensors"]["same"]) > 10
    assert found["tensors"]["numbers"] == found["tensors"]["same_numbers"] == load(made / "gguf").parameters
    assert found["different"]["format"] == ["gguf", "onnx"] and {"source", "scheme", "tokenizer", "probes.texts"} <= set(
        found["same"]
    )
    assert found["files"]["model.gguf"] == {"bytes": [(made / "gguf" / "model.gguf").stat().st_size, None], "same": False}
    assert cli.main(["compare", str(made / "gguf"), str(made / "onnx")]) == 0
    shown = capsys.readouterr().out
    count = len(found["tensors"]["same"])
    assert f"tensors: {count} of {count} are the same (100.0% of the numbers" in shown and "only in A" in shown


def test_two_schemes_and_two_models(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, made / "gguf", made / "q8")
    assert found["different"]["scheme"] == ["q4", "q8"] == found["different"]["step.parameters.scheme"]
    assert {role for role in found["tensors"]["same"] if "norm" not in role} == set()
    assert found["tensors"]["different"]["embedding"] == {"because": "scheme", "stored": ["q4", "q8"]}
    assert found["files"]["Modelfile"]["same"] is True and found["files"]["model.gguf"]["same"] is False
    found = compared(capsys, made / "shallow", made / "gguf")
    assert found["different"]["config.num_hidden_layers"][0] == 1
    assert found["tensors"]["different"]["layers.1.mlp.up"] == {"because": "only in b", "stored": [None, "q4"]}
    assert cli.main(["compare", str(made / "shallow"), str(made / "q8")]) == 0
    assert "q4 in A, q8 in B" in capsys.readouterr().out


def test_other_bytes_and_other_numbers_under_one_name(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(made / "gguf", tmp_path / "other")
    assert compared(capsys, made / "gguf", other)["different"] == {}
    weights = bytearray((other / "model.gguf").read_bytes())
    weights[-100] ^= 1
    (other / "model.gguf").write_bytes(weights)
    receipt = json.loads((other / "slmops.json").read_text())
    receipt["tensors"]["embedding"]["crc"]["q4"][0] ^= 1
    (other / "slmops.json").write_text(json.dumps(receipt))
    found = compared(capsys, made / "gguf", other)
    assert found["files"]["model.gguf"]["same"] is False and found["files"]["Modelfile"]["same"] is True
    assert found["tensors"]["different"] == {"embedding": {"because": "numbers", "stored": ["q4", "q4"]}}
    # Receipts alone: sizes are known, bytes are not.
    shutil.copy(other / "slmops.json", tmp_path / "receipt.json")
    assert compared(capsys, made / "gguf", tmp_path / "receipt.json")["files"]["model.gguf"]["same"] is None


def measured(tmp_path: Path, name: str, kl: float, **more: Any) -> Path:
    estimate = {"value": kl, "low": kl - 0.01, "high": kl + 0.01, "samples": 9, "clusters": 9}
    one = {"format": "gguf", "scheme": "q4_k_m", "engine": "llamacpp", "bytes": 1_000_000, "peak": 5, "load": 1.0,
           "quality": {"kl": estimate}, "speed": None}  # fmt: skip
    path = tmp_path / name
    path.write_text(json.dumps({"measured": [one], "machine": {"cores": 2}, **more}))
    return path


def test_saved_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, near = measured(tmp_path, "a.json", 0.10), measured(tmp_path, "near.json", 0.115)
    far = measured(tmp_path, "far.json", 0.2, machine={"cores": 4})
    assert compared(capsys, a, near)["measured"]["gguf q4_k_m llamacpp"]["quality.kl"]["apart"] is False
    found = compared(capsys, a, far)
    assert found["measured"]["gguf q4_k_m llamacpp"]["quality.kl"]["apart"] is True
    assert found["different"]["machine.cores"] == [2, 4]
    assert cli.main(["compare", str(a), str(far)]) == 0
    shown = capsys.readouterr().out
    assert "0.1 (0.09 to 0.11)" in shown and "intervals apart" in shown and "bytes" not in shown


def test_what_makes_no_sense(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(made / "gguf")]
    assert cli.main([*words, str(tmp_path / "nowhere")]) == SourceNotFound.exit_code
    assert cli.main([*words, str(tmp_path)]) == SourceNotFound.exit_code
    assert cli.main([*words, str(measured(tmp_path, "a.json", 0.1))]) == UsageError.exit_code
    for number, text in enumerate(("{", "[]", '{"trials": 3}', '{"measured": ["x"]}', "[" * 100_000)):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert cli.main([*words, str(path)]) == CorruptInput.exit_code
        assert cli.main(["compare", str(path), str(path)]) == CorruptInput.exit_code
    path.write_text('{"trials": [{"measured": 7}]}')
    assert cli.main(["compare", str(path), str(path)]) == CorruptInput.exit_code
    receipt = json.loads((made / "gguf" / "slmops.json").read_text())
    for depth in (30, 800, 880, 920, 960, 100_000):
        for leaf, name in enumerate(("deep", "deeper")):
            nested = '{"\\u001b[2J": ' * depth + str(leaf) + "}" * depth
            (tmp_path / name).write_text(json.dumps({**receipt, "last": "here"}).replace('"here"}', nested + "}"))
        assert cli.main(["compare", str(tmp_path / "deep"), str(tmp_path / "deeper")]) in (0, CorruptInput.exit_code)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out
    assert "Traceback" not in shown.err
