"""What one of Olive's lines or workflows adds up to, and the line of slmops that does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from slmops.compat import Native
from slmops.core.errors import Unsupported, UsageError

PROVIDERS = {
    "CPUExecutionProvider": ("onnx", "cpu"),
    "CUDAExecutionProvider": ("onnx", "cuda"),
    "DmlExecutionProvider": ("onnx", "dml"),
    "QNNExecutionProvider": ("onnx", "qnn"),
    "OpenVINOExecutionProvider": ("openvino", "cpu"),
}
"""Olive's execution provider -> (format, --provider)."""
DEFAULT_PROVIDER = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider", "npu": "QNNExecutionProvider"}
PRECISIONS: dict[str, tuple[int, bool] | str] = {
    "int4": (4, True), "uint4": (4, False), "int8": (8, True), "uint8": (8, False),
    "fp16": "f16", "fp32": "f32", "bf16": "bf16", "float16": "f16", "float32": "f32", "bfloat16": "bf16",
}  # fmt: skip
"""Olive's precision -> (bits, symmetric), or the name of plain numbers."""
TASKS = ("text-generation", "text-generation-with-past")


@dataclass
class Wanted:
    """What a line or a workflow adds up to."""

    source: str = ""
    out: str = ""
    adapter: str | None = None
    beside: bool = False
    form: str = "onnx"
    provider: str = "cpu"
    device: str | None = None
    bits: int = 0
    """Of codes; 0 for plain numbers."""
    dense: str = "f32"
    symmetric: bool = True
    group: int = 32
    dry: bool = False
    notes: list[str] = field(default_factory=list)

    def native(self) -> Native:
        if not self.source:
            raise UsageError("no model is named", "give --model_name_or_path, or input_model with its model_path")
        words = ["convert", self.source, "--to", self.form.replace("_", "-"), "--quantize", self._scheme()]
        words += ["--provider", self.provider] if self.form == "onnx" and self.provider != "cpu" else []
        words += ["--device", self.device] if self.device else []
        words += ["--adapter", self.adapter] if self.adapter else []
        words += ["--beside"] if self.beside and self.adapter else []
        return Native((*words, "-o", self.out), tuple(dict.fromkeys(self.notes)), self.dry)

    def precision(self, name: str) -> None:
        """Take one of Olive's names for a precision."""
        found = PRECISIONS.get(name)
        if found is None:
            raise Unsupported(f"the precision {name!r} is not done", f"one of: {', '.join(list(PRECISIONS)[:7])}")
        if isinstance(found, str):
            self.bits, self.dense = 0, found
        else:
            self.bits, self.symmetric = found

    def block(self, size: int) -> None:
        """Take a group's size."""
        if size not in (16, 32, 64, 128, 256):
            what = "groups as long as the row" if size == -1 else f"groups of {size}"
            raise Unsupported(f"{what} are not done", "16, 32, 64, 128 and 256 are; 32 travels to every format")
        self.group = size

    def on(self, device: str | None, provider: str | None) -> None:
        """Take where it will run."""
        name = provider or DEFAULT_PROVIDER[device or "cpu"]
        if name not in PROVIDERS:
            raise Unsupported(f"nothing is written for {name}", f"one of: {', '.join(PROVIDERS)}")
        self.form, self.provider = PROVIDERS[name]
        self.device = device if device in ("gpu", "npu") else self.device

    def _scheme(self) -> str:
        if not self.bits:
            return self.dense
        if self.group == 32 and (self.bits, self.symmetric) != (8, False):
            return {(4, True): "q4", (4, False): "q4a", (8, True): "q8"}[self.bits, self.symmetric]
        return f"int{self.bits}-g{self.group}{'' if self.symmetric else '-zero'}-f16"
