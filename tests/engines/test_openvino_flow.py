"""How OpenVINO's flow reads what a step brought, with a pipeline of our own in the place of the engine's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from slmops.engines import Sampling, _openvino_flow

RUNNING, FINISHED = "running", "finished"
GENAI = SimpleNamespace(GenerationStatus=SimpleNamespace(RUNNING=RUNNING, IGNORED="ignored"))


class Handle:
    """Gives so many tokens a step: two in one step for who asks for it."""

    def __init__(self, tokens: list[int], a_step: int) -> None:
        self.left, self.a_step, self.here = tokens, a_step, list[int]()

    def advance(self) -> None:
        self.here, self.left = self.left[: self.a_step], self.left[self.a_step :]

    def get_status(self) -> str:
        return RUNNING if self.left else FINISHED

    def can_read(self) -> bool:
        return bool(self.here)

    def read(self) -> dict[int, Any]:
        tokens, self.here = self.here, []
        return {0: SimpleNamespace(generated_ids=tokens, generated_log_probs=[-0.5] * len(tokens))}

    def cancel(self) -> None:
        self.left = []


def test_rows_of_one_length_are_decoded_together_and_each_has_its_own_text() -> None:
    calls: list[int] = []

    def decode(rows: list[list[int]]) -> list[str]:
        assert len({len(row) for row in rows}) == 1, "rows of several lengths would be padded"
        calls.append(len(rows))
        return ["".join(chr(one) for one in row) for row in rows]

    texts = ["one of forty letters, so that rows are cut", "a short one", "two at once, here", "the same", "the same"]
    handles = {which: Handle([ord(one) for one in text], 2 if "two" in text else 1) for which, text in enumerate(texts)}
    pipeline = SimpleNamespace(step=lambda: [one.advance() for one in handles.values()])
    flow = _openvino_flow.Flow(GENAI, pipeline, 1 << 20, decode)
    for which, handle in handles.items():
        flow._running[which] = _openvino_flow._Running(handle, Sampling(stop_ids=(0,)), flow._decode, None)
    told, counts = dict.fromkeys(handles, ""), dict.fromkeys(handles, 0)
    while flow._running:
        for news in flow.step():
            told[news.which] += news.text
            counts[news.which] += news.tokens
    assert list(told.values()) == texts and list(counts.values()) == list(map(len, texts))
    assert max(calls) == 4  # the first step: all but the one that had two tokens
