// Charts that several sections use, on Observable Plot. A chart is a figure with a caption; what it shows is also in
// words or in a table beside it.
reflux.charts = (() => {
  const { el, num } = reflux;
  const good = "var(--good)", warn = "var(--warn)", bad = "var(--bad)";

  /** Colours of iterations: distinct for few, in sequence for many. */
  function colours(iterations) {
    const few = ["#4269d0", "#d9730d", "#2f9e6e", "#c13584", "#8a63d2", "#9c6b4e", "#1c93b3", "#b59f00"];
    const at = new Map(iterations.map((iteration, i) => [iteration, i]));
    if (iterations.length <= few.length) return (iteration) => few[at.get(iteration)] ?? "currentColor";
    const sequence = d3.scaleSequential([0, iterations.length - 1], (t) => d3.interpolatePlasma(0.05 + 0.75 * t));
    return (iteration) => sequence(at.get(iteration) ?? 0);
  }

  /** A figure with a chart. `label` says in words what it shows. */
  function figure(title, label, spec, more = []) {
    const svg = Plot.plot({
      width: 400, height: 230, marginLeft: 48, marginBottom: 34,
      ...spec,
      style: { background: "transparent", color: "currentColor", fontFamily: "inherit", fontSize: "11px", overflow: "visible" },
    });
    // The label of the drawing says what it shows; those of its marks ("line") say nothing more.
    for (const mark of svg.querySelectorAll("[aria-label]")) mark.removeAttribute("aria-label");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${title}: ${label}`);
    return el("figure", { class: "chart" }, el("figcaption", {}, title), svg, more);
  }

  /** A legend of iterations or other groups. */
  function legend(groups, colour, name = (group) => group) {
    const shown = groups.length > 12 ? [groups[0], groups[Math.floor(groups.length / 2)], groups[groups.length - 1]] : groups;
    const key = (group) => {
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = colour(group);
      return el("li", {}, swatch, name(group));
    };
    return el("ul", { class: "legend" }, shown.map(key), groups.length > 12 ? el("li", {}, `${groups.length} in all, in this order of colours`) : null);
  }

  /** Values by iteration with intervals: points are `{ iteration, value, low, high, group }`. */
  function byIteration(title, points, options = {}) {
    const groups = [...new Set(points.map((p) => p.group))];
    const colour = colours(groups);
    const stroke = (p) => colour(p.group);
    const whole = [...new Set(points.map((p) => p.iteration))].sort((a, b) => a - b);
    const last = points.filter((p) => p.iteration === whole[whole.length - 1] && p.value !== null);
    const label = last.map((p) => `${p.group} ${num(p.value)} in iteration ${p.iteration}`).join(", ") || "no values";
    return figure(title, label, {
      x: { label: "iteration", ticks: whole.length <= 12 ? whole : 10, tickFormat: "d", domain: pad(whole) },
      y: { label: null, grid: true, nice: true, zero: options.zero ?? false },
      marks: [
        ...(options.marks ?? []),
        Plot.ruleX(points.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high)), { x: "iteration", y1: "low", y2: "high", stroke, strokeOpacity: 0.6 }),
        Plot.lineY(points.filter((p) => p.value !== null), { x: "iteration", y: "value", z: "group", stroke, strokeWidth: 1.5 }),
        Plot.dot(points.filter((p) => p.value !== null), {
          x: "iteration", y: "value", fill: options.fill ?? stroke, r: whole.length > 20 ? 2 : 3.5,
          title: (p) => `${p.group}, iteration ${p.iteration}: ${num(p.value)}` + (Number.isFinite(p.low) ? ` [${num(p.low)}, ${num(p.high)}]` : ""),
        }),
      ],
    }, groups.length > 1 ? legend(groups, colour) : []);
  }

  /** A domain that leaves room beside a single value. */
  const pad = (values) => [Math.min(...values) - 0.25, Math.max(...values) + 0.25];

  return { colours, figure, legend, byIteration, good, warn, bad };
})();
