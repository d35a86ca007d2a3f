// Figures to point at, to zoom and to thin out.

const LISTED = 9; // Values that a tip shows at most.

class Drawing {
  constructor(figure, svg) {
    this.figure = figure;
    this.svg = svg;
    const boxes = JSON.parse(svg.dataset.boxes);
    this.axes = figure.about.map((about, k) => about && new Axes(about, boxes[k]));
    this.marks = svg.appendChild(draw("g", { class: "marks", "pointer-events": "none" }));
    this.kept = new Map();
    svg.setAttribute("role", "group");
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", (event) => this.move(event));
    svg.addEventListener("pointerleave", () => this.leave());
    // A click gives no focus, whose frame is for keys, and selects no text.
    svg.addEventListener("mousedown", (event) => event.preventDefault());
    svg.addEventListener("pointerdown", (event) => this.press(event));
    svg.addEventListener("pointerup", (event) => this.release(event));
    svg.addEventListener("pointercancel", () => this.leave());
    svg.addEventListener("dblclick", () => this.zoom(null));
    svg.addEventListener("keydown", (event) => this.key(event));
    svg.addEventListener("blur", () => figure.hide());
    if (this.axes.some((one) => one?.zoomable)) svg.classList.add("zoomable");
  }
  place(event) {
    const point = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(this.svg.getScreenCTM().inverse());
    return [point.x, point.y, this.axes.find((one) => one?.has(point.x, point.y))];
  }
  move(event) {
    const [x, y, axes] = this.place(event);
    if (this.begun) return this.brush(x);
    if (axes) this.point(axes, x, y);
    else this.figure.hide();
  }
  press(event) {
    const [x, , axes] = this.place(event);
    if (event.button !== 0 || !axes?.zoomable || event.target.closest("[data-legend]")) return;
    this.begun = { axes, x };
    this.svg.setPointerCapture(event.pointerId);
  }
  brush(x) {
    const { axes, x: begun } = this.begun;
    const [a, b] = [begun, x].map((p) => Math.min(Math.max(p, axes.left), axes.right));
    this.span = [Math.min(a, b), Math.max(a, b)];
    this.marks.replaceChildren(draw("rect", {
      class: "brush", x: this.span[0], y: axes.top, width: this.span[1] - this.span[0],
      height: axes.bottom - axes.top,
    }));
  }
  release(event) {
    const { axes } = this.begun || {}, span = this.span;
    this.begun = this.span = null;
    if (!axes || !span || span[1] - span[0] < 4) return this.move(event);
    this.zoom(span.map((p) => axes.fromX(p)), axes);
  }
  leave() {
    this.begun = this.span = null;
    this.figure.hide();
  }
  shown(axes) {
    return axes.series.filter((one) => !this.figure.hidden.has(one.key));
  }
  // Show what is nearest: along x, or, where marks stand alone, in the plane.
  point(axes, x, y) {
    if (axes.grid) return this.cell(axes, x, y);
    const found = [], alone = !axes.zoomable;
    for (const one of this.shown(axes)) {
      const stairs = one.kind === "stairs";
      for (let k = 0; k < one.y.length; k++) {
        const value = stairs ? (one.x[k] + one.x[k + 1]) / 2 : one.x[k];
        const at = axes.toX(value), up = axes.toY(one.y[k]);
        if (at < axes.left - 1 || at > axes.right + 1) continue;
        const wide = stairs ? Math.abs(axes.toX(one.x[k + 1]) - axes.toX(one.x[k])) / 2 : 0.75;
        const far = Math.max(0, Math.abs(at - x) - (stairs ? wide : 0)) + (alone ? Math.abs(up - y) : 0);
        found.push({ one, k, at, up, far, wide, value });
      }
    }
    if (!found.length) return this.figure.hide();
    const best = found.reduce((a, b) => (b.far < a.far ? b : a));
    const level = found.filter((f) => Math.abs(f.at - best.at) <= Math.max(f.wide, 0.75)
      && (!alone || Math.abs(f.up - best.up) < 1 || axes.x.names));
    level.sort((a, b) => Math.abs(a.up - y) - Math.abs(b.up - y));
    this.tell(axes, best, level.slice(0, LISTED), level.length - LISTED);
  }
  cell(axes, x, y) {
    const { x: xs, y: ys, z, unit } = axes.grid;
    const near = (places, to, p) => places.reduce(
      (best, v, k) => (Math.abs(to(v) - p) < Math.abs(to(places[best]) - p) ? k : best), 0);
    const [i, j] = [near(xs, axes.toX, x), near(ys, axes.toY, y)];
    const value = z[j][i], at = axes.toX(xs[i]), up = axes.toY(ys[j]);
    this.marks.replaceChildren(draw("circle", { class: "dot", cx: at, cy: up, r: 3 }));
    const head = `${this.label(axes.x, xs[i])}, ${this.label(axes.y, ys[j])}`;
    const said = value === null ? "not finite" : inWords(value, { unit });
    this.last = { axes, at, up };
    this.figure.tell(this.svg, at, up, head, [{ text: said }]);
  }
  label(scale, value) {
    const word = COUNTED.includes(scale.unit) && !scale.names ? scale.unit + " " : "";
    return word + inWords(value, scale);
  }
  tell(axes, best, level, more) {
    this.last = { axes, at: best.at, up: best.up };
    const line = draw("line", {
      class: "cross", x1: best.at, x2: best.at, y1: axes.top, y2: axes.bottom });
    const dots = level.map(({ one, at, up }) => draw("circle", {
      class: "dot", cx: at, cy: up, r: 3.2, style: `fill: var(--${one.role})` }));
    this.marks.replaceChildren(line, ...dots);
    level.sort((a, b) => a.up - b.up);
    const rows = level.map(({ one, k }) => {
      const said = inWords(one.y[k], axes.y);
      const until = one.high ? ` to ${inWords(one.high[k], axes.y)}` : "";
      return { role: one.role, text: axes.y.names ? `${said}: ${one.name}` : `${one.name} ${said}${until}` };
    });
    if (more > 0) rows.push({ text: `and ${more} more` });
    this.figure.tell(this.svg, best.at, best.up, this.label(axes.x, best.value), rows);
  }
  key(event) {
    const all = this.axes.filter((one) => one && (one.series.length || one.grid));
    if (event.target !== this.svg || !all.length || event.ctrlKey || event.metaKey) return;
    let { axes, at, up } = this.last || {
      axes: all[0], at: (all[0].left + all[0].right) / 2, up: (all[0].top + all[0].bottom) / 2 };
    const step = (axes.right - axes.left) / 40;
    const moves = {
      ArrowLeft: () => this.jump(axes, at, up, -step), ArrowRight: () => this.jump(axes, at, up, step),
      Home: () => this.point(axes, axes.left, up), End: () => this.point(axes, axes.right, up),
      ArrowUp: () => this.climb(all, axes, at, up, -1), ArrowDown: () => this.climb(all, axes, at, up, 1),
      "+": () => this.narrow(axes, at, 0.25), "-": () => this.narrow(axes, at, 1),
      Escape: () => { this.figure.hide(); this.zoom(null); },
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
    this.figure.say();
  }
  // Go along x to the next mark, however far it is.
  jump(axes, at, up, step) {
    for (let k = 1; k <= 41; k++) {
      this.point(axes, at + k * step, up);
      if (Math.abs((this.last?.at ?? at) - at) > 0.5) return;
    }
  }
  climb(all, axes, at, up, sign) {
    if (axes.grid) return this.point(axes, at, up + sign * (axes.bottom - axes.top) / 24);
    const next = all[(all.indexOf(axes) + sign + all.length) % all.length];
    this.point(next, at, (next.top + next.bottom) / 2);
  }
  narrow(axes, at, part) {
    if (!axes.zoomable) return;
    const reach = part * (axes.right - axes.left);
    const span = [Math.max(axes.left, at - reach), Math.min(axes.right, at + reach)];
    const ends = [axes.fromX(part < 1 ? span[0] : axes.left - reach),
                  axes.fromX(part < 1 ? span[1] : axes.right + reach)];
    const [low, high] = axes.whole;
    const inside = [Math.max(low, ends[0]), Math.min(high, ends[1])];
    this.zoom(inside[0] <= low && inside[1] >= high ? null : inside, axes);
  }
  // Show a range of x in all axes that share it; null: the whole.
  zoom(range, of) {
    const same = (one) => !of || (one.whole[0] === of.whole[0] && one.whole[1] === of.whole[1]);
    this.axes.forEach((axes, k) => {
      if (!axes?.zoomable || !same(axes)) return;
      this.restore(k);
      axes.range(...axes.whole);
      if (range) this.magnify(axes, k, range);
    });
    this.figure.hide();
    this.figure.zoomed(range !== null);
  }
  heights(axes, [x0, x1]) {
    const found = [];
    for (const one of this.shown(axes))
      for (let k = 0; k < one.y.length; k++) {
        const [a, b] = one.kind === "stairs" ? [one.x[k], one.x[k + 1]] : [one.x[k], one.x[k]];
        if (b >= x0 && a <= x1) found.push(one.y[k], ...(one.high ? [one.high[k]] : []));
      }
    const [low, high] = [Math.min(...found), Math.max(...found)];
    if (found.length < 2 || !(high > low) || axes.y.names) return axes.whole.slice(2);
    if (axes.y.scale === "log") return [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
    const bars = axes.series.some((one) => one.kind === "stairs");
    return [bars ? Math.min(axes.whole[2], low) : low - 0.06 * (high - low),
            high + 0.06 * (high - low)];
  }
  magnify(axes, k, range) {
    const old = { x: axes.toX, y: axes.toY }, ends = this.heights(axes, range);
    axes.range(...range, ...ends);
    // Places are mapped linearly, whatever the scale: from two values of each axis.
    const line = (from, to, a, b) => {
      const factor = (to(b) - to(a)) / (from(b) - from(a));
      return [factor, to(a) - factor * from(a)];
    };
    const [kx, tx] = line(old.x, axes.toX, ...range), [ky, ty] = line(old.y, axes.toY, ...ends);
    const clip = `zoom-${Drawing.count = (Drawing.count || 0) + 1}`;
    const hole = draw("clipPath", { id: clip });
    hole.append(draw("rect", { x: axes.left - 2, y: axes.top - 2,
      width: axes.right - axes.left + 4, height: axes.bottom - axes.top + 4 }));
    this.marks.before(hole);
    const undo = [() => hole.remove()];
    const set = (element, name, value) => {
      const before = element.getAttribute(name);
      undo.push(() => (before === null ? element.removeAttribute(name)
        : element.setAttribute(name, before)));
      if (value === null) element.removeAttribute(name);
      else element.setAttribute(name, value);
    };
    const group = this.svg.querySelector(`[data-axis="${k}x"]`).parentNode;
    for (const mark of group.querySelectorAll("[data-series]")) {
      set(mark, "clip-path", `url(#${clip})`);
      for (const one of mark.querySelectorAll("[clip-path]")) set(one, "clip-path", null);
      for (const path of mark.querySelectorAll("path:not(defs path)"))
        set(path, "d", path.getAttribute("d").replace(/(-?[\d.]+) (-?[\d.]+)/g,
          (_, x, y) => `${kx * x + tx} ${ky * y + ty}`));
      for (const use of mark.querySelectorAll("use")) {
        const x = Number(use.getAttribute("x")), y = Number(use.getAttribute("y"));
        // A band is drawn from the corner, a marker from its own place.
        if (x === 0) set(use, "transform", `matrix(${kx} 0 0 ${ky} ${tx} ${ty})`);
        else { set(use, "x", kx * x + tx); set(use, "y", ky * y + ty); }
      }
    }
    for (const mark of group.querySelectorAll(`[data-fixed="${k}"]`)) set(mark, "display", "none");
    for (const letter of "xy") this.label_axis(axes, k, letter, set, undo);
    this.kept.set(k, undo);
  }
  label_axis(axes, k, letter, set, undo) {
    const scale = axes[letter], along = letter === "x";
    if (scale.names) return;
    const axis = this.svg.querySelector(`[data-axis="${k}${letter}"]`);
    const texts = [...axis.querySelectorAll("[data-tick] text")];
    const style = texts[0]?.getAttribute("style");
    for (const tick of axis.querySelectorAll("[data-tick]")) set(tick, "display", "none");
    const [low, high] = along ? axes.ends : axes.ends.slice(2);
    const made = draw("g", {});
    const narrow = axes.right - axes.left < 330;
    const shown = ticks(scale, low, high, along ? (narrow ? 4 : 7) : 4);
    const gap = shown.length > 1 ? Math.abs(shown[1] - shown[0]) : 1;
    for (const value of shown) {
      const [x, y] = along ? [axes.toX(value), axes.bottom + 15] : [axes.left - 4, axes.toY(value)];
      if (!along) made.append(draw("line", {
        class: "ruled", x1: axes.left, x2: axes.right, y1: y, y2: y }));
      if (!style) continue;
      const digits = Math.max(3, Math.ceil(Math.log10(Math.abs(value) / gap + 1)) + 1);
      const text = draw("text", { style, x, y: along ? y : y + 3.2 });
      text.style.textAnchor = along ? "middle" : "end";
      text.textContent = inWords(value, scale, digits);
      made.append(text);
    }
    axis.append(made);
    undo.push(() => made.remove());
  }
  restore(k) {
    for (const back of (this.kept.get(k) || []).reverse()) back();
    this.kept.delete(k);
  }
}

class Figure {
  constructor(element) {
    this.element = element;
    this.about = JSON.parse(element.dataset.plot);
    this.hidden = new Set();
    this.tip = element.appendChild(make("div", { class: "tip", "aria-hidden": "true" }));
    this.status = element.appendChild(make("output", { class: "unseen" }));
    this.back = make("button", { type: "button", class: "back" }, "Whole range");
    this.back.addEventListener("click", () => this.drawings.forEach((one) => one.zoom(null)));
    this.back.hidden = true;
    element.querySelector("figcaption").append(this.back);
    this.drawings = [...element.querySelectorAll("svg[data-boxes]")].map(
      (svg) => new Drawing(this, svg));
    for (const entry of element.querySelectorAll("[data-legend]")) this.switch(entry);
    this.hide();
  }
  // Make an entry of the drawing's own legend a switch.
  switch(entry) {
    const key = entry.dataset.legend, worded = entry.querySelector("text");
    entry.classList.add("entry");
    if (worded) {
      entry.setAttribute("role", "button");
      entry.setAttribute("tabindex", "0");
      entry.setAttribute("aria-pressed", "true");
      entry.setAttribute("aria-label", worded.textContent);
    }
    entry.addEventListener("click", () => this.toggle(key));
    entry.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.toggle(key);
    });
  }
  toggle(key, shown = this.hidden.has(key)) {
    if (shown) this.hidden.delete(key);
    else this.hidden.add(key);
    for (const mark of this.element.querySelectorAll("[data-series]"))
      if (mark.dataset.series === key) mark.style.display = shown ? "" : "none";
    for (const entry of this.element.querySelectorAll("[data-legend]"))
      if (entry.dataset.legend === key) {
        entry.classList.toggle("off", !shown);
        if (entry.hasAttribute("role")) entry.setAttribute("aria-pressed", shown);
      }
    this.hide();
  }
  tell(svg, at, up, head, rows) {
    this.said = [head, ...rows.map((row) => row.text)].join(", ");
    this.tip.replaceChildren(make("b", {}, head), ...rows.map((row) => {
      const line = make("div");
      if (row.role) line.append(make("i", { style: `background: var(--${row.role})` }));
      line.append(row.text);
      return line;
    }));
    this.tip.hidden = false;
    const whole = this.element.getBoundingClientRect();
    const point = new DOMPoint(at, up).matrixTransform(svg.getScreenCTM());
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    const x = point.x - whole.left, y = point.y - whole.top;
    const beside = x + 14 + wide <= whole.width - 4 ? x + 14 : x - 14 - wide;
    this.tip.style.left = `${Math.min(Math.max(4, beside), Math.max(4, whole.width - wide - 4))}px`;
    this.tip.style.top = `${Math.min(Math.max(4, y - high / 2), Math.max(4, whole.height - high - 4))}px`;
  }
  hide() {
    this.tip.hidden = true;
    this.said = "";
    for (const one of this.drawings || []) { one.marks.replaceChildren(); one.last = null; }
  }
  say() { this.status.textContent = this.said; }
  zoomed(is) { this.back.hidden = !is; }
}

