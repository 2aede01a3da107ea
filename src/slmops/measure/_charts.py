"""Charts as inline SVG: text in, text out, everything escaped. No script: details show by :hover and :focus (report.html).

A chart is 400 units wide, so that its 11-unit text can be read on a phone of 390 pixels and is not too large on a desk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 50, 390, 26, 250
LETTER = 6.1
"""Width of a letter of the small text, about."""

Format = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """What is shown along one side, from where to where, and how its numbers are written."""

    title: str
    low: float
    high: float
    show: Format
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what lies outside is moved to the edge."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self) -> list[float]:
        """Round numbers: 1, 2 or 5 times a power of ten, six at most."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            kept = [value for value in fine if self.low <= value * 1.000001 and value <= self.high * 1.000001]
            return (
                kept if len(kept) <= 6 else [value for value in kept if math.log10(value) % 1 < 1e-6][:: len(kept) // 18 + 1]
            )
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(title: str, values: Sequence[float], show: Format, logarithmic: bool = False, floor: float = 0.0) -> Axis:
    """An axis that holds the values with some room. `floor`: of a logarithmic one, where lower values are shown."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if logarithmic:
        low = max(low, floor)
        return Axis(title, low / 1.4, max(high, low) * 1.4, show, True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Axis(title, max(0.0, low - room) if low >= 0 else low - room, high + room, show)


@dataclass(frozen=True)
class Point:
    """One candidate in a plane."""

    x: float
    y: float
    x_range: tuple[float, float] | None
    y_range: tuple[float, float] | None
    """95 % intervals; None where there is none."""
    label: str
    details: tuple[str, ...]
    """Lines that are shown when it is pointed at; the first is its name."""
    target: str
    """Fragment of the page that tells all about it."""
    colour: int
    mark: str
    """choice, front, passed or failed."""


def scatter(points: Sequence[Point], across: Axis, up: Axis, line: float | None = None, line_says: str = "") -> Markup:
    """Points in a plane, with their intervals, and a horizontal line where a gate stands."""
    placed = [(one, _x(across, one.x), _y(up, one.y)) for one in points]
    parts = [*_frame(across, up)]
    if line is not None and up.low <= line <= up.high:
        height = _y(up, line)
        parts.append(element("line", x1=LEFT, x2=RIGHT, y1=height, y2=height, class_="gate"))
        parts.append(element("text", line_says, x=RIGHT - 3, y=height - 4, text_anchor="end", class_="gate-text"))
    for one, x, y in placed:
        tone = f"c{one.colour}"
        if one.x_range:
            ends = [_x(across, value) for value in one.x_range]
            parts.append(element("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_=f"whisker {tone}"))
        if one.y_range:
            ends = [_y(up, value) for value in one.y_range]
            parts.append(element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_=f"whisker {tone}"))
    parts += [_mark(one.mark, f"c{one.colour}", x, y) for one, x, y in placed]
    parts += _labels(placed)
    # The targets lie above all marks, so that the details of one are not under the marks of another.
    parts += [_target(one, x, y) for one, x, y in placed]
    says = f"{up.title} against {across.title}, {len(points)} points"
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="group", aria_label=says)


@dataclass(frozen=True)
class Row:
    """One line of a strip chart: values as dots, three quantiles as a bar."""

    name: str
    says: str
    dots: tuple[float, ...] = ()
    bar: tuple[float, float, float] | None = None
    chosen: bool = False
    colour: int = 0


def strips(rows: Sequence[Row], across: Axis) -> Markup:
    """A line for each row, its name above it."""
    pitch, left = 32, 10
    height = 8 + pitch * len(rows)

    def x(value: float) -> float:
        return left + across.share(value) * (RIGHT - left)

    parts = []
    for value in across.ticks():
        parts.append(element("line", x1=x(value), x2=x(value), y1=4, y2=height, class_="grid"))
        parts.append(element("text", across.show(value), x=x(value), y=height + 14, text_anchor="middle"))
    parts.append(element("text", across.title, x=(left + RIGHT) / 2, y=height + 31, text_anchor="middle", class_="title"))
    for number, row in enumerate(rows):
        y, tone = 8 + pitch * number + 20, f"c{row.colour}"
        inner = [element("text", row.name, x=left, y=y - 9, class_=_class("name", row.chosen))]
        said = element("text", row.says, x=RIGHT, y=y - 9, text_anchor="end")
        if row.bar:
            first, middle, last = map(x, row.bar)
            inner.append(element("line", x1=first, x2=last, y1=y, y2=y, class_=f"range {tone}"))
            inner.append(element("circle", cx=first, cy=y, r=4, class_=f"dot {tone}"))
            for place in (middle, last):
                inner.append(element("line", x1=place, x2=place, y1=y - 4, y2=y + 4, class_=f"whisker {tone}"))
        inner += [element("circle", cx=x(value), cy=y, r=3, class_=f"dot faint {tone}") for value in row.dots]
        parts.append(element("g", *inner, said, role="img", aria_label=f"{row.name}: {row.says}"))
    says = f"{across.title}, {len(rows)} rows"
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height + 40}", role="group", aria_label=says)


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element; text and values of attributes are escaped. class_ is class, and aria_label aria-label."""
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()]
    written = (f' {key}="{escape(f"{value:.5g}" if isinstance(value, float) else value)}"' for key, value in pairs)
    return Markup(f"<{name}{''.join(written)}>{''.join(map(escape, children))}</{name}>")


def _x(across: Axis, value: float) -> float:
    return LEFT + across.share(value) * (RIGHT - LEFT)


def _y(up: Axis, value: float) -> float:
    return BOTTOM - up.share(value) * (BOTTOM - TOP)


def _frame(across: Axis, up: Axis) -> list[Markup]:
    parts = []
    for value in across.ticks():
        x = _x(across, value)
        parts.append(element("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="grid"))
        parts.append(element("text", across.show(value), x=x, y=BOTTOM + 15, text_anchor="middle", class_="x-tick"))
    for value in up.ticks():
        y = _y(up, value)
        parts.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", up.show(value), x=LEFT - 5, y=y + 4, text_anchor="end", class_="y-tick"))
    parts.append(element("text", across.title, x=(LEFT + RIGHT) / 2, y=BOTTOM + 33, text_anchor="middle", class_="title"))
    parts.append(element("text", up.title, x=4, y=12, class_="title"))
    return parts


def _mark(kind: str, tone: str, x: float, y: float) -> Markup:
    if kind == "failed":
        return element("path", d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8", class_=f"cross {tone}")
    if kind == "choice":
        return element("path", d=f"M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8 -8z", class_=f"dot chosen {tone}")
    return element("circle", cx=x, cy=y, r=4.5, class_=f"{'dot' if kind == 'front' else 'ring'} {tone}")


def _labels(placed: Sequence[tuple[Point, float, float]]) -> list[Markup]:
    """A name beside each point where there is room, the choice first, then the front."""
    order = ("choice", "front", "passed", "failed")
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in placed]
    parts = []
    for one, x, y in sorted(placed, key=lambda each: order.index(each[0].mark)):
        wide = LETTER * len(one.label)
        for left, base in ((x + 9, y + 4), (x - 9 - wide, y + 4), (x - wide / 2, y - 10), (x - wide / 2, y + 18)):
            box = (left, base - 9, left + wide, base + 2)
            inside = box[0] >= LEFT and box[2] <= RIGHT and box[1] >= TOP and box[3] <= BOTTOM
            own = (x - 6, y - 6, x + 6, y + 6)
            if inside and not any(_overlap(box, other) for other in taken if other != own):
                taken.append(box)
                parts.append(element("text", one.label, x=left, y=base, class_=_class("label", one.mark == "choice")))
                break
    return parts


def _class(name: str, chosen: bool) -> str:
    return f"{name} chosen" if chosen else name


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _target(one: Point, x: float, y: float) -> Markup:
    wide = min(WIDTH - 8, LETTER * max(map(len, one.details)) + 18)
    high = 15 * len(one.details) + 9
    left = min(max(4, x + 12 if x < (LEFT + RIGHT) / 2 else x - 12 - wide), WIDTH - 4 - wide)
    top = min(max(4, y - high / 2), HEIGHT - 4 - high)
    lines = [
        element("text", line, x=left + 9, y=top + 16 + 15 * number, class_="name" if not number else "line")
        for number, line in enumerate(one.details)
    ]
    tip = element(
        "g", element("rect", x=left, y=top, width=wide, height=high, rx=5), *lines, class_="tip", aria_hidden="true"
    )
    circle = element("circle", cx=x, cy=y, r=11)
    return element("a", circle, tip, href=f"#{one.target}", class_="hit", aria_label="; ".join(one.details))
