use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray};

use super::*;
use crate::data::Epoch;
use crate::data::List;
use crate::dataflow::Event;
use crate::report::inspect::show::width as places;

/// A loop of two iterations: prompts before it; answers, scores and a training in it.
fn outline() -> PlanOutline {
    let step = |name: &str, inputs: &[&str], in_loop: bool, iterations: u32| StepOutline {
        name: name.to_owned(),
        inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
        in_loop,
        iterations,
        scale: (name == "scores").then_some((0., 5.)),
    };
    PlanOutline {
        steps: vec![
            step("prompts", &[], false, 1),
            step("responses", &["prompts"], true, 2),
            step("scores", &["responses"], true, 2),
            step("dpo", &[], true, 2),
        ],
        iterations: 2,
    }
}

/// A run that a test scripts step by step.
struct Script {
    state: ProgressState,
    now: f64,
}

impl Script {
    fn new() -> Self {
        let mut script = Self { state: ProgressState::new(outline()), now: 0. };
        for (step, iterations, microbatches) in
            [("prompts", 1, None), ("responses", 2, None), ("scores", 2, None), ("dpo", 2, Some(1))]
        {
            script.tell(&Event::Planned { step, iterations, microbatches });
        }
        script
    }
    fn tell(&mut self, event: &Event<'_>) {
        self.state.event(Duration::from_secs_f64(self.now), event);
    }
    fn start(&mut self, step: &str, iteration: u32, microbatch: u32) {
        self.tell(&Event::Started { step, epoch: Epoch::new(iteration, microbatch) });
    }
    fn done(&mut self, step: &str, iteration: u32, microbatch: u32, rows: usize, restored: bool) {
        let (epoch, zero) = (Epoch::new(iteration, microbatch), Duration::ZERO);
        self.tell(&Event::Done { step, epoch, rows, errors: 0, bytes: 1, began: zero, busy: zero, restored });
    }
    /// Runs one job that takes `seconds`.
    fn job(&mut self, step: &str, iteration: u32, microbatch: u32, rows: usize, seconds: f64) {
        self.start(step, iteration, microbatch);
        self.now += seconds;
        self.done(step, iteration, microbatch, rows, false);
    }
    /// Two microbatches of prompts, then the end of the source.
    fn prompts(&mut self) {
        self.job("prompts", 0, 0, 8, 0.5);
        self.job("prompts", 0, 1, 8, 0.5);
        self.tell(&Event::Ended { step: "prompts", epoch: Epoch::new(0, 2) });
    }
    fn left(&mut self) -> TimeLeft {
        self.state.observe(Duration::from_secs_f64(self.now), None, None);
        self.state.left()
    }
    fn seconds(&mut self) -> f64 {
        match self.left() {
            TimeLeft::Seconds(s) => s,
            other => panic!("{other:?}"),
        }
    }
    fn measured(&mut self, done: usize, planned: usize, loss: f64) {
        let (step, epoch) = ("dpo", Epoch::new(1, 0));
        let values = [
            ("step", Some(done as f64)),
            ("loss", Some(loss)),
            ("num_tokens", Some(100. * done as f64)),
            ("rewards/margins", Some(0.25)),
            ("rewards/accuracies", Some(0.75)),
            ("eval_loss", None),
        ];
        self.tell(&Event::Measured { step, epoch, values: &values });
        self.tell(&Event::Within { step, epoch, done, planned, unit: "steps" });
    }
    fn screen(&self, width: usize) -> Vec<String> {
        text(self.state.screen(Duration::from_secs_f64(self.now), width, 24))
    }
}

/// The text of the lines without colours.
fn text(lines: Vec<Vec<Piece>>) -> Vec<String> {
    lines.into_iter().map(|line| line.into_iter().map(|piece| piece.text).collect()).collect()
}

fn unknown(steps: &[&str]) -> TimeLeft {
    TimeLeft::Unknown(steps.iter().map(|s| (*s).to_owned()).collect())
}

/// Judged answers to one prompt, each with a score or without one.
fn judged(scores: &[Option<f32>], response: &str) -> RecordBatch {
    let n = scores.len();
    let outcome = |s: &Option<f32>| if s.is_some() { "score" } else { "no_match" };
    let said: Vec<Vec<(String, String, Option<f32>)>> =
        scores.iter().map(|s| vec![("It is short. Score: 4".to_owned(), outcome(s).to_owned(), *s)]).collect();
    let text = |t: &str| -> ArrayRef { Arc::new(StringArray::from(vec![t; n])) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("prompt", text("list three\nanimals")),
        ("response", text(response)),
        ("score", Arc::new(Float32Array::from(scores.to_vec()))),
        ("judgements", List::of_judgements(&said)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

#[test]
fn time_left_is_unknown_until_every_step_has_been_timed() {
    let mut run = Script::new();
    assert_eq!(run.left(), unknown(&["prompts", "responses", "scores", "dpo"]));
    run.prompts();
    assert_eq!(run.left(), unknown(&["responses", "scores", "dpo"]), "none of them has run");
    run.job("responses", 1, 0, 32, 10.);
    run.job("scores", 1, 0, 32, 20.);
    assert_eq!(run.left(), unknown(&["dpo"]));
    run.job("responses", 1, 1, 32, 10.);
    run.job("scores", 1, 1, 32, 20.);
    run.start("dpo", 1, 0);
    run.now += 3.;
    run.measured(1, 10, 0.7);
    assert_eq!(run.left(), unknown(&["dpo"]), "one step of a training does not show how long a step takes");
    run.now += 2.;
    run.measured(2, 10, 0.6);
    // 8 steps of 2 s remain; then answers take 2 x 10 s, scores 2 x 20 s, and a training 3 + 2 + 16 s.
    assert!((run.seconds() - (16. + 20. + 40. + 21.)).abs() < 1e-9, "{:?}", run.left());
    run.now += 1.;
    assert!((run.seconds() - (15. + 20. + 40. + 21.)).abs() < 1e-9, "the clock runs between steps: {:?}", run.left());
}

#[test]
fn jobs_that_run_at_once_share_the_time() {
    let mut run = Script::new();
    run.prompts();
    // Two jobs at once take 10 s, so each is charged 5 s.
    run.start("responses", 1, 0);
    run.start("scores", 1, 0);
    run.now += 10.;
    run.done("responses", 1, 0, 32, false);
    run.done("scores", 1, 0, 32, false);
    run.job("dpo", 1, 0, 1, 7.);
    // Three microbatches remain of 5 s each, and a training of 7 s.
    assert!((run.seconds() - 37.).abs() < 1e-9, "{:?}", run.left());
}

#[test]
fn what_overruns_is_never_done_in_no_time() {
    let mut run = Script::new();
    run.prompts();
    for iteration in 1..=2 {
        for microbatch in 0..2 {
            run.job("responses", iteration, microbatch, 32, 1.);
            run.job("scores", iteration, microbatch, 32, 1.);
        }
        if iteration == 1 {
            run.job("dpo", 1, 0, 1, 5.);
        }
    }
    run.start("dpo", 2, 0);
    run.now += 50.;
    assert!((run.seconds() - 5.).abs() < 1e-9, "a tenth of what it has taken");
    assert_eq!(duration(0.), "1s");
    assert_eq!(duration(0.2), "1s");
    run.done("dpo", 2, 0, 1, false);
    assert_eq!(run.left(), TimeLeft::Nothing);
    assert!(run.screen(80).last().unwrap().starts_with("after the loop"), "{:?}", run.screen(80));
}

#[test]
fn restored_microbatches_tell_nothing_of_the_time() {
    let mut run = Script::new();
    run.prompts();
    for step in ["responses", "scores", "dpo"] {
        run.start(step, 1, 0);
        run.done(step, 1, 0, 8, true);
    }
    assert_eq!(run.left(), unknown(&["responses", "scores", "dpo"]));
    assert!(run.state.step_words("responses", 1).ends_with("8 rows, restored"));
}

#[test]
fn durations_are_read_by_people() {
    let shown = [1., 59.1, 60., 250., 3599., 7500., 86_400., 270_000.].map(duration);
    assert_eq!(shown, ["1s", "1m 00s", "1m 00s", "4m 10s", "59m 59s", "2h 05m", "1d 0h", "3d 3h"]);
}

/// A model on servers that has written this many tokens.
fn on_servers(generated_tokens: u64) -> ServerReading {
    ServerReading {
        model: "far".to_owned(),
        requests: 340,
        in_flight: 12,
        retries: 2,
        prompt_tokens: 3400,
        cached_prompt_tokens: Some(1530),
        generated_tokens,
        cost: Some(0.012_34),
    }
}

/// A run in the middle of its first training, with everything that can be shown.
fn busy() -> Script {
    let mut run = Script::new();
    run.prompts();
    for microbatch in 0..2 {
        run.job("responses", 1, microbatch, 32, 10.);
        run.start("scores", 1, microbatch);
        run.now += 20.;
        let rows = judged(&[Some(4.), Some(4.5), None, Some(1.)], "cat\u{1b}[2J dog \u{202e}cow");
        run.tell(&Event::Rows { step: "scores", epoch: Epoch::new(1, microbatch), rows: &rows });
        run.done("scores", 1, microbatch, 32, false);
    }
    run.start("dpo", 1, 0);
    for (second, tokens) in [(0, 1000), (1, 1400), (2, 1800)] {
        run.now += f64::from(second.min(1));
        let servers = vec![on_servers(tokens)];
        let engines = EngineReading { sampled_tokens: tokens, servers };
        run.state.observe(Duration::from_secs_f64(run.now), Some(engines), Some(1_234_000_000));
    }
    run.measured(1, 10, 0.7);
    run.now += 2.;
    run.measured(2, 10, 0.61234);
    run
}

#[test]
fn the_screen_says_everything_at_every_width() {
    let run = busy();
    for width in [60, 80, 120] {
        let lines = run.screen(width);
        let text = lines.join("\n");
        for line in &lines {
            assert!(places(line) <= width, "{width}: {} places: {line}", places(line));
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
        for words in [
            "prompts",
            "2/2",
            "responses",
            "2/4",
            "2/10 steps", // bars
            "dpo 1: step 2",
            "loss 0.6123",
            "margin 0.250",
            "accuracy 0.75", // training
            "scores: mean 3.17 of 6",
            "0|",
            "|5",
            "unread 2 of 8 judgements (25%)", // scores
            "12 requests in flight of 340",
            "2 sent again",
            "3400 tokens in (45% cached)",
            "1800 out",
            "cost 0.0123", // servers
            "400 tokens/s sampled",
            "50 tokens/s trained",
            "memory 1.2 GB", // machine
            "list three⏎animals",
            "cat\u{fffd}[2J dog \u{fffd}cow",
            "3.17", // example
            "iteration 1 of 2",
            "dpo",
            "1m 05s",
            "left", // status
        ] {
            assert!(text.contains(words), "{width}: no {words:?} in\n{text}");
        }
        assert!(!text.contains("0s left"), "{text}");
    }
    assert!(run.screen(120).last().unwrap().contains("running dpo"), "{:?}", run.screen(120));
}

/// Each step reads the two before it, so the number of paths to the first step grows exponentially.
#[test]
fn a_long_chain_of_steps_is_counted_in_one_pass() {
    let step = |n: usize| StepOutline {
        name: format!("s{n}"),
        inputs: (n.saturating_sub(2)..n).map(|input| format!("s{input}")).collect(),
        iterations: 1,
        ..StepOutline::default()
    };
    let mut state = ProgressState::new(PlanOutline { steps: (0..120).map(step).collect(), iterations: 0 });
    let now = Duration::from_secs(1);
    assert_eq!(state.microbatches(119), None);
    state.event(now, &Event::Planned { step: "s0", iterations: 1, microbatches: None });
    state.event(now, &Event::Ended { step: "s0", epoch: Epoch::new(0, 7) });
    assert_eq!((state.microbatches(119), state.total(119)), (Some(7), Some(7)));
    let lines = text(state.screen(now, 80, 200));
    assert!(lines.iter().filter(|line| line.contains("0/7")).count() == 120, "{lines:?}");
}

#[test]
fn a_low_terminal_shows_what_runs() {
    let run = busy();
    let lines = text(run.state.screen(Duration::from_secs_f64(run.now), 80, 14));
    assert!(lines.len() <= 12, "{} lines", lines.len());
    let text = lines.join("\n");
    assert!(text.contains("2/10 steps") && text.contains("2 more steps, 1 of them done"), "{text}");
    for height in 0..40 {
        assert!(!run.state.screen(Duration::ZERO, 60, height).is_empty());
    }
}

#[test]
fn a_log_and_json_have_the_same_figures() {
    let run = busy();
    let now = Duration::from_secs_f64(run.now);
    for width in [50, 70, 110, 400] {
        let lines = run.state.status_lines(width);
        let text = lines.join("\n");
        assert!(lines.iter().all(|line| places(line) <= width), "{width}: {text}");
        assert!(width < 400 || lines.len() == 1, "{text}");
        for words in ["iteration 1 of 2", "about 1m 36s left", "loss 0.6123", "mean 3.17 of 6", "memory 1.2 GB"] {
            assert!(text.contains(words), "{width}: no {words:?} in\n{text}");
        }
    }
    assert_eq!(run.state.step_words("scores", 1), "2/2 microbatches, 64 rows, 1.6 rows/s, mean score 3.17");
    assert!(run.state.is_complete("scores", 1) && !run.state.is_complete("scores", 2));
    let words = run.state.training_words("dpo", 2, 10, "steps");
    assert_eq!(words, "2/10 steps, loss 0.6123, margin 0.250, accuracy 0.75");
    let json = run.state.json(now);
    assert_eq!((&json["iteration"], &json["iterations"]), (&1.into(), &2.into()));
    assert_eq!(json["running"], serde_json::json!(["dpo"]));
    assert!((json["seconds_left"].as_f64().unwrap() - 96.).abs() < 1e-6, "{json}");
    let scores = &json["scores"][0];
    assert_eq!((&scores["scored"], &scores["unread"], &scores["judgements"]), (&6.into(), &2.into(), &8.into()));
    assert_eq!(scores["histogram"], serde_json::json!([0, 0, 2, 0, 0, 0, 0, 0, 2, 2]));
    assert_eq!(json["training"]["metrics"]["loss"], 0.61234);
    assert_eq!(json["sample"]["score"], 4.0);
    assert_eq!(json["memory_bytes"], 1_234_000_000);
    let before = Script::new().state.json(Duration::ZERO);
    assert!(before["seconds_left"].is_null() && before["unknown_until"][0] == "prompts", "{before}");
}

#[test]
fn the_example_stays_a_while() {
    let mut run = Script::new();
    let mut show = |seconds: f64, response: &str| {
        run.now += seconds;
        let rows = judged(&[None, Some(2.)], response);
        run.tell(&Event::Rows { step: "scores", epoch: Epoch::new(1, 0), rows: &rows });
        run.state.sample_lines(80)[1].clone()
    };
    assert_eq!(show(0., "first"), "      answer first");
    assert_eq!(show(19., "second"), "      answer first");
    assert_eq!(show(1., "third"), "      answer third");
}

#[test]
fn servers_that_say_nothing_of_a_cache_or_a_price_show_none() {
    let mut run = Script::new();
    let told = |generated_tokens, requests| ServerReading {
        model: "far".to_owned(),
        requests,
        generated_tokens,
        prompt_tokens: 10 * requests,
        ..ServerReading::default()
    };
    for (now, tokens) in [(1., 0), (2., 40), (3., 80)] {
        run.now = now;
        let servers = vec![told(tokens, 1 + tokens / 8)];
        let engines = EngineReading { sampled_tokens: tokens, servers };
        run.state.observe(Duration::from_secs_f64(now), Some(engines), None);
    }
    let text = run.screen(100).join("\n");
    assert!(text.contains("far: 0 requests in flight of 11, 110 tokens in, 80 out, 40 tokens/s\n"), "{text}");
    let json = run.state.json(Duration::from_secs_f64(3.));
    let far = &json["servers"][0];
    assert_eq!((&far["generated_tokens_per_second"], &far["requests"]), (&40.0.into(), &11.into()), "{json}");
    assert!(far["cached_prompt_tokens"].is_null() && far["cost"].is_null(), "{json}");
    // Two servers of one model, of which one counts its cache.
    let mut sum = told(5, 1);
    sum.add(&ServerReading { cached_prompt_tokens: Some(3), cost: Some(0.5), ..told(7, 2) });
    assert_eq!((sum.requests, sum.generated_tokens, sum.cached_prompt_tokens), (3, 12, Some(3)));
    assert_eq!(sum.cost, Some(0.5));
}
