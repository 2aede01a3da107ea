"""OpenVINO with its stateful back end (SDPA): one sequence, its KV cache inside the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.tensor import Floats
from slmops.engines import Footprint, Options, _openvino, _openvino_flow
from slmops.engines import Session as Session

FORMATS = ("openvino",)
MODULES = ("openvino", "openvino_genai", "openvino_tokenizers")
PACKAGE = "openvino-genai"
EXTRA = "openvino"
CAN = frozenset({"logits", "generate", "encode", "render", "adapt"})
SAMPLES, CONSTRAINTS = _openvino_flow.SAMPLES - {"logprobs"}, _openvino_flow.CONSTRAINTS
"""Its stream tells tokens alone."""
DEVICES = _openvino.DEVICES
KV = _openvino.KV
FOOTPRINT = Footprint(base=141_000_000, copies=2.4, plain=2.08, efficiency=0.69)


def open(folder: Path, options: Options) -> Session:
    """Open a folder with openvino_model.xml. For a proof all rounding is off."""
    return _openvino.Session(folder, "SDPA", Stateful, options)


class Stateful:
    """The graph as it is written: ReadValue and Assign keep keys and values from one call to the next."""

    def __init__(self, core: Any, model: Any, device: str, properties: Mapping[str, Any]) -> None:
        self.compiled = core.compile_model(model, device, properties)
        self._request = self.compiled.create_infer_request()

    def run(self, ids: Sequence[int], chunks: Sequence[int]) -> Iterator[Floats]:
        self._request.reset_state()
        start = 0
        for length in chunks:
            stop = start + length
            inputs = {
                "input_ids": np.array([ids[start:stop]], np.int64),
                "attention_mask": np.ones((1, stop), np.int64),
                "position_ids": np.arange(start, stop, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            yield self._request.infer(inputs, share_inputs=True, share_outputs=True)["logits"][0]
            start = stop
