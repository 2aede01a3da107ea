"""Seeded sampler of household requests and their tool calls; `generate.py` and `train.py` both draw from it.

In a template `[a|b]` is a choice, `{slot}` a value, a leading `~` marks a sentence that is no imperative, and
`=> key=value` sets an argument that the words imply. Every seventh template of a list is a test template, if all of its
words occur in training templates as well and none of its readings is also one of a training template's; half a seventh is
for validation. Related templates stand next to each other.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from declines import MISSING, UNSUPPORTED
from slots import CLOSED, FREE, free_text
from templates import TEMPLATES

# Argument order of every tool; an argument that a request does not give (artist, title, room) is left out.
TOOLS: dict[str, list[str]] = {
    "set_light": ["room", "level"],
    "switch_light": ["room", "on"],
    "set_light_color": ["room", "color"],
    "set_thermostat": ["room", "temperature"],
    "switch_device": ["device", "on"],
    "set_timer": ["minutes"],
    "set_alarm": ["time", "days"],
    "add_reminder": ["text", "time"],
    "add_shopping_item": ["item", "quantity"],
    "play_music": ["title", "artist"],
    "call_contact": ["name", "video"],
    "send_message": ["name", "text"],
    "lock_door": ["door", "locked"],
    "set_blinds": ["room", "position"],
    "start_vacuum": ["room", "mode"],
    "get_weather": ["place", "day"],
    "set_volume": ["room", "level"],
    "run_scene": ["scene"],
    "start_washer": ["program", "temperature"],
    "read_sensor": ["sensor", "room"],
    "water_plants": ["zone", "minutes"],
}
ARGUMENT_OF_FREE_SLOT = {"task": "text", "message": "text"}
SYSTEM = "You control a house. Answer every request with one JSON tool call."

OPENERS = [
    "please ",
    "can you ",
    "could you ",
    "would you ",
    "can you please ",
    "could you please ",
    "would you please ",
    "hey, ",
    "hi, ",
    "hello, ",
    "okay, ",
    "okay house, ",
    "hey house, ",
    "hey, can you ",
    "hi, could you ",
    "go ahead and ",
    "I want you to ",
    "I need you to ",
    "I would like you to ",
    "now ",
    "just ",
    "quickly ",
    "hey, please ",
    "so, ",
]
GREETINGS = ["hey, ", "hi, ", "hello, ", "okay, ", "okay house, ", "hey house, ", "so, ", "well, "]
CLOSERS = [
    " please",
    ", please",
    " thanks",
    ", thanks",
    ", thank you",
    " for me",
    " for me please",
    " now",
    " right now",
    " right away",
]
SAFE_CLOSERS = [", please", ", thanks", ", thank you", " please"]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    tool: str
    words: str
    implied: dict[str, object]
    imperative: bool
    split: str


@dataclass(frozen=True)
class Example:
    request: str
    answer: str
    tool: str
    template: str

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.request}, {"role": "assistant", "content": self.answer}]


def _parse(tool: str, line: str, index: int, implied: dict[str, object]) -> Template:
    words, _, constant = line.partition(" => ")
    if constant:
        key, _, value = constant.partition("=")
        implied = {**implied, key: json.loads(value)}
    split = "test" if index % 7 == 6 else "validation" if index % 14 == 3 else "train"
    return Template(tool, words.removeprefix("~"), implied, not words.startswith("~"), split)


@cache
def all_templates() -> tuple[Template, ...]:
    found = [_parse(tool, line, i, {}) for tool, lines in TEMPLATES.items() for i, line in enumerate(lines)]
    for reason, lines in (("unsupported", UNSUPPORTED), ("missing", MISSING)):
        found += [_parse("none", line, i, {"reason": reason}) for i, line in enumerate(lines)]
    while True:
        train = [template for template in found if template.split == "train"]
        # A word that training never shows cannot be understood by a model that knows nothing else.
        known = {word for template in train for word in _words(template)}
        seen = {text for template in train for text in _readings(template.words)}
        moved = [t if _words(t) <= known and not seen & _readings(t.words) else replace(t, split="train") for t in found]
        if moved == found:
            return tuple(found)
        found = moved


def _words(template: Template) -> set[str]:
    return set(re.findall(r"[a-z]+", _SLOT.sub(" ", template.words.lower())))


def _readings(words: str) -> set[str]:
    """Every sentence that a template's choices allow, slots left open."""
    parts = [part.split("|") if i % 2 else [part] for i, part in enumerate(re.split(r"[\[\]]", words))]
    return {" ".join("".join(choice).split()).removesuffix(" please") for choice in product(*parts)}


def _choose(words: str, rng: random.Random) -> str:
    while match := _CHOICE.search(words):
        words = words[: match.start()] + rng.choice(match.group(1).split("|")) + words[match.end() :]
    return " ".join(words.split())


def _ending(words: str, rng: random.Random) -> str:
    """A closer may follow free text only if it cannot be read as part of the text."""
    last = _SLOT.findall(words[-14:])
    ends_in_text = bool(last) and words.endswith("}") and last[-1] in FREE
    return rng.choice(SAFE_CLOSERS if ends_in_text or rng.random() < 0.4 else CLOSERS)


def sample(template: Template, rng: random.Random, unseen_values: bool = False, pseudo_share: float = 0.0) -> Example:
    words = _choose(template.words, rng)
    arguments: dict[str, object] = dict(template.implied)
    opener, closer = "", ""
    if rng.random() < 0.5:
        opener = rng.choice(OPENERS if template.imperative else GREETINGS)
    if rng.random() < 0.25:
        closer = _ending(words, rng)
    asks = opener.endswith(("can you ", "could you ", "would you ")) or words.startswith(
        ("what ", "how ", "will ", "is ", "who ")
    )

    def fill(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in FREE:
            text = free_text(slot, rng, unseen_values, pseudo_share)
            if lower:
                text = text.lower()
            arguments[ARGUMENT_OF_FREE_SLOT.get(slot, slot)] = text
            return text
        argument, pick = CLOSED[slot]
        surface, arguments[argument] = pick(rng)
        return surface.lower() if lower else surface

    lower = rng.random() < 0.12
    request = opener + _SLOT.sub(fill, words) + closer
    if lower:
        request = request.lower()
    elif rng.random() < 0.75 and not words.startswith(tuple("{" + kind for kind in FREE)):
        request = request[0].upper() + request[1:]
    if rng.random() < 0.5:
        request += "?" if asks else rng.choice([".", ".", "!"])
    kept = ["reason"] if template.tool == "none" else TOOLS[template.tool]
    call = {"tool": template.tool, "arguments": {key: arguments[key] for key in kept if key in arguments}}
    return Example(request, json.dumps(call, ensure_ascii=False), template.tool, template.words)


def training_stream(
    seed: object, split: str = "train", decline_share: float = 0.2, pseudo_share: float = 0.45
) -> Iterator[Example]:
    """Endless examples of one split: tools evenly, then templates evenly, then values."""
    rng = random.Random(f"{split}:{seed}")
    by_tool: dict[str, list[Template]] = {}
    for template in all_templates():
        if template.split == split:
            key = f"none:{template.implied['reason']}" if template.tool == "none" else template.tool
            by_tool.setdefault(key, []).append(template)
    declines = [key for key in by_tool if key.startswith("none")]
    tools = [key for key in by_tool if not key.startswith("none")]
    # Tools whose arguments are copied text, and those with many templates, need more examples.
    weights = [
        (1.5 if any(slot in FREE for t in by_tool[k] for slot in _SLOT.findall(t.words)) else 1.0) * len(by_tool[k]) ** 0.5
        for k in tools
    ]
    while True:
        if rng.random() < decline_share:
            key = declines[0] if rng.random() < 0.62 else declines[1]
        else:
            key = rng.choices(tools, weights)[0]
        yield sample(rng.choice(by_tool[key]), rng, pseudo_share=pseudo_share)


def balanced(split: str, per_template: int, rng: random.Random, tools: bool, unseen_values: bool = False) -> list[Example]:
    """`per_template` distinct requests of every template of a split, either of tool calls or of declines."""
    found: dict[str, Example] = {}
    for template in all_templates():
        if template.split != split or (template.tool != "none") != tools:
            continue
        if unseen_values and not any(slot in FREE - {"gadget"} for slot in _SLOT.findall(template.words)):
            continue
        kept = 0
        for _ in range(per_template * 8):
            example = sample(template, rng, unseen_values=unseen_values)
            if kept < per_template and example.request not in found:
                found[example.request] = example
                kept += 1
    return list(found.values())
