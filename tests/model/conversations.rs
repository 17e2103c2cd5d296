//! Conversations of several turns and with system messages: against transformers' chat templates, and through a pipeline to
//! answers, fine-tuning and preferences. The golden and the script that made it are in tests/goldens/conversations.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{self, RunOptions, run};
use arrow::array::{Array, RecordBatch};
use reflux::data::{Columns, Prompts as PromptsOf, named};
use reflux::model::{Message, Tokenizer};
use reflux::store::{Dataset, Lines, PromptForm, PromptReader, Run, import};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    tokenizer: String,
    template: Option<String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    /// The messages as JSON, with keys in their order.
    messages: String,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    refused: Option<String>,
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(name)
}

/// A model's folder with another template.
fn folder(name: &str, template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../goldens/conversations/golden.json")).unwrap()
}

/// The messages of a line of JSON, as `generate` and `logprobs` read them.
fn read(messages: &str) -> Vec<Message> {
    let line = format!("{{\"messages\": {messages}}}");
    let mut prompts = PromptReader::new(Lines::new("x", std::io::Cursor::new(line)), PromptForm::Json);
    let turns = prompts.next().unwrap().unwrap().1.unwrap().turns();
    turns.into_iter().map(|turn| Message { role: turn.role, content: turn.content, keys: turn.keys }).collect()
}

#[test]
fn templates_see_messages_as_in_transformers() {
    let (mut equal, mut refused) = (0, 0);
    for case in cases() {
        let folder = case.template.as_deref().map(|template| folder(&case.tokenizer, template));
        let path = folder.as_ref().map_or_else(|| model(&case.tokenizer), |folder| folder.path().to_owned());
        let tokenizer = Tokenizer::load(&path).unwrap();
        for row in &case.rows {
            let what = format!("{} {:?} {}", case.tokenizer, case.template, row.messages);
            let messages = read(&row.messages);
            let rendered = tokenizer.render(&messages, true);
            if let Some(why) = &row.refused {
                let error = rendered.expect_err(&what).to_string();
                assert!(error.contains(why.as_str()), "{what}: {error}, expected {why}");
                refused += 1;
                continue;
            }
            assert_eq!(&rendered.unwrap_or_else(|e| panic!("{what}: {e}")), row.text.as_ref().unwrap(), "{what}");
            let ids = tokenizer.encode_chat(&messages, true).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(&ids, row.ids.as_ref().unwrap(), "{what}");
            equal += 1;
        }
    }
    assert_eq!((equal, refused), (100, 10));
}

/// A key beside the content cannot write the template's special tokens.
#[test]
fn a_key_that_spells_a_special_token_is_refused() {
    let tokenizer = Tokenizer::load(&model("smollm2")).unwrap();
    for keys in [
        json!({"role": "user", "content": "a", "name": "x<|im_end|>"}),
        json!({"role": "user", "content": "a", "more": [{"<|im_start|>": 1}]}),
    ] {
        let error = tokenizer.encode_chat(&read(&json!([keys]).to_string()), true).unwrap_err().to_string();
        assert!(error.contains("spells a special token under"), "{error}");
    }
    let content = json!([{"content": "x<|im_end|>", "role": "user", "name": "Ann"}]).to_string();
    assert!(tokenizer.encode_chat(&read(&content), true).is_ok());
}

const SHAREGPT: &str = r#"{"system": "Be brief.", "conversations": [{"from": "human", "value": "the cat"}, {"from": "gpt", "value": "sat."}, {"from": "human", "value": "and the dog?"}, {"from": "gpt", "value": "ran."}]}
{"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]}
"#;

/// The conversations of [`SHAREGPT`]'s answers.
fn conversations() -> [Vec<(&'static str, &'static str)>; 3] {
    let first = vec![("system", "Be brief."), ("user", "the cat")];
    let second = [first.clone(), vec![("assistant", "sat."), ("user", "and the dog?")]].concat();
    [first, second, vec![("user", "one")]]
}

fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

fn step(run: &Run, name: &str, iteration: u32) -> RecordBatch {
    run.read_step(name, Some(iteration)).unwrap().unwrap()
}

/// An imported conversation is answered, judged, paired and learnt with all that was said before the answer.
#[test]
fn a_conversation_goes_through_a_pipeline_as_messages() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("x.jsonl");
    std::fs::write(&file, SHAREGPT).unwrap();
    let imported = import(&file, &reflux::store::ImportOptions::default()).unwrap();
    let rows = Dataset::open(&imported.path, &named::IFT).unwrap().batches(8).next().unwrap().unwrap();
    let asked = PromptsOf::new(&rows).unwrap();
    let turns: Vec<_> = (0..rows.num_rows()).map(|row| asked.turns(row)).collect();
    assert_eq!(turns, conversations());

    let judge = temp.path().join("judge.toml");
    std::fs::write(&judge, "[[answer]]\ntext = \"Score: 5\"\n").unwrap();
    let text = format!(
        "[pipeline]\nname = \"x\"\n[model.m]\npath = {:?}\n[step.ift]\nop = \"read\"\ndataset = {:?}\n\
         [step.fresh]\nop = \"dedup\"\nfrom = \"ift\"\n\
         [step.answers]\nop = \"generate\"\nfrom = \"fresh\"\nmodel = \"m\"\nsamples = 2\nsystem = \"Never seen.\"\nsampling = {{ max_tokens = 4 }}\n\
         [model.j]\nscript = {judge:?}\n[step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"j\"\nsamples = 1\n\
         [step.tuned]\nop = \"sft\"\nfrom = \"ift\"\nmodel = \"m\"\n",
        model("smollm2"),
        imported.path
    );
    let place = temp.path().join("run");
    run(&text, &place, &RunOptions::default()).0.unwrap();
    let run = Run::open(&place).unwrap();
    let tokenizer = Tokenizer::load(&model("smollm2")).unwrap();
    let answers = step(&run, "answers", 0);
    let (asked, tokens) = (PromptsOf::new(&answers).unwrap(), Columns(&answers).tokens("prompt_tokens").unwrap());
    assert_eq!(answers.num_rows(), 6);
    for (row, turns) in conversations().iter().flat_map(|turns| [turns, turns]).enumerate() {
        // The step's own system message is for prompts without one.
        let given = match turns[0].0 {
            "system" => turns.clone(),
            _ => [vec![("system", "Never seen.")], turns.clone()].concat(),
        };
        assert_eq!(tokens.row(row), tokenizer.encode_chat(&messages(&given), true).unwrap(), "row {row}");
        assert_eq!(asked.turns(row), *turns);
    }
    // The judge reads the transcript, and its rows keep the messages.
    let scores = step(&run, "scores", 0);
    let judged = PromptsOf::new(&scores).unwrap();
    assert_eq!(judged.text(2), "system: Be brief.\n\nuser: the cat\n\nassistant: sat.\n\nuser: and the dog?");
    assert!((0..6).all(|row| judged.turns(row) == asked.turns(row)));
    // Fine-tuning reads every token of the conversation, and learns the last answer.
    let metrics = reflux::store::read_parquet(&place.join("metrics/tuned/iteration=0/metrics.parquet")).unwrap();
    let seen = Columns(&metrics).double("num_tokens").unwrap().value(0);
    let answered = ["sat.", "ran.", "two"];
    let count = |(turns, answer): (&Vec<(&str, &str)>, &str)| {
        let example = reflux::train::Example::answer(&tokenizer, &messages(turns), answer).unwrap();
        example.tokens.len() as f64
    };
    let expected: f64 = conversations().iter().zip(answered).map(count).sum();
    assert_eq!(seen, expected);
}

/// Two scored answers to one prompt, in a file.
fn scores(file: &Path) -> RecordBatch {
    let answer =
        |name: &str, token: u32, score: f32| ("p".to_owned(), name.to_owned(), vec![token], Some(score), vec![score]);
    common::scored::write_scores(file, &[answer("a", 1, 5.), answer("b", 2, 1.)]);
    reflux::store::read_parquet(file).unwrap()
}

/// Pairs of answers to a conversation have its messages as their prompt, whoever made them.
#[test]
fn pairs_have_the_conversation_as_their_prompt() {
    let temp = tempfile::tempdir().unwrap();
    let turns = conversations()[1].clone();
    let column = reflux::data::conversations(&[Some(turns.clone()), Some(turns.clone())]).unwrap();
    let file = temp.path().join("scores.parquet");
    let scores = scores(&file);
    let at = scores.schema().index_of("prompt_messages").unwrap();
    let mut columns = scores.columns().to_vec();
    columns[at] = column;
    let scores = RecordBatch::try_new(scores.schema(), columns).unwrap();
    reflux::store::write_parquet(&file, &scores).unwrap();
    let text = format!(
        "[pipeline]\nname = \"x\"\n[step.scores]\nop = \"read\"\ndataset = {file:?}\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n[step.good]\nop = \"positives\"\nfrom = \"scores\"\n\
         [step.both]\nop = \"concat\"\nfrom = \"good\"\nwith = \"good\"\n"
    );
    let place = temp.path().join("run");
    common::run(&text, &place, &RunOptions::default()).0.unwrap();
    let run = Run::open(&place).unwrap();
    let pairs = step(&run, "pairs", 0);
    let prompt: Vec<_> = Columns(&pairs).messages("prompt").unwrap().row(0).collect();
    assert_eq!((pairs.num_rows(), prompt), (1, turns.clone()));
    let good = step(&run, "good", 0);
    assert_eq!((good.num_rows(), PromptsOf::new(&good).unwrap().turns(0)), (1, turns));
}

/// A template that cannot take the conversation refuses the row, and says which.
#[test]
fn a_template_without_a_system_message_refuses_the_row() {
    let temp = tempfile::tempdir().unwrap();
    let refuses = cases().into_iter().find(|c| c.template.as_deref().is_some_and(|t| t.contains("not supported")));
    let folder = folder("smollm2", &refuses.unwrap().template.unwrap());
    let file = temp.path().join("x.jsonl");
    std::fs::write(
        &file,
        "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\", \"response\": \"b\", \"system\": \"s\"}\n",
    )
    .unwrap();
    let text = |step: &str| {
        format!(
            "[pipeline]\nname = \"x\"\n[model.m]\npath = {:?}\n[step.ift]\nop = \"read\"\ndataset = {file:?}\n\
             [step.x]\n{step}\nfrom = \"ift\"\nmodel = \"m\"\n",
            folder.path()
        )
    };
    let error = run(&text("op = \"sft\""), &temp.path().join("sft"), &RunOptions::default()).0.unwrap_err();
    assert!(error.to_string().contains("row 2") && error.to_string().contains("System role not supported"), "{error}");
    let place = temp.path().join("answers");
    run(&text("op = \"generate\"\nsampling = { max_tokens = 2 }"), &place, &RunOptions::default()).0.unwrap();
    let run = Run::open(&place).unwrap();
    let answers = step(&run, "x", 0);
    assert_eq!(answers.num_rows(), 4);
    assert!(Columns(&answers).messages("prompt_messages").unwrap().row(0).next().is_none());
    let entry = run.files("x").remove(0);
    let errors = run.left_out(&entry).unwrap().unwrap();
    let why = Columns(&errors).text("message").unwrap();
    assert!(errors.num_rows() == 4 && why.iter().flatten().all(|why| why.contains("System role")), "{why:?}");
}

/// What a run of an earlier version stored is read: its datasets have no column of conversations.
#[test]
fn datasets_without_the_column_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("old.parquet");
    let scores = scores(&file);
    let old = scores.project(&(0..scores.num_columns() - 1).collect::<Vec<_>>()).unwrap();
    assert!(old.column_by_name("prompt_messages").is_none());
    reflux::store::write_parquet(&file, &old).unwrap();
    let rows = Dataset::open(&file, &named::SCORES).unwrap().batches(8).next().unwrap().unwrap();
    assert_eq!(rows, scores);
    let shown = Command::new(env!("CARGO_BIN_EXE_reflux")).arg("show").arg(&file).output().unwrap();
    assert!(shown.status.success());
    assert_eq!(rows.column_by_name("prompt_messages").unwrap().null_count(), 2);
}
