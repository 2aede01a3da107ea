"""Which files of a folder or a repository make a model: weights, config, tokenizer, template, documents; nothing that runs.

Chosen by names and sizes alone, so that a repository is judged before anything of it is fetched. A repository may hold many:
GGUF files by quantization, graphs in folders by device; each is a choice, and `--variant` names one.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmops.core import receipt
from slmops.core.errors import SourceNotFound, Unsupported, UsageError
from slmops.core.units import size
from slmops.registry import manifest

RECEIPT, CHECKPOINT = "receipt", "checkpoint"
"""An artifact of slmops; config.json beside safetensors, whatever quantization they hold."""
MOST_SMALL = 128 << 20
"""Bytes of a file that is no weights: the largest tokenizer.json have 35 MB."""
SHOWN = 40
SMALL = (".json", ".jinja", ".txt", ".model", ".md")
DOCUMENT = re.compile(r"(?i)(readme|licen[cs]e|notice|copying|use_policy|acceptable_use)[\w.-]*", re.ASCII)
TRAINING = re.compile(r"(?i)(trainer_state|training_|optimizer|scheduler|(all|train|eval)_results|pytorch_model)")
"""Small files that are of a training, or of weights that are not taken."""
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
KIND = re.compile(
    r"(?i)(?<![a-z0-9])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|FP16|F32|MXFP4(?:_MOE)?))(?![a-z0-9])", re.ASCII
)
"""What GGUF files are called after: Q4_K_M, IQ3_XXS, F16."""
BESIDE = re.compile(r"(?i)(mmproj|imatrix|mtp)[^/]*", re.ASCII)
"""GGUF files that are no model of text by themselves."""


@dataclass(frozen=True)
class Choice:
    """One model of a listing; names are the listing's."""

    form: str
    """checkpoint, gguf, onnx, openvino; or receipt: an artifact of slmops, whose receipt lists its files."""
    label: str
    """What --variant calls it."""
    place: str
    """The folder that it lies in, with its slash; empty at the root."""
    weights: tuple[str, ...]
    others: tuple[str, ...]
    nbytes: int
    """Of weights."""
    left: tuple[str, ...] = ()
    """What lies beside it and is left out because it is code or pickle."""

    def inside(self, name: str) -> str:
        """The name of a file in the artifact: relative to the choice's folder; documents from above keep theirs."""
        return name.removeprefix(self.place) if self.form != "gguf" else name.rpartition("/")[2]


def choose(listing: Mapping[str, int], what: str, variant: str | None = None, patterns: Sequence[str] = ()) -> Choice:
    """The model that is meant, of a listing (name -> bytes). patterns: weights must match one of them, as fnmatch has it.

    Without a variant: what lies at the root as a folder's model, else the only one.
    Raises UsageError with all choices where it is not clear; SourceNotFound or Unsupported where there is none.
    """
    kept = dict(listing)
    if patterns:
        kept = {name: count for name, count in listing.items() if _small(name) or _matches(name, patterns)}
    found = choices(kept)
    if not found:
        raise _none(listing, what, patterns)
    if variant is not None:
        sought = variant.lower().removesuffix(".gguf")
        meant = [one for one in found if sought == one.label.lower()]
        meant = meant or [one for one in found if sought in _names(one)]
    else:
        meant = [one for one in found if not one.place and one.form != "gguf"] or found
    if len(meant) == 1:
        return meant[0]
    said = "\n".join(f"  {one.label}  {size(one.nbytes)}  {_shown(one)}" for one in (meant or found)[:SHOWN])
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    fault = f"{what} holds {len(found)} models" if variant is None else f"{what} holds {len(meant) or 'no'} {variant[:80]}"
    raise UsageError(fault, f"name one, with --variant or --include, or here by its path:\n{said}{more}")


def choices(listing: Mapping[str, int]) -> list[Choice]:
    """Every model of a listing, by place and label."""
    folders: dict[str, list[str]] = {}
    for name in sorted(listing):
        place, slash, _ = name.rpartition("/")
        folders.setdefault(place + slash, []).append(name)
    found: list[Choice] = []
    for place, names in folders.items():
        bases = {name.removeprefix(place) for name in names}
        documents = {name.removeprefix(place): name for name in names} | {
            name: name for name in folders.get("", ()) if DOCUMENT.fullmatch(name) and name not in bases
        }
        if receipt.NAME in bases:
            # Its receipt says which of these are its files.
            whole = [
                name for name in sorted(listing) if name.startswith(place) and not runs(name) and "/." not in f"/{name}"
            ]
            weights = [name for name in whole if name.lower().endswith(manifest.WEIGHTS)]
            total = sum(listing[name] for name in weights)
            others = tuple(name for name in whole if name not in weights)
            found.append(Choice(RECEIPT, place.rstrip("/") or RECEIPT, place, tuple(weights), others, total))
            continue
        form, weights = _form(bases)
        small = [name for base, name in documents.items() if _small(base) and listing[name] <= MOST_SMALL]
        if form is not None:
            weights = [place + base for base in weights]
            left = [place + base for base in sorted(bases) if runs(base)]
            total = sum(listing[name] for name in weights)
            found.append(Choice(form, place.rstrip("/") or form, place, tuple(weights), tuple(small), total, tuple(left)))
        texts = tuple(name for base, name in documents.items() if DOCUMENT.fullmatch(base) and listing[name] <= MOST_SMALL)
        for base, files in _ggufs(bases).items():
            names = [place + file for file in files]
            kind = KIND.findall(base) or KIND.findall(place)
            total = sum(listing[name] for name in names)
            found.append(Choice("gguf", kind[-1] if kind else base, place, tuple(names), texts, total))
    return found


def runs(base: str) -> bool:
    """Whether a file is code, or a pickle, which can run code: never taken."""
    lower = base.lower()
    return lower.endswith(manifest.CODE) or (lower.endswith(".bin") and not lower.rpartition("/")[2].startswith("openvino_"))


def _form(bases: set[str]) -> tuple[str | None, list[str]]:
    """What a folder of these files is, and which of them are weights."""
    ordered = sorted(bases)
    if "genai_config.json" in bases and any(base.endswith(".onnx") for base in bases):
        return "onnx", [base for base in ordered if re.search(r"\.(onnx|data|onnx_data(_\d+)?|onnx_adapter)$", base)]
    if "openvino_model.xml" in bases:
        return "openvino", [base for base in ordered if re.fullmatch(r"openvino_\w+\.(xml|bin)", base)]
    weights = [
        base for base in ordered if base.endswith(".safetensors") and not base.startswith(("adapter", "consolidated"))
    ]
    return (CHECKPOINT, weights) if "config.json" in bases and weights else (None, [])


def _ggufs(bases: set[str]) -> dict[str, list[str]]:
    """Base name -> its file, or its shards in order."""
    found: dict[str, list[str]] = {}
    for base in sorted(bases):
        if base.lower().endswith(".gguf") and BESIDE.match(base) is None:
            shard = SHARD.fullmatch(base)
            found.setdefault(shard[1] if shard else base[: -len(".gguf")], []).append(base)
    return found


def _small(name: str) -> bool:
    """Whether a file belongs to a model beside its weights."""
    base = name.rpartition("/")[2]
    return not runs(base) and (
        DOCUMENT.fullmatch(base) is not None
        or (base.lower().endswith(SMALL) and not base.startswith(".") and TRAINING.match(base) is None)
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, one) or fnmatch.fnmatchcase(name.rpartition("/")[2], one) for one in patterns)


def _names(one: Choice) -> set[str]:
    """What else a choice may be called: its folder's last part, its file."""
    place, file = one.place.rstrip("/").lower(), one.weights[0].lower() if one.weights else ""
    return {place, place.rpartition("/")[2], file.removesuffix(".gguf"), file.rpartition("/")[2].removesuffix(".gguf")} - {
        ""
    }


def _shown(one: Choice) -> str:
    if one.form != "gguf":
        return one.form
    return one.weights[0] if len(one.weights) == 1 else f"{one.weights[0]} and {len(one.weights) - 1} more"


def _none(listing: Mapping[str, int], what: str, patterns: Sequence[str]) -> Exception:
    if patterns and choices(listing):
        return SourceNotFound(f"no weights of {what} match {', '.join(patterns)[:200]}", "leave --include out to see all")
    if any(name.rpartition("/")[2] == "adapter_config.json" for name in listing):
        return Unsupported(f"{what} is a LoRA adapter, not a model", "merge it: slmops convert MODEL --adapter FOLDER")
    if any(name.lower().endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in listing):
        return Unsupported(
            f"{what} holds its weights as pickle only, which can run code when it is opened",
            "look for a revision or a copy in safetensors (many repositories have one under refs/pr)",
        )
    kinds = sorted({f".{name.rpartition('.')[2]}" for name in listing if "." in name})[:10]
    fault = f"{what} holds no model that can be read" + (f"; it holds {', '.join(kinds)}" if kinds else "")
    return SourceNotFound(fault, "a model is config.json beside safetensors, a .gguf, or a folder of ONNX GenAI or OpenVINO")
