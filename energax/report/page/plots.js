"use strict";
// Panels of curves, histograms and points, drawn as SVG from the JSON beside each picture.

const make = (space, tag, attributes, children) => {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const html = (tag, attributes = {}, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make("http://www.w3.org/2000/svg", tag, attributes, children);

const shown = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "none";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(3);
  return String(Number(value.toPrecision(Math.max(5, Math.ceil(Math.log10(size + 1))))));
};

const ticksOf = (low, high, most) => {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= 0.7 * rough);
  const digits = Math.min(20, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + step * 1e-6; i += 1) {
    const value = i * step;
    const text = Math.abs(value) >= 1e7 ? value.toExponential(1) : value.toFixed(digits);
    found.push([value, text.replace("-", "−")]);
  }
  return found;
};

const extent = (values) => {
  let [low, high] = [Infinity, -Infinity];
  for (const v of values) if (v !== null && Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  return low > high ? [0, 1] : low === high ? [low - 0.5, high + 0.5] : [low, high];
};
const padded = ([low, high], share) => [low - share * (high - low), high + share * (high - low)];
// The place in sorted xs that is nearest to x.
const nearest = (xs, x) => {
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) { const mid = (low + high) >> 1; if (xs[mid] <= x) low = mid; else high = mid; }
  return Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
};
const button = (text, label, action) => {
  const made = html("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", action);
  return made;
};

class Panel {
  // A pair of axes. In a panel of curves zoom is along x and y follows what is seen; one of points
  // zooms along both.
  constructor(place, spec, key, label) {
    this.spec = spec; this.key = key; this.off = new Set(); this.cursor = null;
    this.series = spec.series ?? [];
    this.both = this.series.length === 0 || this.series.some((s) => s.kind === "points");
    this.home = this.whole();
    this.view = { x: [...this.home.x], y: [...this.home.y] };
    this.axes = svg("g", { class: "axes" });
    this.under = svg("g"); this.marks = svg("g", { class: "marks" }); this.over = svg("g");
    this.clip = svg("rect");
    const id = `clip${key}`.replace(/\W/g, "-");
    this.inside = svg("g", { "clip-path": `url(#${id})` }, this.under, this.marks, this.over);
    this.svg = svg("svg", { tabindex: 0, role: "application", id: `plot${key}`.replace(/\W/g, "-"),
      "aria-label": `${label}. Arrows read values, plus and minus zoom, 0 shows the whole.` },
      svg("clipPath", { id }, this.clip), this.axes, this.inside);
    this.readout = html("p", { class: "readout", role: "status" });
    this.bar = html("div", { class: "bar", role: "group", "aria-label": `View of ${label}` },
      html("span", { class: "title" }, spec.title || spec.y || spec.x),
      button("+", `Zoom in: ${label}`, () => this.zoom(0.6)),
      button("−", `Zoom out: ${label}`, () => this.zoom(1 / 0.6)),
      button("Reset", `Reset: ${label}`, () => this.reset()));
    this.legend = html("div", { class: "bar" });
    this.place = html("div", { class: "panel" }, this.bar, this.svg, this.legend, this.readout);
    place.append(this.place);
    this.fillLegend();
    this.listen();
    this.draw();
    new ResizeObserver(() => requestAnimationFrame(() => { if (this.width !== this.wide()) this.draw(); })).observe(this.place);
  }

  visible() { return this.series.filter((s) => !this.off.has(s.name)); }

  whole() {
    const xs = this.series.map((s) => extent(s.x)).flat().concat((this.spec.marks ?? []).map((m) => m.x));
    const x = padded(extent(xs), this.both ? 0.04 : 0);
    return { x, y: this.fitted(x) };
  }

  // The range of y in what is seen of x, from 0 for histograms.
  fitted([low, high]) {
    const found = [];
    for (const s of this.visible()) {
      const last = s.kind === "steps" ? 1 : 0;
      s.y.forEach((y, i) => {
        if (y === null || s.x[i + last] < low || s.x[i] > high) return;
        found.push(y - (s.error?.[i] ?? 0), y + (s.error?.[i] ?? 0));
      });
      if (last) found.push(0);
    }
    return padded(extent(found), 0.05);
  }

  fillLegend() {
    if (this.series.length < 2) return;
    for (const s of this.series) {
      const made = button(s.name, `${s.name}, shown in the figure`, () => {
        if (this.off.has(s.name)) this.off.delete(s.name); else this.off.add(s.name);
        made.setAttribute("aria-pressed", String(!this.off.has(s.name)));
        this.look(this.view.x);
      });
      made.setAttribute("aria-pressed", "true");
      made.prepend(html("span", { class: "swatch", style: `background:${s.colour}` }));
      this.legend.append(made);
    }
  }

  // ---- what is seen ---------------------------------------------------------------------------
  look(x, y) { this.view = { x, y: y ?? (this.both ? this.view.y : this.fitted(x)) }; this.draw(); }
  reset() { this.look([...this.home.x], [...this.home.y]); }
  get zoomed() { return this.view.x.some((v, i) => v !== this.home.x[i]) || (this.both && this.view.y.some((v, i) => v !== this.home.y[i])); }
  zoom(by, at = this.cursor) {
    const around = (axis) => {
      const [low, high] = this.view[axis], whole = this.home[axis][1] - this.home[axis][0];
      const size = Math.min(4 * whole, Math.max(1e-5 * whole, by * (high - low)));
      const middle = at ? at[axis] : (low + high) / 2, share = at ? (middle - low) / (high - low) : 0.5;
      return [middle - share * size, middle + (1 - share) * size];
    };
    this.look(around("x"), this.both ? around("y") : null);
  }
  pan(dx, dy) {
    const moved = ([low, high], by) => [low + by * (high - low), high + by * (high - low)];
    this.look(moved(this.view.x, dx), this.both ? moved(this.view.y, dy) : null);
  }

  // ---- drawing --------------------------------------------------------------------------------
  wide() { return Math.max(200, this.place.clientWidth); }
  height(width) { return Math.round(Math.min(300, Math.max(200, 0.55 * width))); }
  draw() {
    const width = this.width = this.wide(), height = this.height(width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    const box = this.box = { left: 66, right: width - 20, top: 8, bottom: height - 38 };
    const { x, y } = this.view;
    this.px = (v) => box.left + ((v - x[0]) / (x[1] - x[0])) * (box.right - box.left);
    this.py = (v) => box.bottom - ((v - y[0]) / (y[1] - y[0])) * (box.bottom - box.top);
    for (const [name, value] of [["x", box.left], ["y", box.top], ["width", box.right - box.left], ["height", box.bottom - box.top]])
      this.clip.setAttribute(name, value);
    const parts = [svg("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, fill: "none", stroke: "#767676" })];
    for (const [value, text] of ticksOf(x[0], x[1], (box.right - box.left) / 70)) {
      parts.push(svg("path", { d: `M${this.px(value)} ${box.bottom}v5`, stroke: "#767676" }));
      parts.push(svg("text", { class: "x", x: this.px(value), y: box.bottom + 17, "text-anchor": "middle" }, text));
    }
    for (const [value, text] of ticksOf(y[0], y[1], (box.bottom - box.top) / 40)) {
      parts.push(svg("path", { d: `M${box.left} ${this.py(value)}h-5`, stroke: "#767676" }));
      parts.push(svg("text", { class: "y", x: box.left - 8, y: this.py(value) + 4, "text-anchor": "end" }, text));
    }
    parts.push(svg("text", { x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, this.spec.x));
    if (this.spec.y) parts.push(svg("text", { "text-anchor": "middle", transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)` }, this.spec.y));
    this.axes.replaceChildren(...parts);
    this.marks.replaceChildren(...this.visible().flatMap((s) => this.drawn(s)),
      ...(this.spec.marks ?? []).map((m) => svg("path", { d: `M${this.px(m.x)} ${box.top}V${box.bottom}`, stroke: "#4d4d4d", "stroke-dasharray": "5 4" }, svg("title", {}, m.name))));
    this.paint();
    this.read();
  }
  paint() {} // what else there is: see Landscape

  drawn(s) {
    const line = (points) => points.map(([x, y], i) => `${i && points[i - 1] ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    if (s.kind === "points") {
      const d = s.x.map((x, i) => (x === null || s.y[i] === null ? "" : `M${this.px(x).toFixed(1)} ${this.py(s.y[i]).toFixed(1)}h0`)).join("");
      return [svg("path", { d, stroke: s.colour, "stroke-width": 4, "stroke-linecap": "round", "stroke-opacity": 0.6 })];
    }
    if (s.kind === "steps") {
      const points = s.y.flatMap((y, i) => [[this.px(s.x[i]), this.py(y)], [this.px(s.x[i + 1]), this.py(y)]]);
      return [svg("path", { d: `M${points[0][0]} ${this.py(0)}L${line(points).slice(1)}V${this.py(0)}`, fill: "none", stroke: s.colour, "stroke-width": 1.6 })];
    }
    const found = [], runs = [[]]; // a gap where a value is none
    s.x.forEach((x, i) => { if (s.y[i] === null || x === null) runs.push([]); else runs.at(-1).push(i); });
    for (const run of runs.filter((r) => r.length)) {
      const at = (sign) => run.map((i) => [this.px(s.x[i]), this.py(s.y[i] + sign * (s.error?.[i] ?? 0))]);
      if (s.error) found.push(svg("path", { d: `${line(at(1))}L${line(at(-1).reverse()).slice(1)}Z`, fill: s.colour, "fill-opacity": 0.2 }));
      found.push(svg("path", { d: line(run.length > 1 ? at(0) : [at(0)[0], at(0)[0]]), fill: "none", stroke: s.colour, "stroke-width": 1.4, "stroke-linecap": "round" }));
    }
    return found;
  }

  // ---- values under the pointer ---------------------------------------------------------------
  // [text, dots to draw] of what is at the cursor.
  at({ x, y }) {
    if (this.both) {
      let best = null;
      for (const s of this.visible()) s.x.forEach((v, i) => {
        const far = Math.hypot(this.px(v) - this.px(x), this.py(s.y[i]) - this.py(y));
        if (s.y[i] !== null && (!best || far < best.far)) best = { far, s, i };
      });
      if (!best) return ["", []];
      const [bx, by] = [best.s.x[best.i], best.s.y[best.i]];
      return [`${best.s.name}: ${this.spec.x} ${shown(bx)}, ${this.spec.y} ${shown(by)}`, [[bx, by, best.s.colour]]];
    }
    const words = [], dots = [];
    let head = "";
    for (const s of this.visible()) {
      if (s.kind === "steps") {
        const i = s.x.findIndex((edge, k) => k < s.y.length && edge <= x && x < s.x[k + 1]);
        if (i < 0) continue;
        head ||= `${this.spec.x} ${shown(s.x[i])} to ${shown(s.x[i + 1])}`;
        words.push(`${s.name} ${shown(s.y[i])}`);
        dots.push([(s.x[i] + s.x[i + 1]) / 2, s.y[i], s.colour]);
      } else if (s.x.length) {
        const i = nearest(s.x, x);
        head ||= `${this.spec.x} ${shown(s.x[i])}`;
        words.push(`${s.name} ${shown(s.y[i])}${s.error ? ` ± ${shown(s.error[i])}` : ""}`);
        if (s.y[i] !== null) dots.push([s.x[i], s.y[i], s.colour]);
      }
    }
    return [head && `${head}: ${words.join(" · ")}`, dots];
  }
  read() {
    if (!this.cursor) { this.over.replaceChildren(); this.readout.textContent = ""; return; }
    const [text, dots] = this.at(this.cursor);
    const rule = !this.both && dots.length ? [svg("path", { d: `M${this.px(dots[0][0])} ${this.box.top}V${this.box.bottom}`, stroke: "#767676" })] : [];
    this.over.replaceChildren(...rule, ...dots.map(([x, y, colour]) => svg("circle", { cx: this.px(x), cy: this.py(y), r: 4, fill: colour, stroke: "#fff" })));
    this.readout.textContent = text;
  }
  // The cursor one value on, by keyboard.
  step(dx, dy) {
    const { x, y } = this.view, c = this.cursor ?? { x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2 };
    const first = this.visible()[0];
    if (this.both || !first?.x.length) {
      this.cursor = { x: c.x + (dx * (x[1] - x[0])) / 40, y: c.y + (dy * (y[1] - y[0])) / 40 };
    } else {
      const middles = first.kind === "steps" ? first.y.map((_, i) => (first.x[i] + first.x[i + 1]) / 2) : first.x;
      const i = Math.min(middles.length - 1, Math.max(0, nearest(middles, c.x) + (this.cursor ? dx : 0)));
      this.cursor = { x: middles[i], y: c.y };
    }
    this.read();
  }

  // ---- mouse, finger, keyboard ----------------------------------------------------------------
  place_of(event) {
    const seen = this.svg.getBoundingClientRect(), { x, y } = this.view, box = this.box;
    const [px, py] = [event.clientX - seen.left, event.clientY - seen.top];
    return { px, py,
      x: x[0] + ((px - box.left) / (box.right - box.left)) * (x[1] - x[0]),
      y: y[0] + ((box.bottom - py) / (box.bottom - box.top)) * (y[1] - y[0]) };
  }
  listen() {
    let from = null; // where the button went down
    const on = (name, action, options) => this.svg.addEventListener(name, action, options);
    on("pointerdown", (event) => {
      if (event.button !== 0) return;
      from = { ...this.place_of(event), view: this.view, boxed: event.shiftKey };
      this.svg.setPointerCapture(event.pointerId);
    });
    on("pointermove", (event) => {
      const now = this.place_of(event);
      if (!from) { this.cursor = { x: now.x, y: now.y }; this.read(); return; }
      if (from.boxed) {
        const [left, top] = [Math.min(from.px, now.px), this.both ? Math.min(from.py, now.py) : this.box.top];
        const tall = this.both ? Math.abs(now.py - from.py) : this.box.bottom - this.box.top;
        this.over.replaceChildren(svg("rect", { x: left, y: top, width: Math.abs(now.px - from.px), height: tall, fill: "#174a80", "fill-opacity": 0.15, stroke: "#174a80" }));
      } else if (Math.hypot(now.px - from.px, now.py - from.py) > 3) {
        this.view = from.view;
        this.pan((from.px - now.px) / (this.box.right - this.box.left), (now.py - from.py) / (this.box.bottom - this.box.top));
      }
    });
    const end = (event) => {
      const start = from, now = this.place_of(event);
      from = null;
      if (!start?.boxed || Math.abs(now.px - start.px) < 4) return;
      const order = (a, b) => [Math.min(a, b), Math.max(a, b)];
      this.look(order(start.x, now.x), this.both && Math.abs(now.py - start.py) > 4 ? order(start.y, now.y) : null);
    };
    on("pointerup", end);
    on("pointercancel", () => { from = null; });
    on("pointerleave", () => { if (!from) { this.cursor = null; this.read(); } });
    on("dblclick", () => this.reset());
    on("wheel", (event) => { // the page keeps its own wheel until the figure is asked for
      if (!event.ctrlKey && document.activeElement !== this.svg) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, this.place_of(event));
    }, { passive: false });
    on("keydown", (event) => { if (!event.ctrlKey && !event.metaKey && !event.altKey && this.pressed(event)) event.preventDefault(); });
    on("blur", () => { this.cursor = null; this.read(); });
  }
  pressed({ key, shiftKey }) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (key in arrows && shiftKey) this.pan(...arrows[key].map((by) => by * 0.1));
    else if (key in arrows && (this.both || arrows[key][0])) this.step(...arrows[key]);
    else if (key === "+" || key === "=") this.zoom(0.6);
    else if (key === "-" || key === "−") this.zoom(1 / 0.6);
    else if (key === "0") this.reset();
    else return false;
    return true;
  }
}

// Points of two columns of a table, which ones by choice.
class Pairs {
  constructor(place, spec, key, label) {
    const choose = (axis, chosen) => {
      const list = html("select", { id: `${axis}${key}`.replace(/\W/g, "-") }, ...spec.columns.map((name, i) => html("option", { value: i }, name)));
      list.value = chosen;
      list.addEventListener("change", () => this.show());
      return [html("label", {}, `${axis}: `, list), list];
    };
    const [first, x] = choose("across", 0), [second, y] = choose("up", 1);
    const holder = html("div");
    this.show = () => {
      const series = spec.groups.map((g) => ({ kind: "points", name: g.name, colour: g.colour, x: g.values[x.value], y: g.values[y.value] }));
      holder.replaceChildren();
      this.panel = new Panel(holder, { x: spec.columns[x.value], y: spec.columns[y.value], title: "Pairs of columns", series }, key, label);
    };
    place.append(html("div", {}, html("div", { class: "bar" }, first, second), holder));
    this.show();
  }
}
