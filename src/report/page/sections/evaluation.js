reflux.section("evaluation", (data) => {
  const { el, num, counted, table, note, closed, words } = reflux;
  const { byIteration } = reflux.charts;
  const estimates = data.drift.flatMap((round) => Object.entries(round)
    .filter(([, value]) => value && typeof value === "object" && "value" in value)
    .map(([name, e]) => ({ name, iteration: round.iteration, group: round.step, ...e })));
  const measured = data.measures.map((m) => ({ ...m, group: m.step }));
  const chart = (list) => [...new Set(list.map((e) => e.name))].map((name) => {
    const points = list.filter((e) => e.name === name && e.value !== null);
    return new Set(points.map((p) => p.iteration)).size > 1 || points.some((p) => Number.isFinite(p.low))
      ? byIteration(name.replaceAll("_", " "), points) : null;
  });
  const shown = ["score", "tokens", "distinct_1"];
  const ranked = (list) => d3.sort(list, (e) => shown.indexOf(e.name));
  const interval = (e) => (Number.isFinite(e.low) ? `${num(e.low)} to ${num(e.high)}` : "");
  const columns = [
    { title: "step", value: (e) => e.group }, { title: "figure", value: (e) => e.name.replaceAll("_", " ") }, { title: "iteration", value: (e) => e.iteration, number: true },
    { title: "value", value: (e) => e.value, number: true }, { title: "95% interval", value: interval, number: true }, { title: "rows", value: (e) => e.n ?? "", number: true },
  ];
  const warned = data.drift.filter((round) => round.warning);
  return [
    measured.length ? [el("h3", {}, "Measured"), el("div", { class: "charts" }, chart(measured)), closed("Every measured figure", table("Measured figures", columns, measured))] : note("No step measures win rates or rewards; ", el("code", {}, "measure"), " does."),
    estimates.length ? [el("h3", {}, "Scored answers"), note(`Means over answers with 95% intervals by prompt, ${num(data.resamples)} resamples; `, el("code", {}, "reflux eval drift"), " makes more."),
      el("div", { class: "charts" }, chart(ranked(estimates.filter((e) => shown.includes(e.name))))), closed("Every figure of scored answers", table("Figures of scored answers", columns, estimates))] : null,
    warned.length ? closed(counted(warned.length, "warning"), el("ul", {}, warned.map((round) => el("li", {}, `${round.step}: `, words(round.warning))))) : null,
    data.not_resampled.length ? note(`Without intervals, because they have more than ${num(data.most_resampled)} answers: ${data.not_resampled.join(", ")}. `, el("code", {}, "reflux eval drift"), " computes them.") : null,
  ];
});
