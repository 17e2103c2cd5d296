reflux.section("training", (data, page, redraw) => {
  const { el, num, table, choose, note, counted } = reflux;
  const { figure, colours, legend } = reflux.charts;
  const steps = [...new Set(data.trainings.map((t) => t.step))];
  // Curves that are read together, as a solid and a dashed line.
  const groups = [
    ["loss", ["loss", "nll_loss", "replay_loss"]], ["rewards", ["rewards/chosen", "rewards/rejected"]], ["reward margin", ["rewards/margins"]],
    ["reward accuracy", ["rewards/accuracies"]], ["gradient norm", ["grad_norm"]], ["learning rate", ["learning_rate"]], ["log-probabilities", ["logps/chosen", "logps/rejected"]],
  ];
  const known = new Set(groups.flatMap(([, names]) => names));
  const dashes = [null, "5,3", "1,3"];

  function curves(step) {
    const own = data.trainings.filter((t) => t.step === step);
    const iterations = own.map((t) => t.iteration);
    const chosen = (reflux.state.training ??= {})[step] ?? "all";
    const shown = own.filter((t) => chosen === "all" || t.iteration === Number(chosen));
    const colour = colours(iterations);
    const names = [...new Set(own.flatMap((t) => Object.keys(t.curves)))];
    const others = names.filter((n) => !known.has(n.replace(/^eval_/, ""))).map((n) => [n, [n]]);
    const charts = [...groups, ...others].map(([title, measures]) => {
      const lines = [], dots = [];
      for (const t of shown) {
        measures.forEach((measure, m) => {
          for (const [name, list] of [[measure, lines], [`eval_${measure}`, dots]]) {
            (t.curves[name] ?? []).forEach((value, i) => {
              if (value !== null) list.push({ x: t.at[i], value, name, dash: dashes[m], z: `${t.iteration} ${name}`, iteration: t.iteration });
            });
          }
        });
      }
      if (!lines.length && !dots.length) return null;
      const there = measures.filter((m) => lines.some((p) => p.name === m) || dots.some((p) => p.name === `eval_${m}`));
      const keys = there.length > 1 || dots.length ? el("p", { class: "note" }, there.map((m) => `${m} ${["solid", "dashed", "dotted"][measures.indexOf(m)]}`).join(", "), dots.length ? "; dots are validation" : "") : [];
      const last = shown[shown.length - 1];
      const label = there.map((m) => `${m} ends at ${num((last.curves[m] ?? []).filter((v) => v !== null).pop())}`).join(", ");
      const tip = (p) => `${p.name}, iteration ${p.iteration}, step ${p.x}: ${num(p.value)}`;
      return figure(title, label, {
        x: { label: "optimizer step", ticks: 6, tickFormat: "~s" }, y: { label: null, grid: true, nice: true, tickFormat: title === "learning rate" ? "~e" : undefined },
        marks: [
          ...dashes.slice(0, measures.length).map((dash) => Plot.lineY(lines.filter((p) => p.dash === dash), { x: "x", y: "value", z: "z", stroke: (p) => colour(p.iteration), strokeWidth: 1.4, strokeDasharray: dash })),
          Plot.dot(dots, { x: "x", y: "value", fill: (p) => colour(p.iteration), r: 3, title: tip }),
          Plot.tip(lines, Plot.pointerX({ x: "x", y: "value", title: tip })),
        ],
      }, keys);
    });
    const every = Math.max(...own.map((t) => t.every));
    const select = iterations.length > 1 ? el("p", { class: "controls" }, choose("Show", [["all", "all iterations"], ...iterations.map((i) => [i, `iteration ${i}`])], chosen, (value) => { reflux.state.training[step] = value; redraw(); })) : null;
    return el("div", { class: "training" }, el("h3", {}, step), select, iterations.length > 1 ? legend(iterations, colour, (i) => `iteration ${i}`) : null,
      every > 1 ? note(`A point is the mean of ${counted(every, "optimizer step")} at most.`) : null,
      el("div", { class: "charts" }, charts));
  }

  const last = (t, name) => (t.curves[name] ?? []).filter((v) => v !== null).pop() ?? null;
  const reference = (t) => (data.references ?? []).find((r) => r.step === t.step && r.iteration === t.iteration);
  return [
    table("Trainings", [
      { title: "training", value: (t) => t.step }, { title: "iteration", value: (t) => t.iteration, number: true }, { title: "model", value: (t) => t.model ?? "" },
      { title: "optimizer steps", value: (t) => t.optimizer_steps, number: true }, { title: "last loss", value: (t) => last(t, "loss"), number: true },
      { title: "last accuracy", value: (t) => last(t, "rewards/accuracies") ?? "", number: true },
      { title: "weights of step", value: (t) => t.training?.chosen_step ?? "", number: true },
      { title: "reference log-probabilities", value: (t) => { const r = reference(t); return r ? `${num(r.recorded)} recorded, ${num(r.computed)} computed` : ""; } },
    ], data.trainings),
    steps.map(curves),
  ];
});
