reflux.section("scores", (data) => {
  const { el, num, note, table, closed } = reflux;
  const { figure, byIteration } = reflux.charts;

  function histogram(d) {
    const shown = d.iterations.filter((i) => i.n > 0);
    const bars = shown.flatMap((i) => i.bins.map(([x, n]) => ({ iteration: i.iteration, x1: x, x2: x + i.width, n, share: n / i.n })));
    const means = shown.map((i) => ({ iteration: i.iteration, mean: i.mean }));
    const label = shown.map((i) => `iteration ${i.iteration}: mean ${num(i.mean)} of ${num(i.n)}`).join("; ");
    const title = `${d.title}: ${d.step}`;
    const tip = (b) => `iteration ${b.iteration}, ${num(b.x1)} to ${num(b.x2)}: ${num(b.n)} (${(100 * b.share).toFixed(1)}%)`;
    if (shown.length <= 6) {
      return figure(title, label, {
        height: 70 + 62 * shown.length, marginRight: 46,
        fy: { label: null, tickFormat: (i) => (i ? `iter. ${i}` : "once") },
        x: { label: null, nice: true }, y: { label: null, ticks: 2, percent: true, tickFormat: (v) => `${v}%` },
        marks: [
          Plot.rectY(bars, { x1: "x1", x2: "x2", y: "share", fy: "iteration", fill: "var(--accent)", fillOpacity: 0.75, title: tip, inset: 0.4 }),
          Plot.ruleX(means, { x: "mean", fy: "iteration", stroke: "currentColor", strokeDasharray: "3,2" }),
          Plot.ruleY([0]),
        ],
      });
    }
    return figure(title, label, {
      height: Math.min(380, 90 + 6 * shown.length),
      x: { label: null, nice: true }, y: { label: "iteration", reverse: true, tickFormat: "d" },
      marks: [
        Plot.rect(bars, { x1: "x1", x2: "x2", y1: (b) => b.iteration - 0.5, y2: (b) => b.iteration + 0.5, fill: "var(--accent)", fillOpacity: (b) => 0.12 + 0.88 * Math.sqrt(b.share), title: tip }),
        Plot.line(means, { x: "mean", y: "iteration", stroke: "var(--bad)", strokeWidth: 1.5 }),
      ],
    });
  }

  const of = (names) => data.distributions.filter((d) => names.includes(d.name));
  const points = (list, group) => list.flatMap((d) => d.iterations.filter((i) => i.n > 0).map((i) => ({ iteration: i.iteration, value: i.mean, group: group(d) })));
  const many = data.distributions.some((d) => d.iterations.length > 1);
  const means = [];
  if (many) {
    const scores = points(of(["score"]), (d) => d.step);
    if (scores.length) means.push(byIteration("Mean score by iteration", scores));
    if (data.health.length > 1) means.push(byIteration("Entropy of the scores (bits)", data.health.map(([iteration, value]) => ({ iteration, value, group: "entropy" }))));
    const lengths = points(of(["chosen_length", "rejected_length"]), (d) => `${d.step}: ${d.name.replace("_length", "")}`);
    if (lengths.length) means.push(byIteration("Chosen against rejected: mean length (tokens)", lengths));
    const margins = points(of(["margin"]), (d) => d.step);
    if (margins.length) means.push(byIteration("Mean margin", margins));
  }
  const drawn = data.distributions.filter((d) => !["chosen_length", "rejected_length"].includes(d.name));
  const rows = data.distributions.flatMap((d) => d.iterations.map((i) => ({ ...i, step: d.step, title: d.title })));
  return [
    note("Bars are shares of an iteration's rows; with many iterations, each is a line of shades. A dashed or red line is the mean."),
    el("div", { class: "charts" }, means, drawn.map(histogram)),
    closed("Figures of the distributions", table("Distributions", [
      { title: "step", value: (r) => r.step }, { title: "quantity", value: (r) => r.title }, { title: "iteration", value: (r) => r.iteration, number: true },
      { title: "rows", value: (r) => r.n, number: true }, { title: "mean", value: (r) => r.mean, number: true },
      { title: "standard deviation", value: (r) => r.sd, number: true }, { title: "rows without", value: (r) => r.without + r.not_finite, number: true },
    ], rows)),
  ];
});
