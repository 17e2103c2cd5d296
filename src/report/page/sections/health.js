reflux.section("health", (data) => {
  const { el, num, table, note, words } = reflux;
  const { byIteration, warn, bad, good } = reflux.charts;
  const colour = { pass: good, warn, stop: bad };
  const beyond = data.values.filter((v) => v.verdict !== "pass");
  const charts = data.gates.map((gate) => {
    const values = data.values.filter((v) => v.gate === gate.name && v.value !== null);
    if (!values.length) return null;
    const { warn: bound, stop } = values[values.length - 1];
    const points = values.map((v) => ({ iteration: v.iteration, value: v.value, group: v.step, verdict: v.verdict }));
    const marks = [Plot.ruleY(bound === null ? [] : [bound], { stroke: warn, strokeDasharray: "4,3" }), Plot.ruleY(stop === null ? [] : [stop], { stroke: bad })];
    const side = gate.low_is_bad ? "below" : "above";
    return byIteration(gate.name.replaceAll("_", " "), points, { marks, fill: (p) => colour[p.verdict] })
      .appendChild(note(`${gate.about}; warns ${side} ${num(bound)}${stop === null ? "" : `, stops ${side} ${num(stop)}`}`)).parentNode;
  });
  const verdict = (v) => el("span", { class: `badge ${v.verdict}` }, v.verdict);
  return [
    el("p", {}, beyond.length ? `${beyond.length} of ${data.values.length} values are beyond a bound.` : `All ${data.values.length} values are within their bounds.`),
    beyond.length ? table("Values beyond a bound", [
      { title: "gate", value: (v) => v.gate }, { title: "step", value: (v) => v.step }, { title: "iteration", value: (v) => v.iteration, number: true },
      { title: "value", value: (v) => v.value ?? "not a number", number: true }, { title: "verdict", value: verdict }, { title: "what to do", value: (v) => words(`${v.words ?? ""}${v.advice ? `; ${v.advice}` : ""}`) },
    ], beyond) : null,
    el("div", { class: "charts" }, charts),
  ];
});
