//! The scripted engine.

use std::time::{Duration, Instant};

use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{Engine, Finish, Message, Request, Sampling, scripted};
use reflux::error::ErrorKind;

const SCRIPT: &str = r#"
vocab_size = 100

[[answer]]
match = "Score: N"
text = ["It is fair.\nScore: {score}", "Off topic.\nScore: {score}"]

[[answer]]
starts_with = "Come up with"
text = "Write about the number {n}."

[[answer]]
match = "say it"
text = ["  one two three  ", "four five  six"]
"#;

fn request(text: &str, key: u32) -> Request {
    let messages = vec![Message::new("system", "be brief"), Message::new("user", text)];
    Request { messages, sampling: Sampling::default(), key: RngKey::new(1, "t", 0, "", key) }
}

#[test]
fn it_plays_prompt_writer_answerer_and_judge() {
    let e = scripted(SCRIPT).unwrap();
    assert!(e.id().starts_with("script:") && e.id() != scripted("answer = []").unwrap().id());
    let roles = ["Come up with a task", "please say it", "... Score: N ...", "no rule fits this"];
    let requests: Vec<Request> = (0..400).map(|i| request(roles[i as usize % 4], i)).collect();
    let answers = e.generate(requests.clone(), &CancelFlag::new()).unwrap();
    assert_eq!(answers, e.generate(requests.clone(), &CancelFlag::new()).unwrap());
    // What a request gets does not depend on where it stands.
    let mut turned = e.generate(requests.into_iter().rev().collect(), &CancelFlag::new()).unwrap();
    turned.reverse();
    assert_eq!(answers, turned);
    let texts = |role: usize| -> std::collections::BTreeSet<String> {
        answers.iter().skip(role).step_by(4).map(|a| a.as_ref().unwrap().text.clone()).collect()
    };
    assert!(texts(0).len() > 95, "prompts differ");
    assert_eq!(texts(1).into_iter().collect::<Vec<_>>(), ["  one two three  ", "four five  six"]);
    let scores: std::collections::BTreeSet<String> =
        texts(2).iter().map(|t| t.split("Score: ").nth(1).unwrap().to_owned()).collect();
    assert_eq!(scores.into_iter().collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
    for (i, a) in answers.iter().enumerate() {
        match a {
            Ok(c) => {
                assert_eq!((c.tokens.len(), c.finish), (c.logprobs.len(), Finish::Stop));
                assert!(!c.tokens.is_empty() && c.tokens.iter().chain(c.prompt_tokens.iter()).all(|&t| t < 100));
                assert!(c.logprobs.iter().all(|&l| l < 0.));
            }
            Err(e) => assert_eq!((e.code, i % 4), ("no_answer", 3)),
        }
    }
}

#[test]
fn it_keeps_to_max_tokens_and_stop_strings() {
    let e = scripted("answer = [{ text = 'one two three' }]").unwrap();
    let ask = |sampling: Sampling| {
        e.generate(vec![Request { sampling, ..request("x", 0) }], &CancelFlag::new()).unwrap().remove(0).unwrap()
    };
    let c = ask(Sampling { max_tokens: 2, ..Sampling::default() });
    assert_eq!((c.text.as_str(), c.tokens.len(), c.finish), ("one two", 2, Finish::Length));
    let c = ask(Sampling { stop: vec![" th".into()], ..Sampling::default() });
    assert_eq!((c.text.as_str(), c.finish), ("one two", Finish::Stop));
    let blank = e.generate(vec![request(" ", 0)], &CancelFlag::new()).unwrap();
    assert_eq!(blank[0].as_ref().unwrap_err().code, "empty_prompt");
}

#[test]
fn latency_can_be_cancelled() {
    let e = scripted("per_call_ms = 3600000\nanswer = [{ text = 'x' }]").unwrap();
    let cancel = CancelFlag::new();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| e.generate(vec![request("x", 0)], &cancel));
        std::thread::sleep(Duration::from_millis(20));
        cancel.set();
        assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    let e = scripted("per_call_ms = 10\nper_request_ms = 5\nanswer = [{ text = 'x' }]").unwrap();
    let start = Instant::now();
    e.generate(vec![request("x", 0), request("x", 1)], &CancelFlag::new()).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_wrong_script_says_what_is_wrong() {
    for (script, want) in [
        ("answer = [{ text = [] }]", "empty list"),
        ("per_call_ms = -1\nanswer = []", "between 0 and"),
        ("per_call_ms = nan\nanswer = []", "between 0 and"),
        ("vocab_size = 0\nanswer = []", "at least 1"),
        ("answers = []", "unknown field"),
        ("answer = [{ text = 'x', matches = 'y' }]", "unknown field"),
        ("answer = [{ match = 'y' }]", "text"),
        ("", "answer"),
    ] {
        let error = scripted(script).err().expect("the script is wrong");
        assert!(error.kind() == ErrorKind::User && error.to_string().contains(want), "{script}: {error}");
    }
}
