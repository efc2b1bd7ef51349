/* The report's behaviour: draw the figures in the reader's theme, answer toggles and legends, start the tables. */
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const read = (element) => JSON.parse(element.textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---- figures ----

  /** Layout keys that follow the page's colours, for the axes that a layout has. */
  function theme(layout) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const change = {
      "font.color": colour("--ink"), "font.family": style.getPropertyValue("--sans"),
      "hoverlabel.bgcolor": colour("--paper"), "hoverlabel.bordercolor": colour("--line"), "hoverlabel.font.color": colour("--ink"),
      "modebar.color": colour("--line"), "modebar.activecolor": colour("--muted"), "modebar.bgcolor": "rgba(0,0,0,0)",
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
      Object.assign(change, {
        [`${axis}.gridcolor`]: colour("--grid"), [`${axis}.linecolor`]: colour("--muted"), [`${axis}.tickcolor`]: colour("--muted"),
        [`${axis}.tickfont.color`]: colour("--muted"), [`${axis}.title.font.color`]: colour("--ink"),
      });
    (layout.annotations ?? []).forEach((note, i) => {
      if (note.name === "quiet") change[`annotations[${i}].font.color`] = colour("--muted");
      if (note.name === "backed") change[`annotations[${i}].bgcolor`] = colour("--paper");
    });
    return change;
  }

  const config = { displaylogo: false, responsive: true, displayModeBar: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

  async function draw(source) {
    const plot = document.getElementById(source.dataset.plot);
    const { data, layout } = read(source);
    if (plot.clientWidth < 380) layout.annotations = layout.annotations?.filter((note) => note.name !== "backed");
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
    await Plotly.newPlot(plot, data, layout, config);
    await Plotly.relayout(plot, theme(layout));
    select(plot.closest("figure"));
  }

  /** Show the traces of a figure that its toggles let through and its legend has not hidden. */
  function select(figure) {
    const wanted = all(".toggle", figure).map((group) => [group.dataset.name, group.querySelector('[aria-pressed="true"]').dataset.value]);
    const hidden = all('.legend [aria-pressed="false"]', figure).map((key) => [key.dataset.name, key.dataset.value]);
    const shows = (meta = {}) =>
      wanted.every(([name, value]) => value === "*" || !(name in meta) || String(meta[name]) === value) &&
      !hidden.some(([name, value]) => String(meta[name]) === value);
    for (const plot of all(".plot", figure))
      if (plot.data) Plotly.restyle(plot, { visible: plot.data.map((trace) => shows(trace.meta)) });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".controls button");
    if (!button) return;
    const group = button.closest(".toggle");
    if (group) all("button", group).forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    else button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    select(button.closest("figure"));
  });

  dark.addEventListener("change", () => {
    for (const plot of all(".plot")) if (plot.layout) Plotly.relayout(plot, theme(plot.layout));
  });

  // ---- tables ----

  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const number = (value, digits) => value === null || value === undefined ? "–" : digits === null ? String(Number(value.toPrecision(6))) : value.toFixed(digits);

  /** One cell as a reader sees it ("display", "filter"), or as a column sorts ("sort", "type"). */
  const cells = {
    text: () => (value, use) => (use === "sort" || use === "type" ? value : escape(value ?? "–")),
    number: ({ digits }) => (value, use) => (use === "sort" || use === "type" ? value ?? Infinity : number(value, digits)),
    measure: ({ digits }) => ([value, error], use) =>
      use === "sort" || use === "type" ? value ?? Infinity
      : number(value, digits) + (error === null || use === "filter" ? "" : ` <span class="se">± ${number(error, digits)}</span>`),
    ae: (_, marks) => (value, use) => (use === "display" ? `<span class="ae">${marks[value][0]}${escape(marks[value][1])}</span>` : use === "filter" ? `${value} ${marks[value][1]}` : value),
  };

  async function tables() {
    const sources = all("[data-table]");
    if (!sources.length) return;
    const bytes = Uint8Array.from(atob(document.getElementById("datatables-library").textContent), (c) => c.charCodeAt(0));
    const url = URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
    const { default: DataTable } = await import(url);
    URL.revokeObjectURL(url);
    for (const source of sources) {
      const { columns, rows, page, marks } = read(source);
      new DataTable(`#${source.dataset.table}`, {
        data: rows,
        columns: columns.map((column) => ({
          title: escape(column.title), className: column.kind === "number" || column.kind === "measure" ? "n" : "",
          type: column.kind === "number" || column.kind === "measure" ? "num" : "string", render: cells[column.kind](column, marks),
        })),
        order: [], pageLength: page, lengthMenu: [10, 25, 50, 100], scrollX: false, autoWidth: false, deferRender: true,
        paging: rows.length > page, info: rows.length > page,
        layout: { topStart: "search", topEnd: rows.length > page ? "pageLength" : null, bottomStart: "info", bottomEnd: "paging" },
        language: { search: "Search", lengthMenu: "_MENU_ rows a page" },
      });
    }
  }

  // ---- pictures, contents ----

  const viewer = document.querySelector(".viewer");
  document.addEventListener("click", (event) => {
    if (event.target.closest(".viewer")) viewer.close();
    else if (event.target.matches(".gallery img, .strips img")) {
      Object.assign(viewer.firstElementChild, { src: event.target.src, alt: event.target.alt });
      viewer.showModal();
    }
  });

  function contents() {
    const links = new Map(all(".contents a").map((link) => [link.getAttribute("href").slice(1), link]));
    const mark = () => {
      const seen = all("main > section").filter((part) => part.getBoundingClientRect().top < innerHeight * 0.3).pop();
      for (const [name, link] of links) link.classList.toggle("here", name === (seen?.id ?? [...links.keys()][0]));
    };
    addEventListener("scroll", mark, { passive: true });
    mark();
    const details = document.querySelector(".contents details");
    const narrow = matchMedia("(max-width: 1080px)");
    const fold = () => { details.open = !narrow.matches; };
    narrow.addEventListener("change", fold);
    details.addEventListener("click", (event) => { if (event.target.closest("a") && narrow.matches) details.open = false; });
    fold();
  }

  async function start() {
    contents();
    await tables();
    for (const source of all("[data-plot]")) {
      await draw(source);
      await new Promise((next) => setTimeout(next));
    }
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
