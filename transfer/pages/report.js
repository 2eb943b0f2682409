"use strict";
// Zooming, saving, sorting, filtering. The figures and tables are complete without this script.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const PAPER = { ink: "#1c1e21", soft: "#5a6068", grid: "#e6e8eb", line: "#9aa0a6", panel: "#ffffff" };

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

  // Plotly is packed in the page and unpacked once, when a reader first asks to zoom.
  let unpacked = null;
  function plotly() {
    unpacked ??= (async () => {
      const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
      const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      const script = document.createElement("script");
      script.textContent = await new Response(text).text();
      document.head.append(script);
      return window.Plotly;
    })();
    return unpacked;
  }

  async function zoom(place, button) {
    const picture = place.querySelector("svg");
    const open = place.querySelector(".zoomed");
    if (open) {
      Plotly.purge(open);
      open.remove();
      picture.style.display = "";
    } else {
      const ground = document.createElement("div");
      ground.className = "zoomed";
      ground.setAttribute("role", "img");
      ground.setAttribute("aria-label", picture.getAttribute("aria-label"));
      const height = picture.getBoundingClientRect().height;
      const library = await plotly();
      picture.style.display = "none";
      place.append(ground);
      const { data, layout } = figures[place.dataset.figure];
      const options = { responsive: true, displaylogo: false, displayModeBar: false };
      await library.newPlot(ground, data, { ...layout, height }, options);
      await library.relayout(ground, themed(colors()));
    }
    button.setAttribute("aria-pressed", String(!open));
  }

  const zoomed = () => all(".zoomed");
  const paint = (c) => zoomed().forEach((ground) => Plotly.relayout(ground, themed(c)));
  dark.addEventListener("change", () => paint(colors()));
  addEventListener("beforeprint", () => { paint(PAPER); zoomed().forEach((ground) => Plotly.Plots.resize(ground)); });
  addEventListener("afterprint", () => { paint(colors()); zoomed().forEach((ground) => Plotly.Plots.resize(ground)); });

  // Saving: figures with the colours of paper, tables as they are sorted and filtered.
  function save(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
  const fileName = (text) => text.trim().toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);

  function paperSvg(picture) {
    const copy = picture.cloneNode(true);
    const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.removeAttribute("style");
    const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
    style.textContent = `.wf-ground { fill: ${PAPER.panel}; } .wf-ink { fill: ${PAPER.ink}; } ` +
      `.wf-soft { fill: ${PAPER.soft}; } .wf-grid { stroke: ${PAPER.grid}; } .wf-axis { stroke: ${PAPER.soft}; }`;
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of [["width", width], ["height", height], ["fill", PAPER.panel]]) ground.setAttribute(key, value);
    copy.prepend(style, ground);
    return { text: new XMLSerializer().serializeToString(copy), width, height };
  }

  async function pngOf({ text, width, height }) {
    const image = new Image();
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  function tool(row, text, about, action) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-label", `${text}: ${about}`);
    button.addEventListener("click", () => action(button));
    row.append(button);
    return button;
  }

  all("main figure, figure.compute").forEach((figure) => {
    if (!figure.querySelector("svg")) return;
    const caption = figure.querySelector("figcaption");
    const about = caption.firstChild.textContent.trim();
    const picture = () => all("svg", figure).find((one) => one.closest("div").offsetParent || one.parentElement.dataset.figure);
    const row = document.createElement("p");
    row.className = "tools";
    const place = figure.querySelector(".chart");
    if (place) tool(row, "Zoom", about, (button) => zoom(place, button)).setAttribute("aria-pressed", "false");
    tool(row, "SVG", about, () => {
      save(fileName(about) + ".svg", new Blob([paperSvg(picture()).text], { type: "image/svg+xml" }));
    });
    tool(row, "PNG", about, async () => save(fileName(about) + ".png", await pngOf(paperSvg(picture()))));
    figure.append(row);
  });

  // As in the tables that the commands write: `'` before what a spreadsheet would take for a formula.
  function csvCell(text) {
    const guarded = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text;
    return /[",\n]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
  }
  function csvOf(table) {
    const rows = [table.tHead.rows[0], ...table.tBodies[0].rows].filter((row) => !row.classList.contains("out"));
    return rows.map((row) => [...row.cells].map((cell) => csvCell(cell.textContent.trim())).join(",")).join("\n") + "\n";
  }
  all("main table").forEach((table) => {
    const about = table.caption.textContent.trim();
    const row = document.createElement("p");
    row.className = "tools";
    tool(row, "CSV", about, () => save(fileName(about) + ".csv", new Blob([csvOf(table)], { type: "text/csv" })));
    table.closest(".scroll").after(row);
  });

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
    });
  }
  switches("evaluation", ".charts", "evaluation");
  switches("selection", ".selection", "selection");

  document.documentElement.dataset.ready = "yes";
})();
