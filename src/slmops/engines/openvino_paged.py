"""OpenVINO with paged attention: the back end of continuous batching, and of OpenVINO Model Server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmops.core.errors import EngineFailed
from slmops.core.tensor import Floats
from slmops.engines import Footprint, Options, _openvino, _openvino_flow
from slmops.engines import Session as Session

FORMATS = ("openvino",)
MODULES = ("openvino", "openvino_genai", "openvino_tokenizers")
PACKAGE = "openvino-genai"
EXTRA = "openvino"
CAN = frozenset({"logits", "generate", "encode", "render", "parallel"})
SAMPLES, CONSTRAINTS = _openvino_flow.SAMPLES, _openvino_flow.CONSTRAINTS
DEVICES = ("cpu", "gpu")
KV = _openvino.KV
FOOTPRINT = Footprint(base=141_000_000, copies=2.4, plain=2.08, efficiency=0.71)


def open(folder: Path, options: Options) -> Session:
    """Open a folder with openvino_model.xml. For a proof all rounding is off.

    The cache of blocks grows with what is in flight, so requests in flight need no room of its own.
    """
    return _openvino.Session(folder, "PA", Paged, options)


class Paged:
    """The graph after OpenVINO's own pass to paged attention, with a cache of blocks that are handed in from outside."""

    def __init__(self, core: Any, model: Any, device: str, properties: Mapping[str, Any]) -> None:
        # The pass that GenAI runs in C++ when it loads a model for continuous batching; Python has it here only.
        from openvino._offline_transformations import paged_attention_transformation

        paged_attention_transformation(model)
        self.compiled = core.compile_model(model, device, properties)
        self._request = self.compiled.create_infer_request()
        self._caches = [item for item in self.compiled.inputs if "_cache." in item.any_name]
        if any(size.is_dynamic for item in self._caches for size in list(item.partial_shape)[1:]):
            raise EngineFailed(f"{device} does not tell the shape of its paged cache", "take the logits on the CPU")

    def run(self, ids: Sequence[int], chunks: Sequence[int]) -> Iterator[Floats]:
        import openvino

        # [blocks, heads, positions of a block, size]; 8-bit keys carry their scales as further positions, values do not.
        size = next(item for item in self._caches if item.any_name == "value_cache.0").partial_shape[2].get_length()
        blocks = -(-len(ids) // size)
        caches = {}
        for item in self._caches:
            shape = [blocks, *(extent.get_length() for extent in list(item.partial_shape)[1:])]
            caches[item.any_name] = openvino.Tensor(item.element_type, openvino.Shape(shape))
        start = 0
        for length in chunks:
            stop = start + length
            inputs = {
                "input_ids": np.array(ids[start:stop], np.int64),
                "position_ids": np.arange(start, stop, dtype=np.int64),
                "max_context_len": np.array(stop, np.int32),
                "past_lens": np.array([start], np.int32),
                "subsequence_begins": np.array([0, length], np.int32),
                "block_indices_begins": np.array([0, blocks], np.int32),
                "block_indices": np.arange(blocks, dtype=np.int32),
            }
            result = self._request.infer({**inputs, **caches}, share_inputs=True, share_outputs=True)["logits"]
            yield result.reshape(length, -1)
            start = stop
