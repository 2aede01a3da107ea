"""The Modelfile that makes a GGUF an Ollama model, with the chat template translated from Jinja to Go where that is safe.

Ollama runs Go templates, chat templates are Jinja programs. What a template writes around each message is found by
rendering conversations of marked messages; the pieces are believed only if they rebuild every rendering that is tried.
Source: github.com/ollama/ollama, docs/modelfile.md and docs/template.md.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slmops.core.model import Model

Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages, bool], str]
"""(messages, with a generation prompt) -> text."""

LIMIT = 200_000


@dataclass(frozen=True)
class Pieces:
    """What stands around the messages: `around` role -> (before, after); `opening` instead of a system message."""

    start: str
    opening: str
    around: Mapping[str, tuple[str, str]]
    prompt: str
    """What asks for an answer."""

    def render(self, messages: Messages, generate: bool) -> str:
        text = self.start if messages and messages[0]["role"] == "system" else self.start + self.opening
        for message in messages:
            before, after = self.around[message["role"]]
            text += before + message["content"] + after
        return text + (self.prompt if generate else "")

    def go(self) -> str | None:
        """The Go template over Ollama's .System and .Messages; None where a piece would itself be read as Go."""
        (s0, s1), (u0, u1), (a0, a1) = (self.around[role] for role in ("system", "user", "assistant"))
        texts = (self.start, self.opening, self.prompt, s0, s1, u0, u1, a0, a1)
        if any("{{" in text or "}}" in text or '"""' in text for text in texts):
            return None
        last = "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        return (
            f"{self.start}{{{{ if .System }}}}{s0}{{{{ .System }}}}{s1}"
            + (f"{{{{ else }}}}{self.opening}" if self.opening else "")
            + f"{{{{ end }}}}{{{{ range $i, $_ := .Messages }}}}{last}"
            + f'{{{{ if eq .Role "user" }}}}{u0}{{{{ .Content }}}}{u1}'
            + f'{{{{ else if eq .Role "assistant" }}}}{a0}{{{{ .Content }}}}'
            # An answer that is last is being continued: nothing closes it.
            + f"{{{{ if not $last }}}}{a1}{{{{ end }}}}{{{{ end }}}}"
            + f'{{{{ if and $last (ne .Role "assistant") }}}}{self.prompt}{{{{ end }}}}{{{{ end }}}}'
        )


def modelfile(model: Model, file: str, texts: Mapping[int, str]) -> tuple[str, bool]:
    """`texts`: what the special ids look like -> (text of the Modelfile, whether a TEMPLATE could be derived)."""
    lines = [f"# ollama create {_plain(model.name)} -f Modelfile", f"FROM ./{file}"]
    template = derive(model, texts) if model.chat_template else None
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    elif model.chat_template:
        lines.append("# No TEMPLATE: this chat template does not follow a pattern that Go templates could repeat safely.")
        lines.append("# Ollama looks at the template inside the GGUF and takes one of its own if it recognises it.")
    for number in model.tokenizer.eos:
        if texts.get(number):
            lines.append(f"PARAMETER stop {json.dumps(texts[number], ensure_ascii=False)}")
    if model.generation.get("do_sample"):
        for key in ("temperature", "top_k", "top_p"):
            if isinstance(model.generation.get(key), int | float):
                lines.append(f"PARAMETER {key} {model.generation[key]}")
    return "\n".join(lines) + "\n", template is not None


def _plain(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in name).lower() or "model"


def derive(model: Model, texts: Mapping[int, str]) -> str | None:
    """The Go template that writes what the chat template writes, or None."""
    assert model.chat_template is not None
    bos = texts.get(model.tokenizer.bos, "") if model.tokenizer.bos is not None else ""
    eos = texts.get(model.tokenizer.eos[0], "") if model.tokenizer.eos else ""
    try:
        pieces = find(_renderer(model.chat_template, bos, eos))
        if pieces is None:
            # Some templates end a conversation that asks for no answer with eos (phi3), which Ollama never renders.
            pieces = find(_renderer(model.chat_template, bos, "qzENDzq"), ends="qzENDzq")
    except Exception:  # a template may raise anything, on purpose too: then there is no pattern to find
        return None
    if pieces is None:
        return None
    if model.tokenizer.adds_bos and bos and pieces.start.startswith(bos):
        # Ollama's runner puts it there itself.
        pieces = Pieces(pieces.start[len(bos) :], pieces.opening, pieces.around, pieces.prompt)
    return pieces.go()


def _renderer(template: str, bos: str, eos: str) -> Render:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> str:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    # A date would be frozen into the template: two days must render alike, which find() checks.
    days = iter(range(1 << 30))
    environment.globals["strftime_now"] = lambda form: (
        datetime.datetime(2000, 1, 1) + datetime.timedelta(days=31 * next(days))
    ).strftime(form)
    compiled = environment.from_string(template[:LIMIT])

    def render(messages: Messages, generate: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=generate, bos_token=bos, eos_token=eos)

    return render


def find(render: Render, ends: str = "") -> Pieces | None:
    """The pieces of a template, or None where some conversation is not made of them.

    `ends` is a text that may close a rendering without a generation prompt, and is cut off there.
    """

    def rendered(messages: Messages, generate: bool) -> str:
        text = render(messages, generate)
        return text if generate or not ends else text.removesuffix(ends)

    marks = {key: f"qz{key}zq" for key in ("S", "U", "A", "V", "B", "W")}
    system, user, answer, second, again, third = (
        {"role": role, "content": marks[key]}
        for role, key in zip(("system", "user", "assistant", "user", "assistant", "user"), marks, strict=True)
    )
    whole = [system, user, answer, second, again, third]
    cut = _cut(rendered(whole, False), list(marks.values()))
    asked = _cut(rendered(whole, True), list(marks.values()))
    plain = _cut(rendered([user], False), [marks["U"]])
    ended = _cut(rendered([user, answer], False), [marks["U"], marks["A"]])
    if cut is None or asked is None or plain is None or ended is None:
        return None
    start_system, system_user, user_answer, answer_user, _, _, user_end = cut
    if not asked[-1].startswith(user_end) or not user_answer.startswith(user_end):
        return None
    answer_end = ended[-1]
    if not answer_user.startswith(answer_end):
        return None
    before_user = answer_user[len(answer_end) :]
    if not system_user.endswith(before_user) or not plain[0].endswith(before_user):
        return None
    system_end = system_user[: len(system_user) - len(before_user)]
    opening = plain[0][: len(plain[0]) - len(before_user)]
    # What every conversation begins with stands outside: a beginning-of-sequence token, mostly.
    start = _common(start_system, opening)
    pieces = Pieces(
        start=start,
        opening=opening[len(start) :],
        around={
            "system": (start_system[len(start) :], system_end),
            "user": (before_user, user_end),
            "assistant": (user_answer[len(user_end) :], answer_end),
        },
        prompt=asked[-1][len(user_end) :],
    )
    tries = [[user], [system, user], [user, answer, second], [system, user, answer, second], whole, whole[1:]]
    # The last round is checked with an answer at its end and without; contents that templates treat apart come too.
    tries += [[{"role": "user", "content": "two\nlines, {braces} and 'quotes'"}]]
    for messages in tries:
        for generate in (True, False):
            made = pieces.render(messages, generate)
            if made != rendered(messages, generate) or (ends and ends in made):
                return None
    return pieces


def _common(first: str, second: str) -> str:
    """The longest common prefix that does not end inside a word or a special token."""
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return first[:length] if length in (len(first), len(second)) else ""


def _cut(text: str, marks: Sequence[str]) -> list[str] | None:
    """The text between the marks, each of which must stand in it once, in this order."""
    parts = []
    for mark in marks:
        if text.count(mark) != 1:
            return None
        before, text = text.split(mark)
        parts.append(before)
    return [*parts, text]
