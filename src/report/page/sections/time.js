reflux.section("time", (data, page) => {
  const { el, num, table, seconds, note, bytes } = reflux;
  const { figure, colours, legend } = reflux.charts;
  const spans = page.steps.flatMap((s) => s.counts.filter((c) => c.span).map((c) => ({ step: s.name, iteration: c.iteration, from: c.span[0], to: c.span[1], busy: c.seconds ?? 0 })));
  const iterations = [...new Set(spans.map((s) => s.iteration))].sort((a, b) => a - b);
  const colour = colours(iterations);
  const order = page.steps.map((s) => s.name).filter((name) => spans.some((s) => s.step === name));
  const longest = Math.max(0.001, ...spans.map((s) => s.to));
  const gantt = spans.length ? figure("When each step worked", `${order.length} steps in ${seconds(longest)}`, {
    width: 860, height: 60 + 19 * order.length, marginLeft: 110, x: { label: "seconds since the dataflow started", grid: true }, y: { label: null, domain: order },
    marks: [
      Plot.barX(spans, { x1: "from", x2: (s) => Math.max(s.to, s.from + longest / 800), y: "step", fill: (s) => colour(s.iteration), fillOpacity: 0.75,
        title: (s) => `${s.step}, ${page.iterationName(s.iteration)}: from ${seconds(s.from)} to ${seconds(s.to)}, ${seconds(s.busy)} of compute` }),
    ],
  }, legend(iterations, colour, page.iterationName)) : note("No step has times: an earlier process did its work.");
  gantt.classList?.add("wide");
  const restored = d3.sum(page.steps, (s) => d3.sum(s.counts, (c) => c.restored ?? 0));
  const busy = page.steps.map((s) => ({ step: s.name, seconds: d3.sum(s.counts, (c) => c.seconds ?? 0), rows: d3.sum(s.counts, (c) => c.rows), bytes: d3.sum(s.counts, (c) => c.bytes) })).filter((s) => s.rows > 0);
  const trains = (s) => page.step.get(s.step).schema === "models";
  const rate = (e) => e.generated_tokens / Math.max(e.busy_seconds, 1e-9);
  const engines = data.engines.filter((e) => e.prompt_tokens > 0 || e.requests > 0);
  const endpoints = data.engines.flatMap((e) => (e.endpoints ?? []).map((p) => ({ model: e.model, ...p })));
  return [
    el("div", { class: "charts" }, gantt),
    restored ? note(`${num(restored)} microbatches were committed by an earlier process; their times are not known.`) : null,
    table("Compute time by step, over all threads", [
      { title: "step", value: (s) => s.step }, { title: "compute", value: (s) => seconds(s.seconds), number: true }, { title: "rows", value: (s) => s.rows, number: true },
      { title: "rows per second", value: (s) => (s.seconds > 0 && !trains(s) ? s.rows / s.seconds : ""), number: true }, { title: "size", value: (s) => bytes(s.bytes), number: true },
    ], d3.sort(busy, (s) => -s.seconds)),
    engines.length ? table("Engines", [
      { title: "model", value: (e) => e.model }, { title: "answers", value: (e) => e.requests, number: true }, { title: "generated tokens", value: (e) => e.generated_tokens, number: true },
      { title: "tokens per second", value: (e) => (e.busy_seconds > 0 ? Math.round(rate(e)) : ""), number: true }, { title: "busy", value: (e) => seconds(e.busy_seconds), number: true },
      { title: "prefill", value: (e) => seconds(e.prefill_seconds), number: true }, { title: "prompt tokens", value: (e) => e.prompt_tokens, number: true },
      { title: "from the prefix cache", value: (e) => `${Math.round(100 * (e.prefix_hit_rate ?? 0))}%`, number: true }, { title: "batched steps", value: (e) => e.steps ?? "", number: true },
    ], engines) : note("No engine of this process sampled anything."),
    endpoints.length ? table("Servers", [
      { title: "model", value: (p) => p.model }, { title: "address", value: (p) => p.url }, { title: "requests", value: (p) => p.requests, number: true },
      { title: "retries", value: (p) => p.retries ?? 0, number: true }, { title: "refused", value: (p) => p.refused ?? 0, number: true }, { title: "seconds", value: (p) => p.seconds, number: true },
    ], endpoints) : null,
  ];
});
