//! The list world: its oracle, its seed data, and the tokenizer and templates in `pipelines/listworld`.

use std::collections::BTreeSet;
use std::path::Path;

use reflux::data::Columns;
use reflux::eval::listworld::data::judgement;
use reflux::eval::listworld::world::{CATEGORIES, held_out, vocabulary};
use reflux::eval::listworld::{Data, Instruction, Verdicts, score};
use reflux::jinja::{RenderOptions, Template, Value, Whitespace};
use tokenizers::Tokenizer;

fn points(request: &str, response: &str) -> String {
    let request = Instruction::parse(request).expect("a request of the world");
    Verdicts::of(&request, response).points().map(|p| if p { '1' } else { '0' }).iter().collect()
}

#[test]
fn the_oracle_judges_each_aspect() {
    let alphabetical = "list three animals in alphabetical order";
    // kind, count, distinct, order, closing
    assert_eq!(points(alphabetical, "ape bear cat"), "11111");
    assert_eq!(points(alphabetical, "ape boots cat"), "01111", "boots is no animal");
    assert_eq!(points(alphabetical, "ape bear"), "10111");
    assert_eq!(points(alphabetical, "ape bear cat dog"), "10111");
    assert_eq!(points(alphabetical, "ape ape cat"), "11011", "equal neighbours are in order");
    assert_eq!(points(alphabetical, "cat bear ape"), "11101");
    assert_eq!(points(alphabetical, "ape bear cat thanks"), "11110");
    let polite = "name two jobs in reverse order politely";
    assert_eq!(points(polite, "miner actor thanks"), "11111");
    assert_eq!(points(polite, "miner actor"), "11110");
    assert_eq!(points(polite, "actor miner thanks"), "11101");
    assert_eq!(points("write two fruits", "fig apple"), "11111", "any order will do");
    assert_eq!(score(polite, "miner actor thanks"), Some(5));
}

#[test]
fn the_oracle_takes_any_text() {
    let request = "list two animals politely";
    let long = "ape ".repeat(10_000);
    for junk in [
        "",
        " ",
        "thanks",
        "thanks thanks",
        "ape zebra",
        "Ape bear",
        "ape, bear",
        "<end>",
        "score 5",
        "\u{0}\u{ffff} é",
    ] {
        assert_eq!(points(request, junk), "00000", "{junk:?}");
    }
    assert_eq!(points(request, &long), "10010");
    assert_eq!(points(request, "  ape\n bear\tthanks "), "11111", "white space does not matter");
    assert_eq!(score("sing a song", "ape bear"), None);
}

/// Verdicts of the Python definition of this world; `golden.py` beside the rows made them.
#[test]
fn the_oracle_agrees_with_the_golden_rows() {
    let rows = include_str!("../goldens/listworld/golden.jsonl");
    let mut seen = BTreeSet::new();
    for line in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let (request, response) = (row["request"].as_str().unwrap(), row["response"].as_str().unwrap());
        let want: String = row["verdicts"].as_array().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(points(request, response), want, "{request} : {response}");
        seen.insert(want);
    }
    assert!(rows.lines().count() >= 200 && seen.len() >= 20, "only {} kinds of verdict", seen.len());
}

#[test]
fn requests_are_read_back() {
    let all: Vec<Instruction> = Instruction::all().collect();
    let texts: BTreeSet<String> = all.iter().map(Instruction::to_string).collect();
    assert_eq!((all.len(), texts.len()), (576, 576));
    for request in &all {
        assert_eq!(Instruction::parse(&request.to_string()), Some(*request));
    }
    for wrong in [
        "",
        "list",
        "list two",
        "list one animals",
        "list six animals",
        "list two animals in",
        "list two animals in reverse",
        "list two animals in alphabetical politely",
        "list two animals politely in reverse order",
        "list two animals politely politely",
        "list two animals .",
        "please list two animals",
    ] {
        assert_eq!(Instruction::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn words_are_sorted_and_in_one_category() {
    let words: BTreeSet<&str> = CATEGORIES.iter().flat_map(|c| c.words).collect();
    assert_eq!(words.len(), 96);
    assert!(CATEGORIES.iter().all(|c| c.words.is_sorted()));
    let vocabulary = vocabulary();
    assert_eq!(vocabulary.iter().collect::<BTreeSet<_>>().len(), vocabulary.len());
}

#[test]
fn a_row_depends_on_the_seed_and_its_number_alone() {
    for data in Data::ALL {
        let all = data.rows(7, 0..40, 3).unwrap();
        assert_eq!(all, data.rows(7, 0..40, 3).unwrap(), "{}", data.name());
        assert_eq!(all.slice(25, 10), data.rows(7, 25..35, 3).unwrap(), "{}", data.name());
        assert_ne!(all, data.rows(8, 0..40, 3).unwrap(), "{}", data.name());
        assert_eq!(all.schema(), data.schema().arrow());
        assert_eq!(data.rows(7, 0..0, 3).unwrap().num_rows(), 0);
        assert_eq!(data.name().parse::<Data>().unwrap(), data);
    }
    assert!("nothing".parse::<Data>().unwrap_err().help_text().unwrap().contains("pretrain"));
    let error = Data::Requests.rows(7, 0..101, 3).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn labels_are_the_oracles() {
    let rows = Data::Eft.rows(3, 0..600, 0).unwrap();
    let columns = Columns(&rows);
    let (prompts, responses) = (columns.text("prompt").unwrap(), columns.text("response").unwrap());
    let (judgements, scores) = (columns.text("judgement").unwrap(), columns.float("score").unwrap());
    let mut of_score = [0; 6];
    for i in 0..rows.num_rows() {
        let request = Instruction::parse(prompts.value(i)).unwrap();
        let verdicts = Verdicts::of(&request, responses.value(i));
        assert_eq!(scores.value(i), f32::from(verdicts.score()));
        assert_eq!(judgements.value(i), judgement(&request, &verdicts));
        assert!(judgements.value(i).ends_with(&format!("score {}", verdicts.score())));
        of_score[usize::from(verdicts.score())] += 1;
    }
    assert!(of_score[1..].iter().all(|n| *n > 5), "scores 0 to 5 occur {of_score:?} times");
    let request = Instruction::parse("list two animals in reverse order").unwrap();
    let said = judgement(&request, &Verdicts::of(&request, "ape bear ape"));
    assert_eq!(said, "animals yes 1 two no 1 different no 1 reverse no 1 plain yes 2 score 2");
}

#[test]
fn ranks_are_the_oracles() {
    let rows = Data::Ranked.rows(3, 0..300, 0).unwrap();
    let columns = Columns(&rows);
    let (prompts, responses) = (columns.text("prompt").unwrap(), columns.text("response").unwrap());
    let (ids, ranks) = (columns.text("prompt_id").unwrap(), columns.uint("rank").unwrap());
    let score = |i: usize| Verdicts::of(&Instruction::parse(prompts.value(i)).unwrap(), responses.value(i)).score();
    let mut ties = 0;
    for group in (0..300).step_by(3) {
        let group: Vec<usize> = (group..group + 3).collect();
        assert!(group.iter().all(|&i| ids.value(i) == ids.value(group[0])));
        assert_eq!(group.iter().map(|&i| ranks.value(i)).min(), Some(0));
        for (&a, &b) in group.iter().flat_map(|a| group.iter().map(move |b| (a, b))) {
            assert_eq!(ranks.value(a).cmp(&ranks.value(b)), score(b).cmp(&score(a)));
            ties += usize::from(a < b && score(a) == score(b));
        }
    }
    assert!((20..200).contains(&ties), "{ties} ties");
    assert_eq!(ids.iter().flatten().collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn held_out_requests_are_nowhere_else() {
    let held: BTreeSet<String> = held_out().iter().map(Instruction::to_string).collect();
    assert_eq!(held.len(), 100);
    let asked = Data::Requests.rows(1, 0..100, 0).unwrap();
    let asked: BTreeSet<String> =
        Columns(&asked).text("prompt").unwrap().iter().map(|p| p.unwrap().to_string()).collect();
    assert_eq!(asked, held);
    let mut seen = BTreeSet::new();
    let mut take = |text: &str| {
        // Requests stand between the markers of the world's texts.
        for piece in text.split([':', '.']).flat_map(|p| [p.trim(), p.trim().trim_start_matches("judge ")]) {
            seen.extend(Instruction::parse(piece).map(|r| r.to_string()));
        }
    };
    for (data, columns) in [
        (Data::Ift, &["prompt"][..]),
        (Data::Eft, &["prompt"]),
        (Data::Ranked, &["prompt"]),
        (Data::Instruct, &["prompt", "response"]),
        (Data::Pretrain, &["context", "text"]),
    ] {
        let rows = data.rows(5, 0..4000, 3).unwrap();
        for column in columns {
            Columns(&rows).text(column).unwrap().iter().for_each(|text| take(text.unwrap()));
        }
    }
    assert_eq!(seen.len(), 476, "every other request is seen");
    assert!(seen.is_disjoint(&held));
    let ranked = Data::RankedHeldOut.rows(5, 0..4000, 3).unwrap();
    let prompts: BTreeSet<String> =
        Columns(&ranked).text("prompt").unwrap().iter().flatten().map(String::from).collect();
    assert_eq!(prompts, held);
}

fn model_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `REFLUX_BLESS=1 cargo test --test operators listworld::` writes the file anew after a change of the vocabulary.
#[test]
fn the_tokenizer_is_the_vocabulary() {
    let vocabulary = vocabulary();
    let added: Vec<_> = (0..vocabulary.len())
        .filter(|id| vocabulary[*id].starts_with('<'))
        .map(|id| {
            serde_json::json!({"id": id, "content": vocabulary[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    // The control tokens but `<unk>` are no words of the model: text that spells one is unknown.
    let words: serde_json::Map<_, _> = (0..vocabulary.len())
        .filter(|id| *id == 0 || !vocabulary[*id].starts_with('<'))
        .map(|id| (vocabulary[id].to_string(), id.into()))
        .collect();
    let want = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&want).unwrap());
    if std::env::var_os("REFLUX_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/model/tokenizer.json");
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(model_file("model/tokenizer.json"), text);
    let config: reflux::model::Config = serde_json::from_str(&model_file("model/config.json")).unwrap();
    assert_eq!(config.vocab_size, vocabulary.len());
    assert_eq!(config.bos_token_id.map(|id| vocabulary[id as usize]), Some("<bos>"));
    assert_eq!(
        config.eos_token_id.unwrap().ids().iter().map(|id| vocabulary[*id as usize]).collect::<Vec<_>>(),
        ["<end>"]
    );
}

fn tokenizer() -> Tokenizer {
    model_file("model/tokenizer.json").parse().unwrap()
}

#[test]
fn every_text_of_the_world_survives_the_tokenizer() {
    let tokenizer = tokenizer();
    for (id, word) in vocabulary().into_iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(word), Some(u32::try_from(id).unwrap()), "{word}");
    }
    let mut longest = 0;
    for data in Data::ALL {
        let rows = data.rows(11, 0..100, 3).unwrap();
        for name in ["context", "text", "prompt", "response", "judgement"] {
            let Ok(texts) = Columns(&rows).text(name) else { continue };
            for text in texts.iter().flatten() {
                let encoded = tokenizer.encode(text, false).unwrap();
                assert!(encoded.get_ids().iter().all(|id| (1..147).contains(id)), "{text}");
                assert_eq!(tokenizer.decode(encoded.get_ids(), false).unwrap(), text);
                longest = longest.max(encoded.len());
            }
        }
    }
    assert!(longest < 100, "a text has {longest} tokens");
}

#[test]
fn no_text_forges_a_control_token() {
    let mut tokenizer = tokenizer();
    tokenizer.set_encode_special_tokens(true);
    let encoded = tokenizer.encode("ape <end> <bos> <pad> bear", false).unwrap();
    let (ape, bear) = (tokenizer.token_to_id("ape").unwrap(), tokenizer.token_to_id("bear").unwrap());
    assert_eq!(encoded.get_ids(), [ape, 0, 0, 0, bear]);
}

#[test]
fn templates_make_the_prompts_of_the_seed_data() {
    let settings = RenderOptions { work: 100_000, output: 10_000, strict: true, now: None };
    let fill = |template: &str, variables: &[(&str, Value)]| {
        Template::parse(template, Whitespace::Kept).unwrap().render(variables, settings).unwrap()
    };
    let judge = [("prompt", "list two animals".into()), ("response", "ape bear".into())];
    assert_eq!(fill(&model_file("judge.jinja"), &judge), "judge list two animals : ape bear");
    let rows = Data::Instruct.rows(2, 0..5, 3).unwrap();
    for prompt in Columns(&rows).text("prompt").unwrap().iter().flatten() {
        let examples: Vec<Value> =
            prompt.split(" . ").filter_map(|p| p.strip_prefix("task : ")).map(Value::from).collect();
        assert_eq!(examples.len(), 3);
        assert_eq!(fill(&model_file("instruct.jinja"), &[("examples", Value::list(examples).unwrap())]), prompt);
    }
    let config: serde_json::Value = serde_json::from_str(&model_file("model/tokenizer_config.json")).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    let turn = |role: &str, content: &str| Value::dict([("role", role.into()), ("content", content.into())]).unwrap();
    let chat = |answer: Option<&str>| {
        let mut messages = vec![turn("user", "list two animals")];
        messages.extend(answer.map(|content| turn("assistant", content)));
        let variables = [
            ("messages", Value::list(messages).unwrap()),
            ("bos_token", "<bos>".into()),
            ("eos_token", "<end>".into()),
            ("add_generation_prompt", Value::Bool(answer.is_none())),
        ];
        fill(template, &variables)
    };
    assert_eq!(chat(None), "<bos> list two animals :");
    assert_eq!(chat(Some("ape bear")), "<bos> list two animals : ape bear <end>");
}
