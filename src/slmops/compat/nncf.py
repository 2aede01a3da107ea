"""NNCF, OpenVINO's compression framework: it has no command line, so there is only the table of its algorithms."""

from __future__ import annotations

TITLE = "NNCF 3.4"
_STATIC = "slmops convert --to openvino --quantize w8a8_static --calibrate FILE"
_TRAINING = "training is not in slmops yet"

TABLE: dict[str, tuple[str, str]] = {
    "compress_weights INT8_SYM": ("ours", "slmops convert --to openvino --quantize q8 (groups of 32, not whole rows)"),
    "compress_weights INT8_ASYM": ("ours", "slmops convert --to openvino --quantize int8-g32-zero-f16"),
    "compress_weights INT4_SYM": ("ours", "slmops convert --to openvino --quantize q4; other groups: int4-g128-f16"),
    "compress_weights INT4_ASYM": ("ours", "slmops convert --to openvino --quantize q4a; other groups: int4-g128-zero-f16"),
    "compress_weights NF4": ("not done", "codes of a table have no exact form in the other engines"),
    "compress_weights MXFP4, MXFP8, FP8, FP4": ("not done", "MXFP4 is read from GGUF and passed on; the others are not"),
    "compress_weights CODEBOOK, ADAPTIVE_CODEBOOK": ("not done", "codes of a table have no exact form in the other engines"),
    "ratio, sensitivity_metric (mixed precision)": ("ours", "slmops convert --quantize mixed:5bpw --calibrate FILE"),
    "all_layers": ("ours", "embedding and head are quantized too, as the rest"),
    "backup_mode": ("no need", "a matrix that a group does not divide keeps its own numbers, and the plan says so"),
    "ignored_scope": ("not done", "what a tensor is for decides (its role), not its name"),
    "AWQ": ("not done", "AWQ checkpoints are read, not made; slmops convert --calibrate solves codes instead"),
    "scale_estimation": ("ours", "slmops convert --calibrate FILE"),
    "GPTQ": ("ours", "slmops convert --calibrate FILE: error feedback, then coordinate descent"),
    "lora_correction": ("not done", "a correction beside the codes costs time at every token, and no other engine takes it"),
    "quantize: MinMax": ("ours", f"{_STATIC}: the step of least squared error"),
    "quantize: SmoothQuant": ("ours", f"{_STATIC}: factors are powers of two"),
    "quantize: ChannelAlignment": ("not done", "for convolutions"),
    "quantize: BiasCorrection, FastBiasCorrection": ("not done", "decoders have few biases; gates say what rounding cost"),
    "quantize_with_accuracy_control": ("ours", "slmops optimize: candidates are measured, and gates decide"),
    "KV cache precision (OpenVINO's KV_CACHE_PRECISION)": (
        "ours",
        "--kv f32, f16 or q8; OpenVINO's own is 8 bits on processors",
    ),
    "quantization-aware training, LoRA with FakeQuantize": ("not done", _TRAINING),
    "prune (magnitude, movement, filters)": ("not done", "none of the engines gains from zeros in a decoder's weights"),
    "knowledge distillation": ("not done", _TRAINING),
    "BatchNorm adaptation": ("not done", "decoders have no such layers"),
    "activation sparsity": ("not done", "no engine here skips what is zero"),
}
