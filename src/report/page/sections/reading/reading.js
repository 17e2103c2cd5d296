reflux.section("reading", (data, page, redraw) => {
  const { el, num, choose, note, closed, command, quoted, counted } = reflux;
  const state = (reflux.state.reading ??= { step: "all", iteration: "all", order: "place", text: "", shown: 10 });
  const all = data.prompts;
  const margin = (p) => Math.min(...p.pairs.map((pair) => pair.margin ?? Infinity), Infinity);
  const orders = {
    place: ["as they were read", (p) => p.place], wide: ["widest scores first", (p) => -(p.spread ?? -1)],
    narrow: ["smallest margin first", margin], unpaired: ["without a pair first", (p) => p.pairs.length],
  };
  const texts = (p) => [p.prompt, p.prompt_id, ...p.answers.flatMap((a) => [a.text, ...a.judgements.map((j) => j.text)])].join("\n").toLowerCase();
  const wanted = (p) => (state.step === "all" || p.step === state.step) && (state.iteration === "all" || p.iteration === Number(state.iteration))
    && (!state.text || texts(p).includes(state.text.toLowerCase()));
  const body = el("div", {});

  const role = (prompt, answer) => {
    const badges = [];
    if (prompt.pairs.some((pair) => pair.chosen_id === answer.id)) badges.push(el("span", { class: "badge pass" }, "chosen"));
    if (prompt.pairs.some((pair) => pair.rejected_id === answer.id)) badges.push(el("span", { class: "badge stop" }, "rejected"));
    return badges;
  };
  const answer = (prompt, a) => el("li", { class: "answer" },
    el("div", {}, el("span", { class: "score" }, a.score === null ? "no score" : num(a.score, 3)), role(prompt, a),
      el("span", { class: "muted" }, [a.tokens === null ? null : counted(a.tokens, "token"), a.finish ? `ended by ${a.finish}` : null, a.logprob === null ? null : `${num(a.logprob)} nats when sampled`].filter(Boolean).join(" · "))),
    el("blockquote", { dir: "auto" }, a.text ?? ""),
    a.judgements.length ? closed(counted(a.judgements.length, "judgement"), el("ol", { class: "judgements" }, a.judgements.map((j) => el("li", {}, el("strong", {}, j.score === null ? j.outcome : num(j.score)), el("blockquote", { dir: "auto" }, j.text ?? "no text"))))) : null);
  const training = (t) => (t.optimizer_steps.length ? `${t.step} used it in step ${t.optimizer_steps.slice(0, 12).join(", ")}${t.optimizer_steps.length > 12 ? " …" : ""} of ${t.of}` : `${t.step} did not use it, or does not say which pairs it used`);
  const pair = (prompt, p) => {
    const reference = prompt.references.find((r) => r.chosen_id === p.chosen_id && r.rejected_id === p.rejected_id);
    return el("li", {}, `${p.step}: ${num(p.chosen_score, 3)} over ${num(p.rejected_score, 3)}, margin ${num(p.margin, 3)}. `, p.training ? `${training(p.training)}. ` : "No training has used it. ",
      reference ? `Before the training, the reference gave ${num(reference.chosen_logprob)} nats to the chosen and ${num(reference.rejected_logprob)} to the rejected answer (${reference.source}); a run stores none of single pairs after it.` : "The run stores no reference log-probabilities of it.");
  };
  const card = (p, open) => el("details", { class: "prompt", open },
    el("summary", {}, el("span", { class: "text", dir: "auto" }, p.prompt ?? p.prompt_id), " ", el("span", { class: "muted" }, `${p.step}, ${page.iterationName(p.iteration)} · ${counted(p.answers.length, "answer")}${p.spread === null ? "" : ` · scores ${num(p.spread, 3)} apart`}${p.pairs.length ? "" : " · no pair"}`)),
    el("ol", { class: "answers" }, p.answers.map((a) => answer(p, a))),
    p.pairs.length ? el("ul", {}, p.pairs.map((one) => pair(p, one))) : null,
    p.left_out.length ? el("ul", {}, p.left_out.map((l) => el("li", {}, `${l.step}: ${l.code} (${l.kind}): ${l.message}`))) : null,
    note("Its whole life: ", command("reflux trace", quoted(page.place), quoted(p.prompt_id))));

  function list() {
    const found = d3.sort(all.filter(wanted), orders[state.order][1]);
    const shown = found.slice(0, state.shown);
    const more = found.length > shown.length ? el("button", { type: "button", on: { click: () => { state.shown += 20; list(); } } }, `Show more of ${num(found.length)}`) : null;
    body.replaceChildren(el("p", { role: "status", class: "muted" }, `${counted(found.length, "prompt")} of ${num(all.length)} sampled`), ...shown.map((p, at) => card(p, at === 0)), ...(more ? [more] : []));
  }
  const set = (name) => (value) => { state[name] = value; state.shown = 10; list(); };
  const steps = [...new Set(all.map((p) => p.step))], iterations = [...new Set(all.map((p) => p.iteration))].sort((a, b) => a - b);
  const search = el("input", { type: "search", value: state.text });
  search.addEventListener("input", () => set("text")(search.value));
  list();
  const answers = Object.entries(data.answers).map(([step, n]) => `${num(n)} of ${step}`).join(", ");
  return [
    note(`A sample: at most ${counted(data.most, "prompt")} of each step and iteration, at evenly spaced places among all answers (${answers}).`, data.without_room ? ` ${counted(data.without_room, "sampled prompt")} had no room.` : ""),
    el("p", { class: "controls" }, steps.length > 1 ? choose("Step", [["all", "all"], ...steps.map((s) => [s, s])], state.step, set("step")) : null,
      iterations.length > 1 ? choose("Iteration", [["all", "all"], ...iterations.map((i) => [i, page.iterationName(i)])], state.iteration, set("iteration")) : null,
      choose("Order", Object.entries(orders).map(([key, [text]]) => [key, text]), state.order, set("order")), el("label", {}, el("span", {}, "Search"), search)),
    body,
  ];
});
