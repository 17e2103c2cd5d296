"use strict";
// Draws a snapshot. Texts of models are untrusted: they become text nodes, never markup, addresses or code.
const reflux = (() => {
  const drawers = new Map();
  // What the reader has chosen. It outlives a newer snapshot of the same run.
  const state = { rows: null };
  let page = null;

  /** An element: `props` are attributes, `on` event handlers, `style` properties; children are nodes or texts. */
  function el(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
      else if (name === "style") Object.assign(node.style, value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    append(node, children);
    return node;
  }

  function append(node, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }

  /** A number for people: 1,234 or 0.0123; `none` where there is none. */
  function num(value, digits = 4) {
    if (value === null || value === undefined || Number.isNaN(value)) return "none";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
    if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(2);
    return String(Number(value.toPrecision(digits)));
  }

  function bytes(n) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let at = 0;
    while (n >= 1000 && at < units.length - 1) [n, at] = [n / 1000, at + 1];
    return `${at ? n.toFixed(1) : n} ${units[at]}`;
  }

  function seconds(s) {
    if (s === null || s === undefined) return "unknown";
    if (s < 60) return `${s.toFixed(s < 10 ? 2 : 1)} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
    return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  }

  const counted = (n, noun) => `${num(n)} ${noun}${n === 1 ? "" : "s"}`;
  /** A word as a shell takes it. */
  const quoted = (word) => (/^[\w.,/:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  const command = (...words) => el("code", { class: "command" }, words.join(" "));

  /** A table. Columns are `{ title, value, number }`; `value` gives a node, a text or a number. */
  function table(caption, columns, rows) {
    const cell = (column, row) => {
      const value = column.value(row);
      const shown = typeof value === "number" ? num(value) : value;
      return el("td", { class: column.number ? "number" : null }, shown);
    };
    const head = columns.map((c) => el("th", { scope: "col", class: c.number ? "number" : null }, c.title));
    const body = rows.map((row) => el("tr", {}, columns.map((column) => cell(column, row))));
    return scroll(caption, el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
  }

  /** A box that scrolls sideways and can be reached by keyboard. */
  function scroll(label, ...children) {
    const tall = children.some((child) => child.querySelectorAll("tbody tr").length > 16);
    return el("div", { class: tall ? "scroll tall" : "scroll", role: "region", "aria-label": label, tabindex: 0 }, children);
  }

  /** A labelled list of choices. `options` are `[value, text]`. */
  function choose(label, options, chosen, changed) {
    const select = el("select", { on: { change: () => changed(select.value) } },
      options.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text)));
    return el("label", {}, el("span", {}, label), select);
  }

  /** Our own words, in which backticks mark code. */
  const words = (text) => text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));
  const closed = (title, ...children) => el("details", {}, el("summary", {}, title), children);
  const note = (...children) => el("p", { class: "note" }, children);

  /** A link to sample rows of a step in an iteration, or to those that it left out. */
  function rowsLink(step, iteration, text, errors = false) {
    const href = `#rows/${encodeURIComponent(step)}/${iteration}${errors ? "/left-out" : ""}`;
    return el("a", { href }, text);
  }

  /** Registers the script of a section: `draw(data, page, redraw)` returns nodes. */
  function section(name, draw) {
    drawers.set(name, draw);
  }

  function drawSection(name) {
    const body = document.querySelector(`#${name} > .body`);
    if (!body) return;
    const data = page.sections[name];
    const nodes = [];
    if (data === undefined) nodes.push(note("This report has no such section."));
    else if (data.absent) nodes.push(note(data.absent));
    else append({ append: (node) => nodes.push(node) }, [drawers.get(name)(data, page, () => drawSection(name))]);
    body.replaceChildren(...nodes);
  }

  function facts() {
    const line = [
      page.state, `seed ${page.seed}`, page.iterations ? counted(page.iterations, "iteration") : "no loop",
      `reflux ${page.reflux}`, page.place,
    ];
    document.getElementById("facts").replaceChildren(line.join(" · "));
  }

  /** Draws a snapshot; a newer one replaces what is there. */
  function draw(snapshot) {
    page = snapshot;
    page.step = new Map(page.steps.map((step) => [step.name, step]));
    page.policy = (iteration) => page.policies[iteration - 1] ?? null;
    page.iterationName = (i) => (i === 0 ? "before the loop" : `iteration ${i}`);
    facts();
    for (const name of drawers.keys()) drawSection(name);
    follow();
  }

  /** Follows an address such as #rows/pairs/1. */
  function follow() {
    const words = location.hash.slice(1).split("/").map((word) => {
      try { return decodeURIComponent(word); } catch { return word; }
    });
    if (words[0] !== "rows" || words.length < 3) return;
    state.rows = { step: words[1], iteration: Number(words[2]), errors: words[3] === "left-out" };
    drawSection("rows");
    const target = document.getElementById("rows");
    target.scrollIntoView();
    target.querySelector("h2").setAttribute("tabindex", "-1");
    target.querySelector("h2").focus({ preventScroll: true });
  }

  function start() {
    draw(JSON.parse(document.getElementById("snapshot").textContent));
    addEventListener("hashchange", follow);
  }

  return {
    section, start, draw, state, el, append, num, bytes, seconds, counted, quoted, command, table, scroll, choose,
    closed, note, rowsLink, words,
  };
})();
