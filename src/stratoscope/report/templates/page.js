"use strict";
// Tips, the layer table, the timeline's zoom, the record as a file. Text goes in by textContent only.

(() => {
  const tip = document.getElementById("tip");
  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 20 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
  };
  const show = (event) => {
    const target = event.target.closest("[data-tip], [title]");
    if (!target || target.matches("button, summary")) { tip.hidden = true; return; }
    if (target.title) { target.dataset.tip = target.title; target.removeAttribute("title"); }
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    place(event.clientX, event.clientY);
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("pointermove", (event) => { if (!tip.hidden) place(event.clientX, event.clientY); });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
})();

(() => {
  const table = document.getElementById("layer-table");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const search = document.getElementById("layer-search");
  const operator = document.getElementById("layer-operator");
  const count = document.getElementById("layer-count");
  const all = count.textContent;

  const sort = (column) => {
    const head = heads[column];
    const numeric = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const descending = before === "none" ? numeric && column > 0 : before === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.v;
    const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
    rows.sort((first, second) => {
      const a = key(first), b = key(second);
      if (a === "" || b === "") return (a === "") - (b === "");
      return descending ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => sort(column)));

  const filter = () => {
    const words = search.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = (!operator.value || row.dataset.op === operator.value)
        && row.cells[1].textContent.toLowerCase().includes(words);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? all : `${shown} of ${all}`;
  };
  search.addEventListener("input", filter);
  operator.addEventListener("change", filter);

  document.addEventListener("click", (event) => {
    const mark = event.target.closest(".bar[data-layer], rect[data-layer]");
    if (!mark) return;
    const row = rows.find((candidate) => candidate.dataset.layer === mark.dataset.layer);
    if (!row) return;
    search.value = operator.value = "";
    filter();
    rows.forEach((other) => other.classList.toggle("found", other === row));
    row.scrollIntoView({ block: "center" });
  });
})();

(() => {
  const gantt = document.getElementById("gantt");
  if (!gantt) return;
  const view = gantt.querySelector(".gantt-view");
  const ruler = gantt.querySelector(".ruler");
  const total = Number(gantt.dataset.totalNs);
  let zoom = 1;

  const written = (ns, step) => {
    const [factor, unit] = step >= 1e9 ? [1e9, "s"] : step >= 1e5 ? [1e6, "ms"] : step >= 100 ? [1e3, "µs"] : [1, "ns"];
    return `${(ns / factor).toFixed(Math.max(0, -Math.floor(Math.log10(step / factor) + 1e-9)))} ${unit}`;
  };
  const rule = () => {
    const wish = (total / view.clientWidth) * 120;
    const power = 10 ** Math.floor(Math.log10(wish));
    const step = power * [1, 2, 5, 10].find((nice) => nice * power >= wish);
    const from = Math.max(0, Math.floor((gantt.scrollLeft / view.clientWidth) * total / step) - 1);
    const to = Math.min(total / step, from + gantt.clientWidth / 60 + 4);
    ruler.replaceChildren();
    for (let index = from; index <= to; index += 1) {
      const tick = document.createElement("span");
      tick.className = "tick";
      tick.style.left = `${(index * step / total) * 100}%`;
      tick.textContent = written(index * step, step);
      ruler.append(tick);
    }
  };
  const scale = (factor, at) => {
    const point = at ?? gantt.clientWidth / 2;
    const part = (gantt.scrollLeft + point) / view.clientWidth;
    zoom = Math.min(Math.max(zoom * factor, 1), 1024);
    view.style.width = `${zoom * 100}%`;
    gantt.scrollLeft = part * view.clientWidth - point;
    rule();
  };
  const act = { in: () => scale(2), out: () => scale(0.5), fit: () => scale(1 / zoom) };
  document.querySelectorAll("[data-zoom]").forEach((button) => {
    button.addEventListener("click", () => act[button.dataset.zoom]());
  });
  gantt.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    scale(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - gantt.getBoundingClientRect().left);
  }, { passive: false });
  gantt.addEventListener("keydown", (event) => {
    const name = { "+": "in", "=": "in", "-": "out", "0": "fit" }[event.key];
    if (name && !event.ctrlKey && !event.metaKey) { event.preventDefault(); act[name](); }
  });
  gantt.addEventListener("scroll", rule, { passive: true });
  addEventListener("resize", rule);
  rule();
})();

document.getElementById("save-record").addEventListener("click", () => {
  const text = document.getElementById("record").textContent;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "stratoscope-record.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
