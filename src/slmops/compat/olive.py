"""Microsoft Olive's command line and workflow files, as slmops' verbs.

Studied: olive/cli/*.py and docs/source/how-to/cli of main, 2026-08-20 (0.11.0.dev0). What changes nothing here is left out
with a note; what would change the result and is not done is refused, and so is every key and option that is not known.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slmops.compat import Native
from slmops.compat._olive_passes import TABLE
from slmops.compat._olive_wanted import DEFAULT_PROVIDER, TASKS, Wanted
from slmops.core.errors import CorruptInput, SourceNotFound, Unsupported, UsageError

TITLE = "Olive 0.11.0.dev0 (main of 2026-08-20)"
MOST_BYTES = 1 << 20


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"olive {self.prog.rpartition(' ')[2]}: {message}", "what is known: slmops compat olive")


def translate(words: Sequence[str]) -> Native:
    """Olive's words after `olive`. Raises UsageError for what is not known, Unsupported for what is not done."""
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise UsageError(f"olive {command} is not done here", f"one of: {', '.join(COMMANDS)}")
    return COMMANDS[command](rest).native()


def _parser(command: str, out: str | None, *, required: bool = True) -> _Parser:
    """With the options that all of Olive's commands share."""
    parser = _Parser(prog=f"olive {command}", allow_abbrev=False, add_help=False)
    parser.add_argument("-m", "--model_name_or_path", required=required)
    parser.add_argument("-a", "--adapter_path")
    parser.add_argument("-o", "--output_path", default=out)
    parser.add_argument("-t", "--task", default=TASKS[0])
    for ignored in ("--trust_remote_code", "--disable_telemetry", "--save_config_file"):
        parser.add_argument(ignored, action="store_true")
    parser.add_argument("--log_level")
    parser.add_argument("--dry_run", action="store_true")
    return parser


def _started(found: argparse.Namespace) -> Wanted:
    wanted = Wanted(found.model_name_or_path or "", found.output_path or "", found.adapter_path, dry=found.dry_run)
    _text_task(found.task)
    if found.trust_remote_code:
        wanted.notes.append("trust_remote_code is left out: slmops runs no code of a checkpoint")
    return wanted


def _text_task(task: Any) -> None:
    if task not in TASKS:
        raise Unsupported(f"the task {task!r} is not done", "models that generate text are")


def auto_opt(words: Sequence[str]) -> Wanted:
    parser = _parser("auto-opt", "auto-opt-output")
    parser.add_argument("--device", choices=tuple(DEFAULT_PROVIDER), default="cpu")
    parser.add_argument("--provider")
    parser.add_argument("--precision")
    for ignored in ("--use_ort_genai", "--use_model_builder", "--use_dynamo_exporter"):
        parser.add_argument(ignored, action="store_true")
    found = parser.parse_args(words)
    wanted = _started(found)
    wanted.on(found.device, found.provider)
    gpu = wanted.form == "onnx" and wanted.provider != "cpu"
    wanted.precision(found.precision or ("fp16" if gpu else "fp32"))
    wanted.beside = True
    return wanted


def optimize(words: Sequence[str]) -> Wanted:
    parser = _parser("optimize", "optimized-model")
    parser.add_argument("--device", choices=tuple(DEFAULT_PROVIDER))
    parser.add_argument("--provider")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--block_size", type=int)
    parser.add_argument(
        "--exporter", choices=("model_builder", "dynamo_exporter", "torchscript_exporter", "optimum_exporter")
    )
    parser.add_argument("--modality", choices=("text",))
    parser.add_argument("--extra_mb_options", default="")
    found = parser.parse_args(words)
    wanted = _started(found)
    wanted.on(found.device, found.provider or (None if found.device != "gpu" else "CUDAExecutionProvider"))
    wanted.precision(found.precision)
    if found.block_size is not None:
        wanted.block(found.block_size)
    pairs = [pair.partition("=") for pair in filter(None, found.extra_mb_options.split(","))]
    _builder(wanted, {key.strip(): value.strip() for key, _, value in pairs}, "--extra_mb_options")
    return wanted


def quantize(words: Sequence[str]) -> Wanted:
    parser = _parser("quantize", "quantized-model")
    parser.add_argument("--algorithm", default="rtn")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--implementation", choices=("olive", "ort"), default="olive")
    found = parser.parse_args(words)
    wanted = _started(found)
    if found.algorithm.lower() == "gptq":
        raise Unsupported(
            "codes are solved for on a text of yours here, and Olive's line names none",
            "slmops convert SRC --to compressed-tensors --quantize q4 --calibrate FILE -o OUT",
        )
    if found.algorithm.lower() != "rtn":
        raise Unsupported(
            f"the algorithm {found.algorithm} is not done", "rtn is, and gptq: slmops convert --calibrate FILE"
        )
    wanted.precision(found.precision)
    wanted.form = "compressed_tensors" if found.implementation == "olive" else "onnx"
    return wanted


def capture(words: Sequence[str]) -> Wanted:
    parser = _parser("capture-onnx-graph", "onnx-model")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--int4_block_size", type=int)
    parser.add_argument("--int4_accuracy_level")
    parser.add_argument("--conversion_device", choices=("cpu", "gpu"))
    parser.add_argument("--target_opset")
    for ignored in ("--use_model_builder", "--use_dynamo_exporter", "--use_mobius_builder", "--use_ort_genai"):
        parser.add_argument(ignored, action="store_true")
    found = parser.parse_args(words)
    wanted = _started(found)
    wanted.precision(found.precision)
    if found.int4_block_size is not None:
        wanted.block(found.int4_block_size)
    return wanted


def run(words: Sequence[str]) -> Wanted:
    parser = _parser("run", None, required=False)
    parser.add_argument("--config", "--run-config", required=True)
    found = parser.parse_args(words)
    said = _workflow(Path(found.config))
    wanted = _started(found)
    for key in set(said) - set(KEYS):
        raise UsageError(f"{found.config}: {key} is not known, or not done", f"known are: {', '.join(KEYS)}")
    model = _table(said.get("input_model") or {}, "input_model")
    model = {**_table(model.pop("config", {}), "input_model.config"), **model}
    if kind := {key.lower() for key in (str(model.get("type", "HfModel")),)} - {"hfmodel", "hfmodelhandler"}:
        raise Unsupported(f"an input model of the type {min(kind)} is not done", "HfModel is")
    for key in set(model) - {"type", "model_path", "task", "load_kwargs", "adapter_path"}:
        raise UsageError(f"{found.config}: input_model.{key} is not known, or not done")
    _text_task(model.get("task", TASKS[0]))
    wanted.source = wanted.source or str(model.get("model_path", ""))
    wanted.adapter = wanted.adapter or model.get("adapter_path")
    wanted.out = wanted.out or str(said.get("output_dir") or "outputs")
    wanted.on(*_where(said, found.config))
    passes = _table(said.get("passes") or {}, "passes")
    for name, one in passes.items():
        one = _table(one[0] if isinstance(one, list) and len(one) == 1 else one, f"passes.{name}")
        settings = {**_table(one.pop("config", {}), f"passes.{name}.config"), **one}
        kind_of = str(settings.pop("type", ""))
        _pass(wanted, kind_of, settings, f"passes.{name}")
    if not passes:
        raise UsageError(f"{found.config} has no passes", "name at least one, such as ModelBuilder")
    return wanted


COMMANDS: Mapping[str, Callable[[Sequence[str]], Wanted]] = {
    "auto-opt": auto_opt,
    "capture-onnx-graph": capture,
    "optimize": optimize,
    "quantize": quantize,
    "run": run,
}
KEYS = ("$schema", "workflow_id", "input_model", "systems", "passes", "host", "target", "output_dir", "cache_dir",
        "clean_cache", "log_severity_level", "evaluate_input_model")  # fmt: skip
"""Of a workflow; what else Olive knows (evaluators, search, data, packaging, builds) is not done."""


def _workflow(path: Path) -> dict[str, Any]:
    """A JSON or YAML file as a table; bounded, and YAML by its safe loader."""
    import yaml

    if not path.is_file():
        raise SourceNotFound(f"there is no file {path}", "give Olive's workflow, in JSON or YAML")
    if path.stat().st_size > MOST_BYTES:
        raise CorruptInput(f"{path} is too large for a workflow")
    try:
        text = path.read_text(encoding="utf-8")
        said = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise CorruptInput(f"{path}: {str(error)[:200]}", "it is no JSON or YAML") from None
    return _table(said, str(path))


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorruptInput(f"{what} is no table of keys and values")
    return {str(key): held for key, held in value.items()}


def _where(said: Mapping[str, Any], config: str) -> tuple[str | None, str | None]:
    """(device, provider) of the target system."""
    systems = _table(said.get("systems") or {}, "systems")
    target = said.get("target")
    if isinstance(target, str) and systems and target not in systems:
        raise UsageError(f"{config}: there is no system called {target!r}", f"one of: {', '.join(systems)}")
    system = _table(
        systems.get(target) if isinstance(target, str) and systems else next(iter(systems.values()), {}), "system"
    )
    system = {**_table(system.pop("config", {}), "system.config"), **system}
    for key in set(system) - {"type", "accelerators", "hf_token"}:
        raise UsageError(f"{config}: systems.{key} is not known, or not done")
    if str(system.get("type", "LocalSystem")) != "LocalSystem":
        raise Unsupported(f"a system of the type {system['type']} is not done", "LocalSystem is")
    held = system.get("accelerators") or [{}]
    accelerator = _table(
        held[0] if isinstance(held, list) and len(held) == 1 else None, "accelerators, of which one is done,"
    )
    for key in set(accelerator) - {"device", "execution_providers"}:
        raise UsageError(f"{config}: accelerators.{key} is not known, or not done")
    device, providers = accelerator.get("device"), accelerator.get("execution_providers") or []
    if device is not None and device not in DEFAULT_PROVIDER:
        raise UsageError(f"{config}: there is no device {device!r}", f"one of: {', '.join(DEFAULT_PROVIDER)}")
    if not isinstance(providers, list) or len(providers) > 1:
        raise Unsupported("several execution providers in one run are not done", "name one, and run it again for the other")
    return device, str(providers[0]) if providers else None


CAPTURES = ("ModelBuilder", "MobiusBuilder", "OnnxConversion", "OptimumConversion")
FILES = ("save_as_external_data", "all_tensors_to_one_file", "external_data_name", "size_threshold", "convert_attribute",
         "target_opset", "use_dynamo_exporter", "save_metadata_for_token_generation", "past_key_value_name", "optimize",
         "dynamic", "device")  # fmt: skip
"""Settings that say how Olive's files are made, and change no number."""


def _pass(wanted: Wanted, kind: str, settings: dict[str, Any], where: str) -> None:
    """Take one pass of a workflow."""
    if kind not in TABLE:
        raise UsageError(f"{where}: Olive has no pass {kind!r} that is known here", "the list: slmops compat olive")
    verdict, said = TABLE[kind]
    if verdict == "not done":
        raise Unsupported(f"{where}: {kind} is not done: {said}", "take the pass out, or see slmops compat olive")
    if verdict in ("no need", "engine"):
        wanted.notes.append(f"{kind} is left out ({verdict}): {said}")
        return
    left = {key: value for key, value in settings.items() if key not in FILES}
    if kind in CAPTURES:
        wanted.form = "onnx"
        _builder(wanted, left, where)
    elif kind in ("Rtn", "OnnxBlockWiseRtnQuantization"):
        wanted.form = "compressed_tensors" if kind == "Rtn" and wanted.form != "openvino" else wanted.form
        _codes(wanted, left, where)
    elif kind in ("OnnxDynamicQuantization", "IncDynamicQuantization"):
        wanted.precision(str(left.pop("precision", left.pop("weight_type", "int8"))).lower().removeprefix("q"))
        wanted.notes.append(f"{kind}: {said}")
        _none_left(left, where)
    elif kind == "OnnxFloatToFloat16":
        wanted.precision("fp16")
        _none_left(left, where)
    elif kind in ("OpenVINOConversion", "OpenVINOOptimumConversion", "OpenVINOWeightCompression"):
        wanted.form = "openvino"
        inner: dict[str, Any] = {}
        for key in ("ov_quant_config", "compress_config", "extra_args"):
            inner |= _table(left.pop(key, {}), f"{where}.{key}")
        _codes(wanted, {**inner, **left}, where)
    elif kind == "ConvertHfToGGUF":
        wanted.form = "gguf"
        _none_left(left, where)
    elif kind in ("MergeAdapterWeights", "ExtractAdapters"):
        wanted.beside = kind == "ExtractAdapters"
        _none_left(left, where)
    else:
        raise Unsupported(f"{where}: {kind} has no place in a workflow that is translated", f"by hand: {said}")


def _builder(wanted: Wanted, left: dict[str, Any], where: str) -> None:
    """ModelBuilder's settings."""
    if "precision" in left:
        wanted.precision(str(left.pop("precision")))
    if "torch_dtype" in left:
        wanted.precision(str(left.pop("torch_dtype")))
    if "int4_block_size" in left:
        wanted.block(_number(left.pop("int4_block_size"), where))
    if "int4_is_symmetric" in left:
        wanted.symmetric = str(left.pop("int4_is_symmetric")).lower() in ("true", "1")
    if str(left.pop("int4_algo_config", "default")) not in ("default", "rtn"):
        raise Unsupported(f"{where}: only int4_algo_config default and rtn are done")
    if (kinds := left.pop("int4_op_types_to_quantize", None)) is not None:
        wanted.notes.append(f"int4_op_types_to_quantize {kinds}: embedding and head are quantized too, as the rest")
    if left.pop("int4_accuracy_level", None) is not None:
        wanted.notes.append("int4_accuracy_level: 4 is written for processors, where activations are rounded to 8 bits")
    _none_left(left, where)


def _codes(wanted: Wanted, left: dict[str, Any], where: str) -> None:
    """Settings that say bits, groups and zero points, by the names of several passes."""
    named = left.pop("weight_format", None) or left.pop("precision", None) or left.pop("mode", None)
    if named is not None:
        name, _, form = str(named).lower().partition("_")
        wanted.precision(name)
        wanted.symmetric = form != "asym" if form else wanted.symmetric
    elif "bits" in left or not wanted.bits:
        wanted.precision(f"int{left.pop('bits', 4)}")
    for key in ("group_size", "block_size"):
        if key in left:
            wanted.block(_number(left.pop(key), where))
    for key in ("sym", "is_symmetric"):
        if key in left:
            wanted.symmetric = bool(left.pop(key))
    if float(left.pop("ratio", 1.0)) != 1.0:
        raise Unsupported(f"{where}: a ratio below 1 (some layers in 8 bits) is not done for this format", "leave it out")
    if int(left.pop("axis", 0)) not in (0, -1, 1) or left.pop("accuracy_level", 4) not in (0, 4, None):
        raise Unsupported(f"{where}: another axis or accuracy level is not done", "leave them out")
    _none_left(left, where)


def _number(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {value!r} is no whole number") from None


def _none_left(left: Mapping[str, Any], where: str) -> None:
    if left:
        raise UsageError(f"{where}: {min(left)} is not known, or not done", "leave it out, or see slmops compat olive")
