"use strict";
// Charts, sorting, filtering. The tables are complete without this script.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const PAPER = { ink: "#1c1e21", grid: "#e6e8eb", line: "#9aa0a6", panel: "#ffffff" };

  function colors() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue("--" + name).trim();
    return { ink: read("ink"), grid: read("grid"), line: read("soft"), panel: read("panel") };
  }

  function themed(c) {
    const axis = (name) => ({
      [name + ".gridcolor"]: c.grid, [name + ".linecolor"]: c.line, [name + ".tickcolor"]: c.line,
      [name + ".showline"]: true, [name + ".ticks"]: "outside", [name + ".showgrid"]: true,
    });
    return {
      "font.color": c.ink, ...axis("xaxis"), ...axis("yaxis"),
      "hoverlabel.bgcolor": c.panel, "hoverlabel.bordercolor": c.line, "hoverlabel.font.color": c.ink,
    };
  }

  function draw(place) {
    if (place.dataset.drawn || place.closest("[hidden]")) return;
    place.dataset.drawn = "yes";
    const { data, layout } = figures[place.dataset.figure];
    layout.height = place.clientHeight;
    Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    Plotly.relayout(place, themed(colors()));
  }

  const drawn = () => all(".chart[data-drawn]");
  const paint = (c) => drawn().forEach((place) => Plotly.relayout(place, themed(c)));
  const drawAll = () => all(".chart").forEach(draw);
  dark.addEventListener("change", () => paint(colors()));
  addEventListener("beforeprint", () => { paint(PAPER); drawn().forEach((place) => Plotly.Plots.resize(place)); });
  addEventListener("afterprint", () => { paint(colors()); drawn().forEach((place) => Plotly.Plots.resize(place)); });

  // Sorting: empty cells last, in both directions; equal ones keep their order.
  const value = (row, column) => {
    const cell = row.cells[column];
    return (cell.dataset.value ?? cell.textContent).trim();
  };
  const number = (text) => (text !== "" && !Number.isNaN(Number(text)) ? Number(text) : null);
  function compare(a, b, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const x = number(a), y = number(b);
    return sign * (x !== null && y !== null ? x - y : a.localeCompare(b, undefined, { numeric: true }));
  }
  all("table.sortable").forEach((table) => {
    const heads = all("thead th", table);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column), up ? 1 : -1));
      body.append(...rows);
    }));
  });

  const filters = document.getElementById("filters");
  function filter() {
    if (!filters) return; // pages without a table of verdicts
    const wanted = all("select", filters).filter((s) => s.value !== "").map((s) => [s.dataset.key, s.value]);
    const rows = all("#verdict-table tbody tr");
    rows.forEach((row) => row.classList.toggle("out", !wanted.every(([key, text]) => row.dataset[key] === text)));
    const shown = rows.filter((row) => !row.classList.contains("out")).length;
    document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
  }
  filters?.addEventListener("change", filter);
  filters?.addEventListener("submit", (event) => event.preventDefault());
  filters?.addEventListener("reset", (event) => {
    event.preventDefault();
    all("select", filters).forEach((select) => { select.value = ""; });
    filter();
  });
  filter();

  function switches(id, selector, key) {
    document.getElementById(id)?.addEventListener("change", (event) => {
      all(selector).forEach((part) => { part.hidden = part.dataset[key] !== event.target.value; });
      drawAll();
    });
  }
  switches("evaluation", ".charts", "evaluation");
  switches("selection", ".selection", "selection");

  drawAll();
  document.documentElement.dataset.ready = "yes";
})();
