// Charts as SVG, made by hand: a plane with its front, and a line over time. A table beside says the same in words.

import { svg } from "./dom.js";

const WIDE = 640, HIGH = 360, LEFT = 64, RIGHT = 20, TOP = 30, BOTTOM = 46;
/** Shapes, so that a format is not told by its colour alone. */
const SHAPES = [
  (x, y) => `M${x - 5} ${y}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z`,
  (x, y) => `M${x - 4.6} ${y - 4.6}h9.2v9.2h-9.2z`,
  (x, y) => `M${x} ${y - 6}l5.6 10h-11.2z`,
  (x, y) => `M${x} ${y - 6.4}l6.4 6.4l-6.4 6.4l-6.4 -6.4z`,
  (x, y) => `M${x} ${y + 6}l5.6 -10h-11.2z`,
  (x, y) => `M${x - 2} ${y - 6}h4v4h4v4h-4v4h-4v-4h-4v-4h4z`,
];

/** The key of a format: its shape in its colour. */
export function sign(place) {
  return svg(`svg.sign.c${place % 6}`, { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: SHAPES[place % 6](8, 8) }));
}

function scale(values, low, high, { log = false, floor = 0 } = {}) {
  let least = Math.min(...values), most = Math.max(...values);
  if (log) {
    least = Math.max(least, floor) / 1.6;
    most = Math.max(most, least * 2) * 1.6;
  } else {
    const room = (most - least) * 0.12 || most * 0.2 || 1;
    least = Math.max(0, least - room);
    most += room;
  }
  const f = log ? Math.log10 : (value) => value, a = f(least), b = f(most);
  const place = (value) => low + ((f(Math.min(most, Math.max(least, value))) - a) / (b - a)) * (high - low);
  return { place, ticks: log ? powers(least, most) : rounds(least, most) };
}

/** Round numbers, six or so: 1, 2 or 5 times a power of ten. */
function rounds(low, high) {
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((one) => one >= rough);
  const found = [];
  for (let number = Math.ceil(low / step); number * step <= high * 1.000001; number++) found.push(number * step);
  return found;
}

function powers(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
  const inside = found.filter((one) => one >= low && one <= high);
  return inside.length <= 6 ? inside : inside.filter((one) => Math.abs(Math.log10(one) - Math.round(Math.log10(one))) < 1e-6);
}

/**
 * Points {x, y, low, high, label, lines, kind, front} in a plane; `across` and `up`: {title, show, log, floor},
 * `across.more`: more is better; `up.alike`: what lies below is alike. The front goes in steps: between two of its points
 * nothing better is known. `pointed(point)` is told which one is under the pointer.
 */
export function plane(points, across, up, says, pointed) {
  const x = scale(points.map((one) => one.x), LEFT, WIDE - RIGHT, across);
  const y = scale(points.flatMap((one) => [one.y, one.high ?? one.y]), HIGH - BOTTOM, TOP, up);
  const grid = [
    ...x.ticks.flatMap((value) => [
      svg("line.grid", { x1: x.place(value), x2: x.place(value), y1: TOP, y2: HIGH - BOTTOM }),
      svg("text", { x: x.place(value), y: HIGH - BOTTOM + 18, "text-anchor": "middle" }, across.show(value)),
    ]),
    ...y.ticks.flatMap((value) => [
      svg("line.grid", { x1: LEFT, x2: WIDE - RIGHT, y1: y.place(value), y2: y.place(value) }),
      svg("text", { x: LEFT - 8, y: y.place(value) + 4, "text-anchor": "end" }, up.show(value)),
    ]),
    svg("text.title", { x: WIDE - RIGHT, y: HIGH - 8, "text-anchor": "end" }, across.title),
    svg("text.title", { x: 4, y: 14 }, up.title),
  ];
  const placed = points.map((one) => ({ one, x: x.place(one.x), y: y.place(one.y) }));
  const best = placed.filter(({ one }) => one.front).sort((a, b) => a.x - b.x);
  const go = across.more ? (at, level) => `V${level}H${at}` : (at, level) => `H${at}V${level}`;
  const steps = best.map(({ x: at, y: level }, place) => (place ? go(round(at), round(level)) : `M${round(at)} ${round(level)}`));
  const line = best.length > 1 ? svg("path.front", { d: steps.join("") }) : null;
  const level = up.alike ? y.place(up.alike) : 0;
  const band = level && level < HIGH - BOTTOM - 4 ? svg("rect.band", { x: LEFT, width: WIDE - RIGHT - LEFT, y: level, height: HIGH - BOTTOM - level }) : null;
  const ranges = placed.filter(({ one }) => one.low !== null).map(({ one, x: at }) =>
    svg(`line.range.c${one.kind % 6}`, { x1: at, x2: at, y1: y.place(one.low), y2: y.place(one.high) }));
  const marks = placed.map(({ one, x: at, y: level }) => {
    const shape = svg(`path.point.c${one.kind % 6}${one.front ? ".best" : ""}`, { d: SHAPES[one.kind % 6](round(at), round(level)) });
    const hit = svg("circle.hit", { cx: round(at), cy: round(level), r: 12 });
    const made = svg("g.spot", { "data-key": one.key }, svg("title", {}, [one.label, ...one.lines].join("\n")), shape, hit);
    made.addEventListener("pointerenter", () => pointed(one));
    made.addEventListener("pointerleave", () => pointed(null));
    return made;
  });
  return svg("svg.plane", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": says }, band, grid, line, ranges, marks, names(placed));
}

const round = (value) => Math.round(value * 10) / 10;

/** A name beside each point where there is room, those of the front first. */
function names(placed) {
  const taken = placed.map(({ x, y }) => [x - 8, y - 8, x + 8, y + 8]), found = [];
  for (const { one, x, y } of [...placed].sort((a, b) => Number(b.one.front) - Number(a.one.front))) {
    const wide = one.label.length * 7;
    for (const [left, base] of [[x + 14, y + 4], [x - 14 - wide, y + 4], [x - wide / 2, y - 14], [x - wide / 2, y + 23]]) {
      const box = [left, base - 10, left + wide, base + 3], own = (each) => each[0] === x - 8 && each[1] === y - 8;
      const clear = box[0] >= LEFT && box[2] <= WIDE && box[1] >= TOP - 14 && box[3] <= HIGH - BOTTOM;
      if (!clear || taken.some((each) => !own(each) && box[0] < each[2] && each[0] < box[2] && box[1] < each[3] && each[1] < box[3])) continue;
      taken.push(box);
      found.push(svg(`text.label${one.front ? ".best" : ""}`, { x: round(left), y: round(base) }, one.label));
      break;
    }
  }
  return found;
}

/** A line over time, from the left edge to now; null is a gap. */
export function trace(values, most, says) {
  const wide = 300, high = 56, step = wide / Math.max(1, values.length - 1), ceiling = most || 1;
  let path = "", open = false;
  values.forEach((value, place) => {
    if (value === null) open = false;
    else {
      path += `${open ? "L" : "M"}${round(place * step)} ${round(high - 2 - (value / ceiling) * (high - 6))}`;
      open = true;
    }
  });
  return svg("svg.trace", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", role: "img", "aria-label": says },
    svg("line.grid", { x1: 0, x2: wide, y1: high - 1, y2: high - 1 }), path ? svg("path", { d: path }) : null);
}
