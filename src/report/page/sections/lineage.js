reflux.section("lineage", (data, page) => {
  const { el, table, bytes, closed, note, command, quoted } = reflux;
  const hash = (text) => el("code", { title: text }, text.slice(0, 16));
  const machine = data.machine ? `${data.machine.os} on ${data.machine.architecture}, ${data.machine.cores} cores` : "not recorded";
  const facts = [
    ["started by", `reflux ${data.made_by}`], ["pipeline file (blake3)", hash(data.pipeline)], ["seed", page.seed], ["machine", machine],
    ["rows from servers", (data.from_servers ?? []).join(", ") || "none"],
    ["taken over", data.taken ? `from ${data.taken.run}, before ${data.taken.from.join(", ")}` : "nothing: the run computed all of its rows"],
  ];
  return [
    el("dl", { class: "facts" }, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    table("Models that the run made", [
      { title: "model", value: (m) => m.name }, { title: "step", value: (m) => m.step }, { title: "iteration", value: (m) => m.iteration, number: true },
      { title: "weights (blake3)", value: (m) => hash(m.hash) }, { title: "size", value: (m) => bytes(m.bytes), number: true }, { title: "folder", value: (m) => m.path },
    ], data.models),
    table("Inputs", [
      { title: "key", value: (i) => i.of }, { title: "path", value: (i) => i.path }, { title: "revision", value: (i) => i.revision ?? "" }, { title: "blake3", value: (i) => hash(i.hash) },
      { title: "files", value: (i) => i.files, number: true }, { title: "size", value: (i) => bytes(i.bytes), number: true },
    ], data.inputs),
    data.inputs_left_out ? note(`${data.inputs_left_out} more inputs are in manifest.jsonl.`) : null,
    closed("Pipeline file, with every --set and every default", el("pre", { tabindex: 0 }, data.pipeline_file)),
    note("Every file against its hash: ", command("reflux verify", quoted(page.place))),
  ];
});
