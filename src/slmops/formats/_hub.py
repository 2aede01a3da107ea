"""Hugging Face Hub names: `org/name` or `org/name@revision` -> a snapshot in the cache. The only file that knows the Hub.

Small files come first, so that what cannot be read is refused before its weights are fetched. Downloads resume, and the
cache answers when there is no network. Token, endpoint, cache and offline mode are huggingface_hub's own (HF_TOKEN,
HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE).
"""

from __future__ import annotations

import inspect
import os
import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from slmops.core.errors import CorruptInput, SlmopsError, SourceNotFound, Unreachable, Unsupported
from slmops.core.tensor import Array, Lazy, Tensor
from slmops.formats import _safetensors

NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,255}))?", re.ASCII)
SPELLED = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/([^:]+)(?::(.+))?", re.ASCII)
COMMIT = SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
SMALL = (
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md",
)  # fmt: skip
"""Everything but weights that reading takes, all at the repository's root."""

CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "hf_xet")
"""Whose errors mean that the network failed: the HTTP client has changed between versions of huggingface_hub."""

MOST_FILES = 50_000
"""Of a repository: what is larger is no model."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Name:
    """A repository at a revision (branch, tag or commit)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def parse(text: str, revision: str | None = None) -> Name | None:
    """`org/name[@revision]`, or None where the text is no such name."""
    match = NAME.fullmatch(text)
    if not match or ".." in text or "--" in match[1] or text.endswith(".git"):
        return None
    return Name(match[1], revision or match[2])


def spelled(text: str) -> tuple[str, str | None] | None:
    """(org/name, variant) of hf.co/org/name:Q4_K_M, which is how Ollama's users name a model of the Hub; else None."""
    match = SPELLED.fullmatch(text)
    return (match[1], match[2]) if match else None


def small_files(name: Name) -> Path:
    """Fetch (or find in the cache) everything but weights; the snapshot's folder."""
    return _snapshot(name, name.revision, SMALL)


def weight_files(name: Name, folder: Path, shards: Sequence[str]) -> None:
    """Fetch the named files of the very commit that `folder` is a snapshot of; what is there already stays."""
    if all((folder / shard).exists() for shard in shards):
        return
    _snapshot(name, folder.name, shards)
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise _without_weights(name, folder.name, missing[0])


@dataclass(frozen=True)
class File:
    """A file of a repository: its size in bytes, and what its content hashes to."""

    size: int
    git: str
    """SHA-1 of the git blob; of what lies in LFS or Xet, of its pointer."""
    sha256: str | None
    """Of what lies in LFS or Xet."""


def listing(name: Name) -> tuple[str, dict[str, File]]:
    """The commit that a name stands for now, and its files by path; nothing is fetched. Gated ones are refused here."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    info = _asking(name, lambda: api.model_info(name.repo, revision=name.revision))
    commit = str(info.sha)
    if COMMIT.fullmatch(commit) is None:
        raise CorruptInput(f"the Hub calls {commit[:60]!r} a commit of {name}", "try again later")
    if info.gated:
        _asking(name, lambda: api.auth_check(name.repo))
    found: dict[str, File] = {}

    def collect() -> None:
        for entry in api.list_repo_tree(name.repo, revision=commit, recursive=True):
            if isinstance(entry, RepoFile):
                found[str(entry.path)] = File(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
            if len(found) > MOST_FILES:
                raise Unsupported(f"{name} has more than {MOST_FILES:,} files", "name the repository of one model")

    _asking(name, collect)
    for path, file in found.items():
        sums = (SHA1.fullmatch(str(file.git)), file.sha256 is None or SHA256.fullmatch(str(file.sha256)))
        if type(file.size) is not int or file.size < 0 or not all(sums):
            raise CorruptInput(f"the Hub describes {path[:100]!r} of {name} in a way that makes no sense", "try again later")
    return commit, found


def location(name: Name, commit: str, path: str) -> tuple[str, str | None]:
    """(the address of a file, the token to ask with). huggingface_hub keeps no partial files, so that others fetch it."""
    from huggingface_hub import get_token, hf_hub_url

    return hf_hub_url(name.repo, path, revision=commit), get_token()


def cached(name: Name, commit: str, path: str) -> Path | None:
    """The file in Hugging Face's own cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repo, path, revision=commit)
    return Path(found) if isinstance(found, str) else None


def _snapshot(name: Name, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(_asking(name, lambda: snapshot_download(name.repo, revision=revision, allow_patterns=list(files))))


def headers(name: Name, folder: Path) -> dict[str, Tensor]:
    """Checkpoint name -> shape and dtype, from the safetensors headers alone, by range requests. No weight is fetched."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        found = _asking(name, lambda: HfApi().get_safetensors_metadata(name.repo, revision=folder.name))
    except NotASafetensorsRepoError:
        raise _without_weights(name, folder.name, "model.safetensors") from None
    except (SafetensorsParsingError, KeyError, TypeError, ValueError) as error:
        raise CorruptInput(f"{name}: a safetensors header cannot be read ({error})"[:300]) from None

    def unread(start: int, stop: int) -> Array:
        raise SourceNotFound(f"the weights of {name} were not downloaded", "load it instead of inspecting it")

    tensors: dict[str, Tensor] = {}
    for file in found.files_metadata.values():
        for tensor, entry in file.tensors.items():
            dtype = _safetensors.DTYPES.get(entry.dtype)
            if dtype is None or not all(type(axis) is int and 0 <= axis < 1 << 40 for axis in entry.shape):
                raise CorruptInput(f"{name}: tensor {tensor[:80]} is {str(entry.dtype)[:20]} {str(entry.shape)[:80]}")
            tensors[tensor] = Lazy(tuple(entry.shape), dtype, unread)
    return tensors


def _without_weights(name: Name, commit: str, missing: str) -> SlmopsError:
    """What to say of a repository that lacks a weight file: name what it holds instead."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().list_repo_files(name.repo, revision=commit)
    except Exception:  # the error that we are about to report matters more
        files = []
    if any(file.endswith((".bin", ".pt", ".pth")) for file in files):
        return Unsupported(
            f"{name} holds its weights as pickle only, which can run code when it is opened",
            "look for a revision or a copy in safetensors (many repositories have one under refs/pr)",
        )
    others = sorted({Path(file).suffix for file in files} & {".gguf", ".onnx", ".xml", ".h5", ".msgpack"})
    holds = f"; it holds {', '.join(others)}" if others else ""
    return SourceNotFound(f"{name} has no {missing}{holds}", "name a repository that holds safetensors")


def _asking(name: Name, ask: Callable[[], Result]) -> Result:
    """Put a question to the Hub; its many errors become ours, each with its cure."""
    from huggingface_hub import errors as hub

    try:
        return ask()
    except hub.GatedRepoError as error:
        raise SourceNotFound(
            f"{name} is gated: its owner grants access on request ({_status(error)})",
            f"accept the terms on the page of {name.repo}, then run `hf auth login` (or set HF_TOKEN)",
        ) from None
    except hub.RevisionNotFoundError:
        fault = f"{name.repo} has no revision {name.revision!r}"
        raise SourceNotFound(fault, "name a branch, a tag or a commit of it") from None
    except hub.RepositoryNotFoundError as error:
        raise SourceNotFound(
            f"there is no folder {name}, and the Hub has no model {name.repo} that you may see ({_status(error)})",
            "check the name; if it is private, run `hf auth login` (or set HF_TOKEN)",
        ) from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        gated = _cause(error, hub.GatedRepoError)
        if gated is not None:
            raise SourceNotFound(f"{name} is gated ({_status(gated)})", "run `hf auth login` (or set HF_TOKEN)") from None
        raise _unreachable(name, error) from None
    except hub.HFValidationError as error:
        raise SourceNotFound(f"{name} is no name of a model: {error}") from None
    except hub.HfHubHTTPError as error:
        status = _status(error)
        if status in ("401", "403"):
            cure = "run `hf auth login` (or set HF_TOKEN) with a token that may read it"
            raise SourceNotFound(f"the Hub refuses {name} ({status})", cure) from None
        raise _refused(status, f" for {name}") from None
    except (hub.NotASafetensorsRepoError, hub.SafetensorsParsingError):
        raise
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in CLIENTS:
            raise _unreachable(name, error) from None
        raise


def _unreachable(name: Name, error: Exception) -> SourceNotFound | Unreachable:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline:
        return SourceNotFound(f"{name} is not (wholly) in the cache, and HF_HUB_OFFLINE is set", "unset it to download once")
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return Unreachable(
        f"{name} is not (wholly) in the cache, and the Hub cannot be reached ({reason})",
        "connect and run again (what was downloaded is kept), or give a local folder",
    )


def _refused(status: str, asked: str) -> SourceNotFound | Unreachable:
    """A server's trouble passes; what it says of the question does not."""
    if status == "429" or status.startswith("5"):
        return Unreachable(f"the Hub answered {status}{asked}", "try again later")
    return SourceNotFound(f"the Hub answered {status}{asked}", "check HF_TOKEN and HF_ENDPOINT, if they are set")


def _status(error: BaseException) -> str:
    return str(getattr(getattr(error, "response", None), "status_code", type(error).__name__))


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


SECONDS = 60.0
"""For a question about many models, or about one's figures: the client itself waits for ever."""


def listed(
    *, search: str | None, task: str | None, filters: Sequence[str], parameters: str | None, sort: str, limit: int
) -> list[Any]:
    """What the Hub lists (huggingface_hub's ModelInfo), at most `limit`. Raises Unreachable."""
    from huggingface_hub import HfApi

    api = HfApi()
    # Older clients know no sizes: who asks for them looks at what comes.
    known = {"num_parameters": parameters} if "num_parameters" in inspect.signature(api.list_models).parameters else {}
    return _within(
        lambda: list(
            api.list_models(
                search=search,
                pipeline_tag=task,
                filter=list(filters) or None,
                sort=sort,  # type: ignore[arg-type]
                limit=limit,
                expand=["downloads", "gated", "likes", "pipeline_tag", "safetensors", "tags"],
                **known,  # type: ignore[arg-type]
            )
        )
    )


def figures(name: Name) -> Any:
    """Downloads, likes and gating of a model (huggingface_hub's ModelInfo). Raises Unreachable."""
    from huggingface_hub import HfApi

    expand: Any = ["downloads", "gated", "likes"]
    return _within(lambda: HfApi().model_info(name.repo, revision=name.revision, expand=expand))


def _within(ask: Callable[[], Result]) -> Result:
    """An answer of the Hub in SECONDS, or an error of ours."""
    from huggingface_hub import errors as hub

    answers: queue.Queue[tuple[Result | None, Exception | None]] = queue.Queue()

    def wait() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:  # raised where the answer is waited for
            answers.put((None, error))

    threading.Thread(target=wait, name="hub", daemon=True).start()
    try:
        answer, error = answers.get(timeout=SECONDS)
    except queue.Empty:
        raise Unreachable(f"the Hub did not answer in {SECONDS:.0f} s", "try again later") from None
    if error is None:
        return cast(Result, answer)
    if isinstance(error, hub.OfflineModeIsEnabled):
        raise SourceNotFound("the Hub is not asked, for HF_HUB_OFFLINE is set", "unset it") from None
    if isinstance(error, hub.HfHubHTTPError):
        raise _refused(_status(error), "") from None
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in CLIENTS:
        raise Unreachable(f"the Hub cannot be reached ({str(error)[:200]})", "connect and run again") from None
    if isinstance(error, ValueError | KeyError | TypeError | AttributeError):
        raise CorruptInput(f"the Hub's answer makes no sense ({type(error).__name__})", "try again later") from None
    raise error
