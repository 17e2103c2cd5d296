reflux.section("overview", (data, page) => {
  const { el, table, seconds, note } = reflux;
  const [head, ...rows] = data.table;
  const columns = head.map((title, at) => ({ title, value: (row) => row[at], number: title !== "policy" }));
  const figures = head.slice(2);
  const points = (name) => data.loop
    .filter((round) => round[name] !== undefined && round[name] !== null)
    .map((round) => ({ iteration: round.iteration, value: round[name], group: name }));
  // Counts are in the funnel; here is what tells whether the policy became better.
  const drawn = figures.filter((name) => points(name).length > 1 && points(name).some((p) => !Number.isInteger(p.value)));
  return [
    table("The loop by iteration", columns, rows),
    note(data.seconds ? `The last process took ${seconds(data.seconds)}.` : "The run has not finished."),
    el("div", { class: "charts" }, drawn.map((name) => reflux.charts.byIteration(name, points(name)))),
  ];
});
