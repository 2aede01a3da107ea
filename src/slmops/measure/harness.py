"""lm-evaluation-harness (lm_eval) with our engines as its models: its tasks, its prompts, its metrics.

What its Hugging Face model (models/huggingface.py) does with a text, ours does: the same tokens, prefix, windows and stops,
so that a checkpoint in f32 has the same scores in both.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqdm
from lm_eval import evaluator, utils
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from slmops.core.errors import SourceNotFound, UsageError
from slmops.engines import Sampling
from slmops.engines._host import Worker
from slmops.measure import statistics, tasks
from slmops.run import Artifact, fit, tokens_of

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks give to the most tokens of an answer; the first that is there holds."""
NEW_TOKENS = 256
BATCH = 16
"""Requests that cross to the engine at once."""


class Model(TemplateLM):  # type: ignore[misc]
    """An artifact that is open in an engine, as lm_eval wants one."""

    def __init__(self, worker: Worker, artifact: Artifact, context: int) -> None:
        super().__init__()
        self._worker, self._artifact = worker, artifact
        self.max_length = min(context, artifact.context)

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's own, where it is one token: generation may end at others too."""
        name = self._artifact.special.get("eos_token")
        ids = self._worker.encode([name])[0] if name else []
        return ids[0] if len(ids) == 1 else self._artifact.eos[0]

    @property
    def prefix_token_id(self) -> int:
        return self._artifact.bos if self._artifact.bos is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self._artifact.folder)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._artifact.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise UsageError(
                "the task begins the answer for the model, which chat templates here do not", "leave --chat out"
            )
        return self._artifact.prompt(chat_history)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        if add_special_tokens is False:
            return self._worker.encode([string])[0]
        return tokens_of(self._worker, self._artifact, string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Contexts that do not fit lose their beginning."""
        tasks.needs_logits(self._worker.engine, "a task of log-likelihoods")
        found: list[tuple[float, bool]] = []
        for start in tqdm.trange(0, len(requests), BATCH, desc="log-likelihoods", disable=disable_tqdm):
            part = requests[start : start + BATCH]
            found += self._worker.likelihoods(
                [(context[-(self.max_length + 1 - len(rest)) :], rest) for _, context, rest in part]
            )
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        totals = []
        for request in tqdm.tqdm(requests, desc="rolling log-likelihoods", disable=disable_tqdm):
            ids = self.tok_encode(request.args[0])
            windows = utils.get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            pairs = [("", *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(total for total, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        found = []
        for request in tqdm.tqdm(requests, desc="answers", disable=disable_tqdm):
            context, options = request.args
            sampling, stops = _sampling(dict(options))
            if sampling.max_tokens >= self.max_length:
                fault = f"the task asks for {sampling.max_tokens} new tokens, the context has {self.max_length}"
                raise UsageError(fault, "give a larger --context")
            ids = self.tok_encode(context)[-(self.max_length - sampling.max_tokens) :]
            text = ""
            for token in self._worker.generate(ids, fit(sampling, self._artifact, len(ids), self.max_length)):
                text += token.text
                if any(stop in text for stop in stops):
                    break
            found.append(min((text.split(stop)[0] for stop in stops), key=len, default=text))
        return found


def _sampling(options: dict[str, Any]) -> tuple[Sampling, list[str]]:
    """What a task asks of a generation. Raises UsageError for what engines here have no name for."""
    until = options.pop("until", None) or []
    lengths = [options.pop(name) for name in LENGTHS if name in options]
    warm, temperature = options.pop("do_sample", None), float(options.pop("temperature", 0.0))
    kept = {name: options.pop(name) for name in ("top_k", "top_p") if name in options}
    if options:
        raise UsageError(f"the task asks for {', '.join(options)}, which engines here do not take", "choose another task")
    sampling = Sampling(
        max_tokens=int(lengths[0]) if lengths else NEW_TOKENS, temperature=0.0 if warm is False else temperature, **kept
    )
    return sampling, [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def evaluate(
    model: Model,
    names: Sequence[str],
    *,
    folder: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run tasks by name and return lm_eval's results: {"results": {task: {"metric,filter": value, ...}}, "configs": ...}.

    quiet: without its bars and prints, which else go to standard error; warnings stay.
    folder: with task files of the user's own, beside lm_eval's. Raises SourceNotFound for a task, or data, not there.
    """
    manager = TaskManager(include_path=str(folder), include_defaults=False) if folder is not None else None
    if manager is None or not all(manager.match_tasks([name]) for name in names):
        # lm_eval's own are thousands of files, which take it half a minute to read.
        manager = TaskManager(include_path=None if folder is None else str(folder))
    if unknown := sorted(name for name in names if not manager.match_tasks([name])):
        cure = "lm-eval ls tasks lists them; --include FOLDER adds your own"
        raise SourceNotFound(f"lm-evaluation-harness has no task {' or '.join(map(repr, unknown))}", cure)
    try:
        with contextlib.ExitStack() as kept:
            # Its bars heed no setting, and it prints to standard output too.
            said = kept.enter_context(Path(os.devnull).open("w")) if quiet else sys.stderr
            kept.enter_context(contextlib.redirect_stdout(said))
            kept.enter_context(contextlib.redirect_stderr(said))
            found: dict[str, Any] = evaluator.simple_evaluate(
                model,
                tasks=list(names),
                num_fewshot=shots,
                limit=limit,
                apply_chat_template=chat,
                task_manager=manager,
                bootstrap_iters=statistics.RESAMPLES,
            )
    except (OSError, ValueError, KeyError) as error:
        cure = "its data are fetched from the Hugging Face Hub when they are not here yet"
        raise SourceNotFound(f"lm-evaluation-harness: {type(error).__name__}: {str(error)[:300]}", cure) from error
    return found
