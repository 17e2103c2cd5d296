reflux.section("rows", (data, page, redraw) => {
  const { el, num, choose, table, note, command, quoted, counted } = reflux;
  const place = new Map(page.steps.map((s, at) => [s.name, at]));
  const steps = d3.sort(new Set(data.groups.map((g) => g.step)), (name) => place.get(name) ?? page.steps.length, (name) => name);
  const first = ["pairs", "scores", "responses"].map((schema) => page.steps.find((s) => s.schema === schema && steps.includes(s.name))?.name).find(Boolean);
  const asked = reflux.state.rows ?? { step: first ?? steps[0], iteration: null, errors: false };
  const own = data.groups.filter((g) => g.step === asked.step);
  const group = own.find((g) => g.iteration === asked.iteration) ?? own[own.length - 1];
  const go = (step, iteration, errors) => { reflux.state.rows = { step, iteration, errors }; redraw(); };
  if (!group) return note(`The run has no rows of ${asked.step}.`);
  const errors = asked.errors && group.left_out > 0;
  const rows = errors ? group.errors : group.sample;
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((name) => name !== "iteration" && name !== "microbatch");
  // The first digits identify a hash, as in the other outputs; the rest is in the file.
  const short = (text) => text.replace(/\b[0-9a-f]{32,64}\b/g, (hash) => hash.slice(0, 8));
  const at = `${page.place}/${errors ? `errors/${group.step}` : group.step}`;
  const show = command("reflux show", quoted(at), "--iteration", group.iteration);
  const total = errors ? group.left_out : group.rows;
  const cell = (value) => (typeof value === "string" ? el("span", { dir: "auto", class: "cell" }, short(value)) : typeof value === "number" ? num(value) : String(value ?? ""));
  return [
    el("p", { class: "controls" },
      choose("Step", steps.map((s) => [s, s]), group.step, (s) => go(s, null, false)),
      choose("Iteration", own.map((g) => [g.iteration, page.iterationName(g.iteration)]), group.iteration, (i) => go(group.step, Number(i), errors)),
      group.left_out > 0 ? choose("Rows", [["kept", `kept (${num(group.rows)})`], ["left out", `left out (${num(group.left_out)})`]], errors ? "left out" : "kept", (v) => go(group.step, group.iteration, v === "left out")) : null),
    el("p", {}, rows.length ? `The first ${num(rows.length)} of ${counted(total, "row")}, long texts cut. All of them: ` : group.kept || errors ? `No sample of ${counted(total, "row")} here. All of them: ` : `The ${counted(total, "row")} were not kept, as the pipeline file asked.`, group.kept || errors ? show : null),
    group.kept && !errors ? note("Files: ", el("code", {}, `data/${group.step}/iteration=${group.iteration}/`)) : null,
    rows.length ? table(`${group.step}, ${page.iterationName(group.iteration)}${errors ? ", left out" : ""}`, names.map((name) => ({ title: name, value: (row) => cell(row[name]), number: rows.every((row) => typeof (row[name] ?? 0) === "number") })), rows) : null,
  ];
});
