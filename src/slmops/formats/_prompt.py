"""Prompt templates of the simplest kind, one text with a hole for each role, derived from a chat template.

For runtimes that fill in texts instead of running jinja2. The chat template is run on sentinels; what stands around them
is taken only if the parts put together again give what the template gives.
"""

from __future__ import annotations

from collections.abc import Mapping

from slmops.core import chat
from slmops.core.errors import CorruptInput

HOLE = "{Content}"
S, U, A, V, B = "SLMsystemOPS", "SLMuserOPS", "SLMassistantOPS", "SLMfollowupOPS", "SLManswerOPS"


def derive(template: str | None, special: Mapping[str, str | None], adds_bos: bool) -> tuple[dict[str, str] | None, str]:
    """({"system", "user", "assistant", "prompt"}, "") or (None, why not).

    special: bos_token, eos_token and so on as texts. adds_bos: the tokenizer puts bos there by itself, so it is left out.
    "prompt" is a whole single turn, with the start of the answer.
    """
    if not template:
        return None, "the model has no chat template"
    if "strftime_now" in template:
        return None, "it writes the date of the day"
    end = ""

    def run(*turns: tuple[str, str], generation: bool = False) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return chat.render(template, messages, special=special, add_generation_prompt=generation).removesuffix(end)

    system, user, answer, follow = ("system", S), ("user", U), ("assistant", A), ("user", V)
    try:
        whole = run(system, user, answer, follow)
        asked = run(system, user, answer, follow, generation=True)
        answered = run(system, user, answer)
        single = run(user, generation=True)
    except CorruptInput as error:
        return None, f"it does not take a system, a user and an assistant turn ({error})"
    if not asked.startswith(whole):
        # Some put the end of text behind a conversation that nobody is to answer.
        end = special.get("eos_token") or ""
        whole, answered = whole.removesuffix(end), answered.removesuffix(end)
    if not (_once(whole, S, U, A, V) and _once(answered, S, U, A) and _once(single, U) and asked.startswith(whole)):
        return None, "it changes or moves what it is given"
    start, rest = whole.split(S)
    after_system, rest = rest.split(U)
    after_user, rest = rest.split(A)
    after_answer, user_end = rest.split(V)
    answer_end = answered.split(A)[1]
    if not (after_user.startswith(user_end) and after_answer.startswith(answer_end)):
        return None, "a turn ends differently in the middle and at the end"
    user_start, answer_start = after_answer[len(answer_end) :], after_user[len(user_end) :]
    if not after_system.endswith(user_start):
        return None, "the first user turn looks different from the next"
    system_end = after_system[: len(after_system) - len(user_start)]
    bos = special.get("bos_token") or ""
    if adds_bos and bos:
        start, single = start.removeprefix(bos), single.removeprefix(bos)
    result = {
        "system": start + HOLE + system_end,
        "user": user_start + HOLE + user_end,
        "assistant": answer_start + HOLE + answer_end,
        "prompt": single.replace(U, HOLE),
    }
    # Another conversation, put together from the parts, must be what the template makes of it.
    probe = [("system", S), ("user", U), ("assistant", A), ("user", V), ("assistant", B), ("user", U)]
    joined = "".join(result[role].replace(HOLE, text) for role, text in probe)
    if run(*probe).removeprefix(bos if adds_bos else "") != joined:
        return None, "its turns depend on each other"
    return result, ""


def _once(text: str, *signs: str) -> bool:
    """Each sign stands in the text once, in this order."""
    places = [text.find(sign) for sign in signs]
    return all(text.count(sign) == 1 for sign in signs) and places == sorted(places)
