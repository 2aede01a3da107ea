"""Olive's lines and workflows, as its own documentation has them (docs/source/how-to, main of 2026-08-20)."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from slmops import cli
from slmops.cli import compat, parse
from slmops.compat import VERDICTS, nncf, olive
from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, Unsupported, UsageError

DOC = Path(__file__).resolve().parent.parent.parent / "docs" / "olive.md"
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"
PHI: dict[str, Any] = {
    "input_model": {
        "type": "HfModel",
        "model_path": "microsoft/Phi-3.5-mini-instruct",
        "load_kwargs": {"trust_remote_code": True},
    },
    "passes": {
        "mb": {
            "type": "ModelBuilder",
            "precision": "int4",
            "int4_block_size": 32,
            "int4_accuracy_level": 4,
            "int4_op_types_to_quantize": ["MatMul", "Gather"],
            "save_as_external_data": True,
        }
    },
    "log_severity_level": 1,
    "output_dir": "models/phi3_5",
}
"""Of how-to/configure-workflows/build-workflow.md, without its graph surgeries."""


def line(text: str) -> str:
    return shlex.join(olive.translate(shlex.split(text)).words)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            f"auto-opt --model_name_or_path {LLAMA} --trust_remote_code --output_path models/llama/ao --device cpu "
            "--provider CPUExecutionProvider --use_ort_genai --precision int4 --log_level 1",
            f"convert {LLAMA} --to onnx --quantize q4 -o models/llama/ao",
        ),
        (
            "auto-opt --model_name_or_path m --adapter_path a --device cpu --provider CPUExecutionProvider --use_ort_genai "
            "--output_path o --log_level 1",
            "convert m --to onnx --quantize f32 --adapter a --beside -o o",
        ),
        (
            "optimize --model_name_or_path microsoft/Phi-3.5-mini-instruct --device cpu --provider CPUExecutionProvider "
            "--precision int4",
            "convert microsoft/Phi-3.5-mini-instruct --to onnx --quantize q4 -o optimized-model",
        ),
        (
            "optimize -m m --provider OpenVINOExecutionProvider --device npu --precision int4 --block_size 128",
            "convert m --to openvino --quantize int4-g128-f16 --device npu -o optimized-model",
        ),
        (
            "optimize -m m --provider CUDAExecutionProvider --precision fp16",
            "convert m --to onnx --quantize f16 --provider cuda -o optimized-model",
        ),
        (
            "optimize -m m --precision int4 --extra_mb_options int4_is_symmetric=false,int4_block_size=32",
            "convert m --to onnx --quantize q4a -o optimized-model",
        ),
        ("auto-opt -m m --device gpu", "convert m --to onnx --quantize f16 --provider cuda --device gpu -o auto-opt-output"),
        ("quantize -m m --algorithm rtn", "convert m --to compressed-tensors --quantize q8 -o quantized-model"),
        (
            "quantize -m m --precision uint8 --implementation ort -o o",
            "convert m --to onnx --quantize int8-g32-zero-f16 -o o",
        ),
        (
            "capture-onnx-graph -m m --use_model_builder --precision int4 --int4_block_size 64",
            "convert m --to onnx --quantize int4-g64-f16 -o onnx-model",
        ),
    ],
)
def test_lines(theirs: str, ours: str) -> None:
    assert line(theirs) == ours
    parse(shlex.split(ours))


@pytest.mark.parametrize(
    ("theirs", "kind", "said"),
    [
        ("optimize -m m --precision int4 --act_precision int8", UsageError, "act_precision"),
        ("optimize -m m --provider WebGpuExecutionProvider", Unsupported, "WebGpu"),
        ("optimize -m m --precision nf4", Unsupported, "nf4"),
        ("optimize -m m --precision int4 --block_size -1", Unsupported, "long as the row"),
        ("optimize -m m --precision int4 --extra_mb_options int4_colour=3", UsageError, "int4_colour"),
        ("quantize -m m --algorithm awq", Unsupported, "awq"),
        ("quantize -m m --algorithm gptq", Unsupported, "a text of yours"),
        ("auto-opt -m m --num-splits 2", UsageError, "num-splits"),
        ("auto-opt --precision int4", UsageError, "required"),
        ("auto-opt -m m --task text-classification", Unsupported, "text-classification"),
        ("finetune -m m", UsageError, "finetune"),
        ("run --config none.json", SourceNotFound, "none.json"),
    ],
)
def test_what_is_refused(theirs: str, kind: type[SlmopsError], said: str) -> None:
    with pytest.raises(kind) as error:
        olive.translate(shlex.split(theirs))
    assert said in str(error.value)


def write(folder: Path, said: Any, name: str = "w.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(said))
    return path


def test_a_workflow(tmp_path: Path) -> None:
    found = olive.translate(["run", "--config", str(write(tmp_path, PHI))])
    assert shlex.join(found.words) == "convert microsoft/Phi-3.5-mini-instruct --to onnx --quantize q4 -o models/phi3_5"
    assert any("embedding and head" in note for note in found.notes)


def test_a_workflow_in_yaml_with_a_system(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(f"""
input_model:
  type: HfModel
  model_path: {LLAMA}
systems:
  local_system:
    type: LocalSystem
    accelerators:
      - device: npu
        execution_providers:
          - OpenVINOExecutionProvider
passes:
  conversion:
    type: OpenVINOOptimumConversion
    extra_args: {{device: npu}}
    ov_quant_config: {{weight_format: int4, group_size: 64, sym: true, ratio: 1.0}}
  io: {{type: OpenVINOIoUpdate, static: false}}
host: local_system
target: local_system
cache_dir: cache
output_dir: out
""")
    with pytest.raises(UsageError, match="device"):
        olive.translate(["run", "--config", str(path)])
    path.write_text(path.read_text().replace("    extra_args: {device: npu}\n", ""))
    found = olive.translate(["run", "--config", str(path)])
    assert shlex.join(found.words) == f"convert {LLAMA} --to openvino --quantize int4-g64-f16 --device npu -o out"
    assert any("OpenVINOIoUpdate" in note for note in found.notes)


PASS = PHI["passes"]["mb"]


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"evaluators": {}}, UsageError, "evaluators"),
        ({"colour": 1}, UsageError, "colour"),
        ({"passes": {"gs": {"type": "GraphSurgeries", "surgeries": []}}}, Unsupported, "GraphSurgeries"),
        ({"passes": {"x": {"type": "Frobnicate"}}}, UsageError, "Frobnicate"),
        ({"passes": {"mb": {**PASS, "int4_colour": 1}}}, UsageError, "int4_colour"),
        ({"passes": {}}, UsageError, "no passes"),
        ({"passes": [1]}, CorruptInput, "passes"),
        ({"input_model": {"type": "TensorFlowModel", "model_path": "m"}}, Unsupported, "tensorflow"),
        ({"input_model": {"type": "HfModel", "model_path": "m", "io_config": {}}}, UsageError, "io_config"),
        ({"systems": {"a": {"type": "Docker"}}, "target": "a"}, Unsupported, "Docker"),
        ({"systems": {"a": {"type": "LocalSystem"}}, "target": "b"}, UsageError, "'b'"),
        ({"systems": {"a": {"accelerators": [{"device": "toaster"}]}}}, UsageError, "toaster"),
        ({"systems": {"a": {"accelerators": 3}}}, CorruptInput, "accelerators"),
    ],
)
def test_workflows_that_are_refused(changes: Any, kind: type[SlmopsError], said: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as error:
        olive.translate(["run", "--config", str(write(tmp_path, {**PHI, **changes}))])
    assert said in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]", "!!python/object/apply:os.system ['true']", "a: b: c", ""])
def test_files_that_are_no_workflow(content: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(content)
    with pytest.raises(CorruptInput):
        olive.translate(["run", "--config", str(path)])


def test_the_document_says_what_the_tables_say() -> None:
    text = DOC.read_text(encoding="utf-8")
    for name, tool in (("olive", olive), ("nncf", nncf)):
        assert compat.table(name) in text
        assert {verdict for verdict, _ in tool.TABLE.values()} <= set(VERDICTS)


def test_the_documents_examples_parse() -> None:
    text = DOC.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [
        each
        for block in blocks
        for each in block.replace("\\\n", " ").splitlines()
        if each.startswith("slmops compat olive ")
    ]
    assert len(lines) >= 4
    for each in lines:
        words = shlex.split(each.split("  #")[0])[3:]
        native = None if words[:1] in ([], ["run"]) else olive.translate([one for one in words if one != "--dry-run"])
        if native:
            parse(list(native.words))
    (workflow,) = re.findall(r"```json\n(.*?)```", text, re.S)
    assert json.loads(workflow)["passes"]


def test_the_documents_workflow(tmp_path: Path) -> None:
    (workflow,) = re.findall(r"```json\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)
    found = olive.translate(["run", "--config", str(write(tmp_path, json.loads(workflow)))])
    assert found.words[0] == "convert"


def test_shown_and_not_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compat", "olive", "auto-opt", "-m", "m", "--precision", "int4", "--dry-run"]) == 0
    assert capsys.readouterr().out == "slmops convert m --to onnx --quantize q4 -o auto-opt-output\n"
    assert cli.main(["compat", "olive", "auto-opt", "-m", "m", "--precision", "int4", "--dry_run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["native"][:3] == ["slmops", "convert", "m"]
    assert cli.main(["compat", "olive"]) == 0
    assert "| ModelBuilder | ours |" in capsys.readouterr().out
    assert cli.main(["compat", "nncf", "compress"]) == UsageError.exit_code
    assert cli.main(["compat", "frobnicate"]) == UsageError.exit_code
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs("onnxruntime_genai")
def test_it_runs(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = ["auto-opt", "-m", str(sample), "--device", "cpu", "--provider", "CPUExecutionProvider", "--precision", "int4"]
    assert cli.main(["compat", "olive", *line, "-o", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["scheme"] == "q4" and "slmops convert" in said.err
    assert (out / "genai_config.json").is_file() and (out / "slmops.json").is_file()
