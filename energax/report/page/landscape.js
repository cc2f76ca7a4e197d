// A density in two dimensions with the chains moving over it.

const numbersOf = (text) => new Uint16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const BLUES = [[247, 251, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]];
const blue = (share) => {
  const at = Math.min(0.9999, Math.max(0, share)) * (BLUES.length - 1), i = Math.floor(at);
  return BLUES[i].map((v, k) => Math.round(v + (at - i) * (BLUES[i + 1][k] - v)));
};
const TRAIL = 4; // draws a chain has behind it
const SHADES = 12; // nats below the top that the logarithm shows

class Landscape extends Panel {
  constructor(place, spec, key, label) {
    super(place, { x: "x₀", y: "x₁", title: "Chains on the density", ...spec, series: [] }, key, label);
    const values = numbersOf(spec.values);
    this.f = Array.from(values, (v) => spec.low + (v / 65535) * (spec.high - spec.low));
    this.runs = spec.runs.map((run) => ({ ...run, points: numbersOf(run.points) }));
    this.run = this.runs[0]; this.frame = 0; this.timer = null; this.playing = false;
    this.controls();
    this.shade();
    this.show(0);
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    still.addEventListener("change", () => { if (still.matches) this.play(false); });
    const seen = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect(); // plays once when it first comes into view
      if (!still.matches) this.play(true);
    }, { threshold: 0.5 });
    seen.observe(this.svg);
  }

  whole() { return { x: [...this.spec.xs], y: [...this.spec.ys] }; }
  height(width) {
    const [x, y] = [this.home.x, this.home.y], wanted = ((width - 86) * (y[1] - y[0])) / (x[1] - x[0]) + 46;
    return Math.round(Math.min(480, Math.max(220, wanted)));
  }

  controls() {
    const option = (value, text) => html("option", { value }, text);
    this.button = button("Play", "Play the chains", () => this.play(!this.playing));
    this.slider = html("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Draw of the chains" });
    this.slider.addEventListener("input", () => { this.play(false); this.show(Number(this.slider.value)); });
    this.speed = html("select", {}, ...[2, 5, 10, 25, 60].map((n) => option(n, `${n} draws a second`)));
    this.speed.value = 10;
    this.past = html("input", { type: "checkbox", checked: "" });
    this.past.addEventListener("change", () => this.paint());
    this.scale = html("select", {}, option("density", "density"), option("log", "log density"));
    this.scale.addEventListener("change", () => { this.shade(); this.paint(); });
    this.which = html("select", {}, ...this.runs.map((run, i) => option(i, run.name)));
    this.which.addEventListener("change", () => { this.run = this.runs[this.which.value]; this.show(0); });
    const step = (by) => { this.play(false); this.show(this.frame + by); };
    this.told = html("span", { class: "told" });
    this.legend.append(this.button, button("◀", "One draw back", () => step(-1)), button("▶", "One draw on", () => step(1)), this.slider, this.told);
    this.legend.after(html("div", { class: "bar" },
      html("label", {}, "chains of", this.which), html("label", {}, "speed", this.speed),
      html("label", {}, "shade", this.scale), html("label", {}, this.past, "draws so far")));
  }

  shade() {
    const { size, high } = this.spec, canvas = html("canvas", { width: size, height: size });
    const context = canvas.getContext("2d"), image = context.createImageData(size, size);
    const log = this.scale.value === "log";
    this.f.forEach((f, i) => {
      const row = size - 1 - Math.floor(i / size), at = 4 * (row * size + (i % size)); // y goes up
      const share = log ? 1 + (f - high) / SHADES : Math.exp(f - high);
      image.data.set([...blue(share), 255], at);
    });
    context.putImageData(image, 0, 0);
    this.image = canvas.toDataURL();
  }

  // Where chain c is at draw t.
  point(t, c) {
    const i = 2 * (t * this.run.chains + c), { x, y } = this.home, p = this.run.points;
    return [x[0] + (p[i] / 65535) * (x[1] - x[0]), y[0] + (p[i + 1] / 65535) * (y[1] - y[0])];
  }
  paint() {
    if (!this.image) return; // the first drawing comes before there is anything to show
    const { x, y } = this.home, { size, colours } = this.spec;
    const half = [x, y].map(([low, high]) => (high - low) / (size - 1) / 2); // values are at the middles of pixels
    const [left, right] = [this.px(x[0] - half[0]), this.px(x[1] + half[0])];
    const [top, bottom] = [this.py(y[1] + half[1]), this.py(y[0] - half[1])];
    this.under.replaceChildren(svg("image", { href: this.image, x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: "none" }));
    const at = (t, c) => { const [px, py] = this.point(t, c); return `${this.px(px).toFixed(1)} ${this.py(py).toFixed(1)}`; };
    const chains = [...Array(this.run.chains).keys()], parts = [];
    if (this.past.checked) {
      let d = "";
      for (let t = 0; t <= this.frame; t += 1) for (const c of chains) d += `M${at(t, c)}h0`;
      parts.push(svg("path", { d, stroke: "#c1531b", "stroke-width": 3, "stroke-linecap": "round", "stroke-opacity": 0.5 }));
    }
    for (const c of chains) {
      const trail = [];
      for (let t = Math.max(0, this.frame - TRAIL); t <= this.frame; t += 1) trail.push(at(t, c));
      parts.push(svg("path", { d: `M${trail.join("L")}`, fill: "none", stroke: colours[c % colours.length], "stroke-opacity": 0.8 }));
    }
    for (const c of chains) {
      const [px, py] = this.point(this.frame, c);
      parts.push(svg("circle", { class: "chain", cx: this.px(px).toFixed(1), cy: this.py(py).toFixed(1), r: 5, fill: colours[c % colours.length], stroke: "#fff", "stroke-width": 1.5 }));
    }
    this.marks.replaceChildren(...parts);
  }

  show(frame) {
    const last = this.run.draws - 1;
    this.frame = Math.min(last, Math.max(0, frame));
    this.slider.max = last; this.slider.value = this.frame;
    const text = `draw ${this.frame + 1} of ${last + 1} of ${this.run.chains} chains, ${this.run.every} apart`;
    this.slider.setAttribute("aria-valuetext", text);
    this.told.textContent = text;
    this.paint();
  }
  play(on) {
    if (on && this.frame === this.run.draws - 1) this.show(0);
    this.playing = on;
    this.button.textContent = on ? "Pause" : "Play";
    this.button.setAttribute("aria-label", `${on ? "Pause" : "Play"} the chains`);
    let before = performance.now(), due = 0;
    const tick = (now) => {
      if (!this.playing || this.timer !== tick) return;
      due += ((now - before) / 1000) * Number(this.speed.value);
      before = now;
      const by = Math.floor(due);
      due -= by;
      if (by) this.show(this.frame + by);
      if (this.frame === this.run.draws - 1) this.play(false); else requestAnimationFrame(tick);
    };
    this.timer = on ? tick : null;
    if (on) requestAnimationFrame(tick);
  }

  at({ x, y }) {
    const { size } = this.spec;
    const [i, j] = [[x, this.home.x], [y, this.home.y]].map(([v, [low, high]]) => Math.round(((v - low) / (high - low)) * (size - 1)));
    if (i < 0 || j < 0 || i >= size || j >= size) return ["", []];
    const f = this.f[j * size + i], least = f <= this.spec.low ? "at most " : "";
    return [`x₀ ${shown(x)}, x₁ ${shown(y)}: f ${least}${shown(f)}`, [[x, y, "#1a1a1a"]]];
  }
  pressed(event) {
    if (event.key !== " ") return super.pressed(event);
    this.play(!this.playing);
    return true;
  }
}
