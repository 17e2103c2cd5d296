reflux.section("flow", (data, page, redraw) => {
  const { el, num, counted, seconds, choose, scroll, note } = reflux;
  const width = 118, height = 46, gapX = 20, gapY = 16;
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    reflux.append(node, children);
    return node;
  };
  const iterations = [...new Set(page.steps.flatMap((s) => s.counts.map((c) => c.iteration)))].filter((i) => i > 0).sort((a, b) => a - b);
  const chosen = reflux.state.flow ?? "all";
  const counts = (s) => s.counts.filter((c) => chosen === "all" || c.iteration === 0 || c.iteration === Number(chosen));

  // The layer of a step is the longest way to it; the order within a layer follows its inputs.
  const first = data.loop && page.step.has(data.loop.policy) ? data.loop.policy : null;
  const maker = (s) => (s.name === first ? null : s.model === "policy" ? first : page.step.has(s.model) ? s.model : null);
  const above = (s) => [...s.inputs.map((i) => i.step), maker(s)].filter((name) => name !== null);
  const layer = new Map();
  for (const s of page.steps) layer.set(s.name, Math.max(-1, ...above(s).map((name) => layer.get(name) ?? -1)) + 1);
  // The first steps that use a model have an edge from the training that made it; those after them follow.
  const under = new Map();
  for (const s of page.steps) under.set(s.name, new Set(s.inputs.flatMap((i) => [...(under.get(i.step) ?? []), ...(maker(page.step.get(i.step)) ? [maker(page.step.get(i.step))] : [])])));
  const readers = (name) => page.steps.filter((s) => s.inputs.some((i) => i.step === name)).map((s) => layer.get(s.name));
  for (const s of [...page.steps].reverse()) {
    // A source stands just before its first reader, which keeps edges short.
    const next = Math.min(...readers(s.name).map((l) => l - 1));
    if (above(s).length === 0 && Number.isFinite(next)) layer.set(s.name, Math.max(0, next));
  }
  const layers = [];
  for (const s of page.steps) (layers[layer.get(s.name)] ??= []).push(s);
  const place = new Map();
  const rank = { loop: 0, ahead: 0, once: 1, observer: 2 };
  layers.forEach((steps, l) => {
    const wish = (s) => d3.mean(above(s).map((name) => place.get(name)?.y).filter((y) => y !== undefined)) ?? 0;
    steps.sort((a, b) => rank[a.placement] - rank[b.placement] || wish(a) - wish(b) || d3.ascending(a.name, b.name));
    steps.forEach((s, row) => place.set(s.name, { x: l * (width + gapX), y: row * (height + gapY) }));
  });
  const all = [...place.values()];
  const size = [Math.max(...all.map((p) => p.x)) + width + 8, Math.max(...all.map((p) => p.y)) + height + 34];

  const edge = (from, to, kind) => {
    const [a, b] = [place.get(from), place.get(to)];
    if (!a || !b) return null;
    const [x1, y1, x2, y2] = [a.x + width, a.y + height / 2, b.x, b.y + height / 2];
    const bend = Math.max(16, (x2 - x1) / 2);
    return svg("path", { class: `edge ${kind}`, d: `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2 - 3},${y2}`, "marker-end": "url(#arrow)" });
  };
  const edges = page.steps.flatMap((s) => s.inputs.map((i) => edge(i.step, s.name, i.whole ? "whole" : "")));
  for (const s of page.steps) if (maker(s) && !under.get(s.name).has(maker(s)) && !s.inputs.some((i) => i.step === maker(s))) edges.push(edge(maker(s), s.name, "model"));
  if (data.loop) {
    // The model of an iteration is the next one's policy.
    const [a, b] = [place.get(data.loop.next), page.steps.filter((s) => s.placement === "loop" && s.model === "policy").map((s) => place.get(s.name)).sort((p, q) => p.x - q.x)[0]];
    if (a && b) {
      const floor = size[1] - 12;
      edges.push(svg("path", { class: "edge back", d: `M${a.x + width / 2},${a.y + height}V${floor}H${b.x + width / 2}V${b.y + height + 4}`, "marker-end": "url(#arrow)" }));
      edges.push(svg("text", { class: "small", x: (a.x + b.x + width) / 2, y: floor - 5, "text-anchor": "middle" }, "policy of the next iteration"));
    }
  }
  const node = (s) => {
    const of = counts(s), p = place.get(s.name);
    const rows = d3.sum(of, (c) => c.rows), left = d3.sum(of, (c) => c.left_out), timed = of.filter((c) => c.seconds !== undefined);
    const time = timed.length ? seconds(d3.sum(timed, (c) => c.seconds)) : "time unknown";
    const noun = s.schema === "models" ? "model" : "row";
    const words = counted(rows, noun);
    const op = s.op.length + s.name.length > 14 ? "" : s.op;
    const latest = of.length ? of[of.length - 1].iteration : 0;
    const link = svg("a", { href: `#rows/${encodeURIComponent(s.name)}/${latest}`, "aria-label": [s.name, op, words, time].filter(Boolean).join(" ") },
      svg("rect", { class: `node ${s.placement}`, width, height, rx: 5 }),
      svg("text", { x: 8, y: 17, class: "name" }, s.name.length > 14 ? `${s.name.slice(0, 13)}…` : s.name), " ",
      svg("text", { x: width - 8, y: 17, class: "small", "text-anchor": "end" }, op), " ",
      svg("text", { x: 8, y: 35, class: "small" }, words), " ",
      svg("text", { x: width - 8, y: 35, class: "small", "text-anchor": "end" }, time));
    return svg("g", { transform: `translate(${p.x},${p.y})` }, svg("title", {}, `${s.name}: ${s.settings}${left ? `; ${counted(left, "row")} left out` : ""}`), link);
  };
  const drawing = svg("svg", { viewBox: `-2 -2 ${size[0]} ${size[1]}`, width: size[0], height: size[1], role: "group", "aria-label": "Dataflow of the run" },
    svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { class: "tip", d: "M0,0L8,4L0,8z" }))),
    edges, page.steps.map(node));
  return [
    note("Rows and compute time of each step, summed over threads. Solid edges stream, dashed edges are read whole after their step has ended, dotted edges are models; a box links to sample rows."),
    iterations.length > 1 ? el("p", { class: "controls" }, choose("Show", [["all", "all iterations"], ...iterations.map((i) => [i, `iteration ${i}`])], chosen, (value) => { reflux.state.flow = value; redraw(); })) : null,
    scroll("Dataflow", drawing),
  ];
});
