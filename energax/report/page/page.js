// What the page does besides: puts figures in the place of pictures, sorts tables, loads itself again.

const panels = [];
for (const figure of document.querySelectorAll("figure")) {
  const data = figure.querySelector("script[type='application/json']");
  if (!data) continue;
  const picture = figure.querySelector("img"), spec = JSON.parse(data.textContent), label = picture.alt;
  const place = html("div", { class: "panels" });
  picture.after(place);
  const name = `${label.slice(0, 40)} ${document.querySelectorAll("div.panels").length}`;
  const added = spec.kind === "landscape" ? [new Landscape(place, spec, name, label)]
    : spec.kind === "pairs" ? [new Pairs(place, spec, name, label)]
    : spec.panels.map((panel, i) => new Panel(place, panel, `${name} ${i}`, panel.title ? `${panel.title}, ${label}` : label));
  panels.push(...added);
  picture.hidden = true; // the figure is there: the picture would say it twice
}
document.getElementById("hint").hidden = panels.length === 0;

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const sort = html("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(sort);
    sort.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent.trim();
      const byNumber = [...body.rows].every((row) => text(row) !== "" && !Number.isNaN(Number(text(row))));
      const order = (a, b) => (byNumber ? Number(text(a)) - Number(text(b)) : text(a).localeCompare(text(b), undefined, { numeric: true }));
      body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
    });
  });
}

// A page of a training that goes on loads itself again, and is then seen as it was: the place on the
// page, what has the focus, and what each figure shows are kept in the entry of the tab's history.
const seconds = Number(document.body.dataset.reload);
const kept = history.state?.energax;
if (kept) {
  for (const panel of panels) {
    const view = kept.views[panel.key];
    if (view) panel.look(view.x, panel.both ? view.y : null);
  }
  document.getElementById(kept.focus)?.focus({ preventScroll: true });
  requestAnimationFrame(() => scrollTo(0, kept.scroll));
}
if (seconds) {
  let paused = false, held = false;
  addEventListener("pointerdown", () => { held = true; });
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => { held = false; });
  const pause = button("Pause updates", "Pause updates of this page", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on updating" : "Pause updates";
    pause.setAttribute("aria-label", `${pause.textContent} of this page`);
  });
  pause.id = "pause";
  document.querySelector("header").append(pause);
  setInterval(() => {
    if (paused || held) return;
    const views = Object.fromEntries(panels.filter((p) => p.zoomed).map((p) => [p.key, p.view]));
    const focus = document.activeElement?.id ?? "";
    history.replaceState({ energax: { views, focus, scroll: scrollY } }, "");
    location.reload();
  }, 1000 * seconds);
}
