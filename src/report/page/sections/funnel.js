reflux.section("funnel", (data, page) => {
  const { el, num, rowsLink, scroll, note, counted } = reflux;
  const loop = page.steps.filter((s) => s.placement === "loop" || s.placement === "ahead");
  const steps = (loop.length ? loop : page.steps).filter((s) => s.counts.length);
  const iterations = [...new Set(steps.flatMap((s) => s.counts.map((c) => c.iteration)))].sort((a, b) => a - b);
  const verbs = { synthesize: "written", dedup: "kept", generate: "answered", select: "paired", measure: "measured" };
  const verb = (s) => verbs[s.op] ?? { scores: "judged", models: "trained", prompts: "prompts" }[s.schema] ?? "";
  const most = Math.max(1, ...steps.flatMap((s) => s.counts.map((c) => c.rows)));
  const of = (list, step, iteration) => (list ?? []).filter((r) => r.step === step && r.iteration === iteration);

  function reasons(step, iteration) {
    const left = of(data.left_out, step, iteration)
      .map((r) => el("li", {}, rowsLink(step, iteration, `−${num(r.rows)}`, true), ` ${r.code}`));
    const unused = of(data.unused, step, iteration)
      .map((r) => el("li", { class: "muted" }, `${num(r.rows)} ${r.reason.replaceAll("_", " ")}`));
    return left.length + unused.length ? el("ul", { class: "reasons" }, left, unused) : null;
  }

  function cell(step, iteration) {
    const count = step.counts.find((c) => c.iteration === iteration);
    if (!count) return el("td", { class: "number muted" }, "none");
    if (step.schema === "models") {
      const trained = of(data.trained, step.name, iteration)[0];
      const text = trained ? counted(trained.optimizer_steps, "step") : counted(count.rows, "model");
      return el("td", { class: "number" }, rowsLink(step.name, iteration, text), reasons(step.name, iteration));
    }
    const bar = el("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * count.rows) / most}%`;
    return el("td", { class: "number" }, rowsLink(step.name, iteration, num(count.rows)), bar, reasons(step.name, iteration));
  }

  const head = iterations.map((i) => el("th", { scope: "col", class: "number" },
    i === 0 ? "before the loop" : `iteration ${i}`, page.policy(i) ? el("div", { class: "muted" }, page.policy(i)) : null));
  const rows = steps.map((s) => el("tr", {},
    el("th", { scope: "row" }, s.name, el("div", { class: "muted" }, `${verb(s)} (${s.op})`)), iterations.map((i) => cell(s, i))));
  return [
    note("Rows of each step; a number links to sample rows and to the command that shows all of them. Below a number: rows that the step left out, and inputs that no row uses, with the reason."),
    scroll("Funnel", el("table", { class: "funnel" }, el("caption", {}, "Rows by step and iteration"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "step"), head)), el("tbody", {}, rows))),
  ];
});
