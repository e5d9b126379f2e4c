"use strict";
(() => {
  const { config, charts } = JSON.parse(document.getElementById("data").textContent);
  const main = document.querySelector("main");
  const views = new Map();  // element -> Vega's view, or null while it is made

  // Nothing is loaded: whatever a chart might name is refused.
  const refused = () => Promise.reject(new Error("the page loads nothing"));
  const loader = { load: refused, sanitize: refused, http: refused, file: refused };

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);

  function tooltip(handler, event, item, value) {
    tip.hidden = value === null || value === undefined || typeof value !== "object";
    if (tip.hidden) return;
    tip.replaceChildren(...Object.entries(value).map(([name, text]) => {
      const line = document.createElement("p"), label = document.createElement("b");
      label.textContent = name;
      line.append(label, String(text));
      return line;
    }));
    const left = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8);
    const top = event.clientY + 14 + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 14;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  }

  const room = (place) => Math.min(main.clientWidth, charts[place.dataset.chart].usermeta.widest);

  async function draw(place) {
    if (views.has(place)) return;
    views.set(place, null);
    const spec = { ...charts[place.dataset.chart], width: room(place) };
    const { view } = await vegaEmbed(place, spec, {
      mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false, config, tooltip, loader,
    });
    views.set(place, view);
    const select = [...document.querySelectorAll("select[data-charts]")].find((one) => names(one).includes(place.dataset.chart));
    if (select && select.value !== "") await view.signal("cell", select.value).runAsync();
  }

  async function drawAll() {
    const places = [...document.querySelectorAll("[data-chart]")];
    const shown = places.filter((place) => !place.closest("[hidden]"));
    for (const place of [...shown, ...places]) {
      await draw(place);
      await new Promise((next) => setTimeout(next));  // the reader comes first
    }
    document.documentElement.dataset.drawn = "yes";
  }

  let before = 0;
  new ResizeObserver(() => {
    const width = main.clientWidth;
    if (width === before || width === 0) return;
    before = width;
    for (const [place, view] of views) if (view) view.width(room(place)).runAsync();
  }).observe(main);

  const names = (select) => select.dataset.charts.trim().split(" ");
  function tell(select) {  // the charts that a choice names, which cell it is
    for (const [place, view] of views) {
      if (view && names(select).includes(place.dataset.chart)) view.signal("cell", select.value).runAsync();
    }
  }

  const among = (group, kind) => document.querySelectorAll(`[data-group="${group}"][data-${kind}]`);
  const choices = {
    group: (select) => {
      for (const group of document.querySelectorAll(".group")) group.hidden = group.id !== select.value;
    },
    axis: (select) => {
      for (const part of among(select.dataset.group, "axis")) part.hidden = part.dataset.axis !== select.value;
    },
    cell: (select) => {
      for (const part of among(select.dataset.group, "cell")) part.hidden = part.dataset.cell !== select.value;
      tell(select);
    },
    out: tell,
    pairs: (select) => {
      for (const row of document.querySelectorAll(`#${select.dataset.group}-pairs tbody tr`)) {
        row.hidden = select.value !== "" && !row.dataset.cells.split(" ").includes(select.value);
      }
    },
  };
  for (const select of document.querySelectorAll("select[data-choose]")) {
    const choose = () => choices[select.dataset.choose](select);
    select.addEventListener("change", choose);
    choose();  // a browser that comes back keeps the choice
  }

  function sort(table, button) {
    const heading = button.parentElement, column = heading.cellIndex;
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    const numeric = heading.classList.contains("n");
    const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === "" || b === "") return (a === "") - (b === "");  // what has no number comes last either way
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      return rising ? order : -order;
    });
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, button));
    }
  }

  // On a phone the columns that a table is about stand beside its names; elsewhere they keep their place.
  const phone = matchMedia("(max-width: 40rem)");
  const lines = [...document.querySelectorAll("table")].flatMap((table) => {
    const leads = [...table.tHead.rows[0].cells].map((heading, column) => column === 0 || "lead" in heading.dataset);
    return leads.filter(Boolean).length === 1 ? [] : [...table.rows].map((row) => {
      const wide = [...row.cells];
      return { row, wide, narrow: [...wide.filter((_, i) => leads[i]), ...wide.filter((_, i) => !leads[i])] };
    });
  });
  function arrange() {
    for (const { row, wide, narrow } of lines) row.append(...(phone.matches ? narrow : wide));
  }
  phone.addEventListener("change", arrange);
  arrange();

  // A table wider than its place says so.
  const wider = new ResizeObserver((changes) => {
    for (const { target } of changes) target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1;
  });
  for (const place of document.querySelectorAll(".scroll")) wider.observe(place);

  drawAll();
})();
