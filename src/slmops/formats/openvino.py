"""OpenVINO IR as OpenVINO GenAI and Model Server open it: graph, weights, tokenizer and detokenizer models.

The graph is stateful and has the shapes that both of GenAI's back ends want (SDPA, and paged attention under continuous
batching). Weights lie in openvino_model.bin as they are multiplied, in groups with f16 scales: symmetric codes as i4 and i8
(the canonical code less its zero), others as u4 and u8 with zero points. w8a8 has one scale a row, and the graph asks for
activations in larger groups than the engine takes for groups of weights; or has them rounded by the model's own steps, as
FakeQuantize.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

from slmops.core import plugins
from slmops.core.layout import Layout
from slmops.core.model import Model, Weights
from slmops.core.scheme import Scheme
from slmops.core.spec import Spec
from slmops.formats import _checkpoint, _forms, _lora, _openvino_read, _openvino_tokenizer
from slmops.formats._openvino_graph import Emitter
from slmops.formats._openvino_weights import BIN
from slmops.quantize._affine import Affine, grid
from slmops.quantize.w8a8 import ByRow

TITLE = "OpenVINO"
adapter = _lora.alone
DENSE = ("f32", "f16", "bf16")
MIXES = ("q4", "q4a", "q8")
NATIVE = ("w8a8",)
TOLD = ("w8a8_static",)
STEPS = True
XML = "openvino_model.xml"


def detect(path: Path) -> bool:
    """A folder with openvino_model.xml, or that file."""
    return path.name == XML if path.is_file() else (path / XML).is_file()


def read(path: Path) -> Model:
    """The model in this folder. Raises SourceNotFound, CorruptInput or Unsupported; opens no weight."""
    return _openvino_read.read(path.parent if path.is_file() else path, XML, BIN)


def support(spec: Spec) -> None:
    """Every family of ours has its program, which is all that the graph needs."""


def forms(held: Scheme) -> list[Scheme]:
    """4 or 8 bits with f16 scales in groups as they are, symmetric (i4, i8) where that holds the codes."""
    if not isinstance(held, Affine):
        return []
    if isinstance(held, ByRow):
        return [held]
    widths = [bits for bits in (4, 8) if bits >= held.bits]
    symmetric: list[Scheme] = [grid(bits, held.group, "f16", zero=1 << (bits - 1)) for bits in widths[:1]]
    return [*symmetric, *(grid(bits, held.group, "f16") for bits in widths)]


def plan(model: Model) -> Layout:
    """Every byte's place: constants of the graph first as they come, each at a multiple of 64 bytes."""
    spec = model.spec
    support(spec)
    source, model = model, _forms.fitted(model, TITLE, forms)
    architecture = plugins.load("architectures", spec.family)
    emitter = Emitter(model.tensors, architecture.names(spec), model.steps)
    logits = architecture.forward(emitter, spec, Weights(model.tensors), emitter.ids)
    config = _checkpoint.config(model, _checkpoint.vectors(model), {})
    files = {XML: emitter.finish(logits, model.name), **_checkpoint.files(model, config), **_lora.peft(model)}
    notes = []
    jobs = []
    if importlib.util.find_spec("openvino_tokenizers"):
        jobs.append(partial(_openvino_tokenizer.convert, _openvino_tokenizer.request(model), model.tokenizer.json))
    else:
        notes.append('no tokenizer models were written for OpenVINO GenAI: pip install "slmops[openvino]" and convert again')
    return Layout(
        format="openvino",
        sizes={BIN: emitter.graph.nbytes},
        literals=tuple((BIN, offset, content) for offset, content in emitter.graph.literals),
        regions={role: tuple(regions) for role, regions in emitter.constants.regions.items()},
        files=files,
        side_jobs=tuple(jobs),
        forms=_forms.changed(source, model),
        notes=tuple(notes),
    )
