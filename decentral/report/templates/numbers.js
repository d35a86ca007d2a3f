"use strict";
// The script of all pages, in three parts: numbers.js, figures.js and page.js. It only ever
// sets text, so that what a run is called stays that.

function make(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  made.textContent = text;
  return made;
}

function draw(tag, attributes) {
  // Drawings are there before anything is drawn into them.
  const made = document.createElementNS(document.querySelector("svg").namespaceURI, tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  return made;
}

// --- numbers in words -------------------------------------------------------------

const BYTES = [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3], ["B", 1]];
const SECONDS = [["h", 3600], ["min", 60], ["s", 1], ["ms", 1e-3], ["us", 1e-6]];
const COUNTED = ["step", "node", "class", "place"]; // Whole numbers after their word.
const UNITS = { d: 86400, ...Object.fromEntries(BYTES), ...Object.fromEntries(SECONDS) };

function plain(value, digits) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(digits - 1);
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en-US", { maximumFractionDigits: Math.min(places, 12) });
}

function scaled(value, scales, digits) {
  const [unit, scale] = scales.find((one) => Math.abs(value) >= one[1]) || scales.at(-1);
  return plain(value / scale, digits) + " " + unit;
}

// Write a number; digits: 4 where a reader points, 6 at least where ticks are near.
function inWords(value, scale, digits = 4) {
  if (scale.names) return scale.names[Math.round(value)] ?? "";
  if (COUNTED.includes(scale.unit)) return Math.round(value).toLocaleString("en-US");
  if (scale.unit === "%" || scale.unit === "share") return plain(100 * value, digits) + " %";
  if (scale.unit === "B") return scaled(value, BYTES, digits);
  if (scale.unit === "s") return value ? scaled(value, SECONDS, digits) : "0 s";
  return plain(value, digits) + (/^(loss)?$/.test(scale.unit) ? "" : " " + scale.unit);
}

// Read the number that a cell of a table begins with; NaN where it has none.
function measure(text) {
  const parts = text.split(/[±(*]/)[0].replaceAll("−", "-").replaceAll(",", "");
  let total = NaN;
  for (const [, number, unit] of parts.matchAll(
    /(-?\d*\.?\d+(?:e[-+]?\d+)?)[\s\u00a0]*([a-zA-Zµ%]*)/g)) {
    const value = Number(number) * (UNITS[unit] ?? 1);
    if (Number.isNaN(total)) total = value;
    else if (["min", "s"].includes(unit)) total += value; // 1 h 02 min
    else break;
  }
  return total;
}

// --- axes -------------------------------------------------------------------------

// Return values as far along an axis as they are drawn, up to a linear map.
function spread(scale, value) {
  if (scale.scale === "log") return Math.log10(value);
  if (scale.scale !== "symlog") return value;
  const ratio = Math.abs(value) / scale.linear, within = 10 / 9;
  return ratio <= 1 ? value / scale.linear * within
    : Math.sign(value) * (within + Math.log10(ratio));
}

function unspread(scale, place) {
  return scale.scale === "log" ? 10 ** place : place;
}

function ticks(scale, low, high, most) {
  if (scale.scale === "log" && high > 2.5 * low) {
    const found = [], subs = high > 300 * low ? [1] : high > 30 * low ? [1, 3] : [1, 2, 3, 5];
    for (let k = Math.floor(Math.log10(low)); 10 ** k <= high; k++)
      found.push(...subs.map((sub) => sub * 10 ** k));
    return found.filter((value) => value >= low && value <= high);
  }
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((k) => k * power).find((one) => one >= rough);
  if (COUNTED.includes(scale.unit)) step = Math.max(1, Math.round(step));
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-12); k++) found.push(k * step);
  return found;
}

// One pair of axes of one drawing: a map from values to places and back.
class Axes {
  constructor(about, box) {
    Object.assign(this, about);
    [this.left, this.top, this.right, this.bottom, ...this.whole] = box;
    this.range(...this.whole);
  }
  range(x0, x1, y0, y1) {
    this.ends = [x0, x1, y0, y1];
    const [a, b] = [spread(this.x, x0), spread(this.x, x1)];
    const [c, d] = [spread(this.y, y0), spread(this.y, y1)];
    this.toX = (v) => this.left + (spread(this.x, v) - a) / (b - a) * (this.right - this.left);
    this.toY = (v) => this.bottom - (spread(this.y, v) - c) / (d - c) * (this.bottom - this.top);
    this.fromX = (p) =>
      unspread(this.x, a + (p - this.left) / (this.right - this.left) * (b - a));
  }
  has(x, y) {
    return x >= this.left - 8 && x <= this.right + 8 && y >= this.top - 8 && y <= this.bottom + 8;
  }
  get zoomable() {
    const few = this.x.names || this.still || this.grid || this.x.scale === "symlog";
    return !few && this.series.some((one) => one.x.length > 2);
  }
}

