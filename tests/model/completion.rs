//! What follows a prompt, against transformers and TRL: token ids for SentencePiece and byte-level vocabularies and for
//! chat templates that trim, quote, drop or open something. The golden and the script that made it are in
//! tests/goldens/completion.

use std::path::{Path, PathBuf};
use std::process::Command;

use reflux::model::{Message, Tokenizer, Unwritten};
use reflux::train::{Example, Scored};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    tokenizer: String,
    template: Option<String>,
    prompt: Vec<Message>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    answer: String,
    /// Ids of the prompt.
    #[serde(default)]
    prompt_ids: Vec<u32>,
    /// Ids of what follows, up to the end of the turn.
    ids: Option<Vec<u32>>,
    /// What the template writes after the prompt.
    #[serde(default)]
    text: String,
    /// The rendered prompt does not begin the rendered conversation.
    #[serde(default)]
    refused: bool,
    /// The answer spells special tokens.
    #[serde(default)]
    spells: bool,
    /// The template writes nothing that ends the turn.
    #[serde(default)]
    no_end: bool,
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(name)
}

/// The tokenizer of a folder, with another template.
fn tokenizer(name: &str, template: Option<&str>) -> Tokenizer {
    let Some(template) = template else { return Tokenizer::load(&model(name)).unwrap() };
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model(name).join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../goldens/completion/golden.json")).unwrap()
}

#[test]
fn prompt_and_answer_are_what_the_template_gives_for_the_conversation() {
    let (mut equal, mut refused, mut spelled) = (0, 0, 0);
    for case in cases() {
        let tokenizer = tokenizer(&case.tokenizer, case.template.as_deref());
        for row in &case.rows {
            let what = || format!("{} {:?} {:?}", case.tokenizer, case.template, row.answer);
            let turn = [Message::new("assistant", row.answer.as_str())];
            let got = tokenizer.encode_completion(&case.prompt, &turn, Unwritten::Refuse);
            let left_out = case.template.as_deref().is_some_and(|t| t.contains("if m['role'] == 'user' %}"));
            if row.refused || left_out {
                let error = got.expect_err(&what()).to_string();
                assert!(error.contains("the chat template"), "{error}");
                refused += 1;
                continue;
            }
            let got = got.unwrap_or_else(|e| panic!("{}: {e}", what()));
            assert_eq!(got.note, None);
            if row.spells {
                // Nothing in the answer ends the turn.
                let end = got.answer.len() - 1;
                assert!(got.answer[..end].iter().all(|id| !tokenizer.is_special(*id)), "{}", what());
                spelled += 1;
                continue;
            }
            assert_eq!(got.prompt, row.prompt_ids, "{}", what());
            if row.no_end {
                assert_eq!(got.answer.last().copied(), tokenizer.end_of_turn(), "{}", what());
            }
            match &row.ids {
                Some(ids) => {
                    assert_eq!(&got.answer, ids, "{}", what());
                    equal += 1;
                }
                None => assert!(row.no_end, "{}", what()),
            }
        }
    }
    println!("{equal} equal, {refused} refused, {spelled} that spell special tokens");
    assert!(equal > 200 && refused > 35 && spelled > 20, "{equal} {refused} {spelled}");
}

#[test]
fn every_user_of_answers_encodes_them_alike() {
    for case in cases() {
        let tokenizer = tokenizer(&case.tokenizer, case.template.as_deref());
        for row in case.rows.iter().filter(|row| row.ids.is_some()) {
            let ids = row.ids.as_ref().unwrap();
            let example = Example::answer(&tokenizer, &case.prompt, &row.answer).unwrap();
            assert_eq!((example.context, &example.tokens[example.context..]), (row.prompt_ids.len(), ids.as_slice()));
            let turns = [vec![Message::new("assistant", row.answer.as_str())]];
            let scored = Scored::encode(&tokenizer, &case.prompt, &turns).unwrap();
            assert_eq!((&scored.prompt, &scored.completions[0]), (&row.prompt_ids, ids));
        }
    }
}

#[test]
fn text_after_other_text_has_no_mark_of_a_beginning() {
    for name in ["tinyllama", "llama2"] {
        let tokenizer = Tokenizer::load(&model(name)).unwrap();
        let whole = tokenizer.encode_text("the cat:sat").unwrap();
        let both = [tokenizer.encode_text("the cat:").unwrap(), tokenizer.encode_later("sat").unwrap()].concat();
        assert_eq!(both, whole, "{name}");
        let example = Example::text(&tokenizer, "the cat:", "sat").unwrap();
        let bos = usize::from(tokenizer.bos_id().is_some());
        assert_eq!(example.tokens[bos..example.tokens.len() - 1], whole, "{name}");
        // Without a context the text begins the sequence.
        let example = Example::text(&tokenizer, "", "sat").unwrap();
        assert_eq!(example.tokens[bos..example.tokens.len() - 1], tokenizer.encode_text("sat").unwrap(), "{name}");
    }
}

/// What a judge is made to begin its answer with goes on from its prompt.
#[test]
fn the_beginning_of_an_answer_is_encoded_as_one() {
    for case in cases().iter().filter(|case| case.template.as_ref().is_none_or(|t| !t.contains("trim"))) {
        let tokenizer = tokenizer(&case.tokenizer, case.template.as_deref());
        for row in case.rows.iter().filter(|row| row.answer == "Paris." && row.text.starts_with("Paris.")) {
            let Some(ids) = &row.ids else { continue };
            let got = tokenizer.encode_answer_beginning(&case.prompt, "Paris.").unwrap();
            assert_eq!(got, ids[..got.len()], "{} {:?}", case.tokenizer, case.template);
            assert_eq!(got.len(), ids.len() - 1);
        }
    }
}

/// An answer whose first letters merge with the prompt's last ones: the prompt keeps the tokens that sampling has, and the
/// answer is what follows them.
#[test]
fn an_answer_that_merges_with_the_prompt_keeps_the_prompts_tokens() {
    let template = "{% for m in messages %}{{ m['content'] }}{% endfor %}";
    for name in ["smollm2", "tinyllama", "llama2", "llama3"] {
        let tokenizer = tokenizer(name, Some(template));
        let (prompt, answer) = ([Message::new("user", "the c")], "at sat");
        let got =
            tokenizer.encode_completion(&prompt, &[Message::new("assistant", answer)], Unwritten::Refuse).unwrap();
        assert_ne!(
            [&got.prompt[..], &got.answer[..got.answer.len() - 1]].concat(),
            tokenizer.encode_text("the cat sat").unwrap(),
            "{name}"
        );
        assert_eq!(got.prompt, tokenizer.encode_text("the c").unwrap(), "{name}");
        assert_eq!(tokenizer.decode(&[got.prompt, got.answer].concat()), "the cat sat", "{name}");
    }
}

/// A model folder whose template is `template`, with random weights of the golden model.
fn with_template(template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        std::fs::copy(model("smollm2").join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    std::fs::write(folder.path().join("rows.jsonl"), "{\"prompt\": \"the cat\", \"completion\": \"sat\"}\n").unwrap();
    folder
}

fn logprobs(folder: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    let output =
        command.current_dir(folder).env("NO_COLOR", "1").args(["logprobs", ".", "rows.jsonl"]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn logprobs_refuses_a_thought_that_is_opened_for_sampling_only_and_notes_a_rewritten_answer() {
    let turn = "<|im_start|>' + m['role'] + '\n'";
    let template = |answer: &str, open: &str| {
        format!(
            "{{% for m in messages %}}{{{{ '{turn} + {answer} + '<|im_end|>\n' }}}}{{% endfor %}}\
             {{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n{open}' }}}}{{% endif %}}"
        )
    };
    let folder = with_template(&template("m['content']", "<think>\n"));
    let (code, out, err) = logprobs(folder.path());
    assert_eq!(code, Some(2), "{err}");
    assert!(out.contains("ends the prompt with") && out.contains("<think>"), "{out}");

    let plain = logprobs(with_template(&template("m['content']", "")).path());
    assert_eq!(plain.0, Some(0), "{}", plain.2);
    assert!(!plain.1.contains("note"), "{}", plain.1);
    let folder = with_template(&template("(m['content'] | tojson if m['role'] == 'assistant' else m['content'])", ""));
    let (code, out, err) = logprobs(folder.path());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"note\":\"the chat template rewrites the answer\""), "{out}");
    assert!(err.contains("rewrites the answers of 1 row"), "{err}");
    // The number is that of the answer as it was given.
    let number = |out: &str| serde_json::from_str::<serde_json::Value>(out).unwrap()["completion_logprob"].clone();
    assert_eq!(number(&out), number(&plain.1));
}
