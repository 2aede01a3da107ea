"""The receipt: refused where it is not what verify and serve count on, whole on disk or absent."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slmops import compile as compiler
from slmops import load, prove
from slmops.core import receipt
from slmops.core.errors import CorruptInput, OutputExists, SourceNotFound, VerificationFailed
from slmops.run import Artifact

WHOLE: dict[str, Any] = {
    "format": "gguf",
    "config": {"model_type": "llama"},
    "tokenizer": {"bos": None, "eos": [2], "adds_bos": False},
    "chat_template": None,
    "tensors": {"embedding": {"stored": "q4", "shape": [8, 4], "crc": {"q4": [1, 2]}}},
    "files": {"model.gguf": 12},
    "probes": {"ids": [1], "texts": [["a", [3]]], "conversations": [[[{"role": "user"}], "text"]]},
}


def saved(folder: Path, facts: object) -> Path:
    (folder / receipt.NAME).write_text(json.dumps(facts))
    return folder


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    assert receipt.load(saved(tmp_path, WHOLE)) == WHOLE
    with pytest.raises(SourceNotFound, match="not an artifact"):
        receipt.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("tensors.embedding.crc", [1, 2]),  # of before checksums had a form's name
        ("tensors.embedding.crc.q4", ["1"]),
        ("tensors.embedding.shape", [8, "4"]),
        ("tensors.embedding", None),
        ("tensors", []),
        ("format", 3),
        ("config", "llama"),
        ("tokenizer.eos", 2),
        ("tokenizer", None),
        ("files.model.gguf", "12"),
        ("probes.ids", None),
        ("probes.texts", [["a"]]),
        ("probes.conversations", [["a", "text"]]),
    ],
)
def test_what_is_not_so_is_named(tmp_path: Path, place: str, value: object) -> None:
    facts = copy.deepcopy(WHOLE)
    *holders, key = place.replace("model.gguf", "model_gguf").split(".")
    inner = facts
    for holder in holders:
        inner = inner[holder]
    inner[key.replace("_", ".")] = value
    with pytest.raises(CorruptInput, match="earlier version") as caught:
        receipt.load(saved(tmp_path, facts))
    assert place in str(caught.value)


@pytest.mark.parametrize("facts", [None, [], 3, "text", {}])
def test_what_is_no_receipt_at_all(tmp_path: Path, facts: object) -> None:
    with pytest.raises(CorruptInput, match="earlier version"):
        receipt.load(saved(tmp_path, facts))


def test_an_earlier_versions_artifact_is_neither_proven_nor_kept(toy: Callable[..., Path], tmp_path: Path) -> None:
    """Its checksums are a list. Verify and run say so; convert asks for --force."""
    model, out = load(toy("llama")), tmp_path / "out"
    compiler.convert(model, ["mlx"], "q4", out, verify=False)
    facts = receipt.load(out)
    for entry in facts["tensors"].values():
        entry["crc"] = next(iter(entry["crc"].values()))
    receipt.save(out, facts)
    for use in (prove.verify, Artifact.open):
        with pytest.raises(CorruptInput, match="earlier version"):
            use(out)
    with pytest.raises(OutputExists) as caught:
        compiler.convert(model, ["mlx"], "q4", out, verify=False)
    assert "--force" in caught.value.cure
    assert compiler.convert(model, ["mlx"], "q4", out, verify=False, replace=True)[0].fresh


def test_blocks_that_the_receipt_does_not_count_are_told(toy: Callable[..., Path], tmp_path: Path) -> None:
    (made,) = compiler.convert(load(toy("llama")), ["mlx"], "q4", tmp_path / "out", verify=False)
    facts = receipt.load(made.folder)
    facts["tensors"]["embedding"]["crc"] = {form: sums * 2 for form, sums in facts["tensors"]["embedding"]["crc"].items()}
    with pytest.raises(VerificationFailed, match="embedding has 1 blocks, written were 2"):
        prove.check_tensors(load(made.folder), facts)
