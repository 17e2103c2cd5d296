//! Requests and replies when all goes well, limits, stops and what is final at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reflux::cancel::CancelFlag;
use reflux::engine::remote::transport::{Call, Endpoint, Fault, Reply, Secret, Transport, TransportConfig};
use reflux::error::{Error, ErrorKind, Result};

use crate::stub::{Response, Stub};

pub const OK: &str = r#"{"choices": [{"text": "yes"}]}"#;

pub fn config(stubs: &[&Stub]) -> TransportConfig {
    TransportConfig {
        endpoints: stubs.iter().map(|stub| Endpoint::new(&stub.url()).unwrap()).collect(),
        key: None,
        max_in_flight: 32,
        row_budget: Duration::from_secs(60),
        request_timeout: Duration::from_secs(20),
        max_body: 1 << 20,
    }
}

pub fn calls(count: usize) -> Vec<Call> {
    let call = |i: usize| Call {
        path: "/completions",
        body: format!(r#"{{"prompt": "{i}"}}"#).into(),
        affinity: i as u64 % 7,
    };
    (0..count).map(call).collect()
}

/// Sends calls and returns what each was settled with. Fails if one is settled twice.
pub fn send(transport: &Transport, calls: Vec<Call>) -> Vec<std::result::Result<Reply, Fault>> {
    let count = calls.len();
    let mut settled = BTreeMap::new();
    let done = &mut |i, result| {
        assert!(settled.insert(i, result).is_none(), "row {i} is settled twice");
        Ok(())
    };
    transport.send(calls, &CancelFlag::new(), done).unwrap();
    assert_eq!(settled.len(), count);
    settled.into_values().collect()
}

/// The code and message of the one row's fault.
pub fn fault(config: TransportConfig) -> (&'static str, String) {
    let transport = Transport::new(config).unwrap();
    match send(&transport, calls(1)).pop().unwrap() {
        Err(Fault::Row { code, message }) => (code, message),
        Err(Fault::Stop(error)) => panic!("stopped: {error}"),
        Ok(reply) => panic!("answered: {reply:?}"),
    }
}

#[test]
fn every_call_has_its_own_reply() {
    let stub = Stub::start(|request| Response::json(format!(r#"{{"echo": {}}}"#, request.body)).chunked());
    let other = Stub::start(|request| Response::json(format!(r#"{{"echo": {}}}"#, request.body)));
    let transport = Transport::new(config(&[&stub, &other])).unwrap();
    for (i, result) in send(&transport, calls(500)).into_iter().enumerate() {
        let reply = result.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body, format!(r#"{{"echo": {{"prompt": "{i}"}}}}"#));
    }
    assert_eq!(stub.count() + other.count(), 500);
    assert!(stub.count() > 50 && other.count() > 50, "{} and {}", stub.count(), other.count());
    let request = &stub.requests()[0];
    assert_eq!((&*request.method, &*request.path), ("POST", "/v1/completions"));
    assert_eq!(request.headers["content-type"], "application/json");
    assert!(!request.headers.contains_key("authorization"));
    let counters = transport.counters();
    assert_eq!(counters.iter().map(|c| c.answered).sum::<u64>(), 500);
    assert_eq!(counters[0].requests as usize, stub.count());
    assert!(counters.iter().all(|c| c.in_flight == 0 && c.alive && c.retries == 0 && c.seconds > 0.), "{counters:?}");
    assert!(send(&transport, Vec::new()).is_empty());
}

#[test]
fn recorded_errors_are_final_at_once() {
    for (name, code, words) in [
        ("vllm-prompt-too-long.json", "prompt_too_long", "maximum context length is 128 tokens"),
        ("llama-prompt-too-long.json", "prompt_too_long", "exceeds the available context size (256 tokens)"),
        ("vllm-bad-temperature.json", "bad_request", "temperature must be non-negative"),
        ("tserve-unknown-field.json", "bad_request", "Unexpected fields in the request: {'no_such_field'}"),
    ] {
        let stub = Stub::start(move |_| Response::recorded(name));
        let (got, message) = fault(config(&[&stub]));
        assert_eq!(got, code, "{name}");
        assert!(message.contains(words) && message.starts_with(&stub.url()), "{message}");
        assert_eq!(stub.count(), 1, "{name}");
    }
}

#[test]
fn one_bad_prompt_fails_alone() {
    let stub = Stub::start(|request| match request.body.contains("\"7\"") {
        true => Response::recorded("vllm-prompt-too-long.json"),
        false => Response::json(OK),
    });
    let results = send(&Transport::new(config(&[&stub])).unwrap(), calls(50));
    let failed: Vec<usize> = (0..50).filter(|i| results[*i].is_err()).collect();
    assert_eq!(failed, [7]);
    assert_eq!(stub.count(), 50);
}

/// Sends one call with a key, and returns the error that stops the run.
fn stopped(answer: fn(&str) -> Response) -> Error {
    let stub = Stub::start(move |request| answer(&request.headers["authorization"]));
    let key = Some(Secret::new("sk-very-secret"));
    let transport = Transport::new(TransportConfig { key, ..config(&[&stub]) }).unwrap();
    let mut seen = 0;
    let error = transport.send(calls(100), &CancelFlag::new(), &mut |_, result| {
        seen += 1;
        match result {
            Err(Fault::Stop(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(seen, 1);
    error.unwrap_err()
}

#[test]
fn a_wrong_key_path_or_address_stops_with_what_to_do_and_never_shows_the_key() {
    let error = stopped(|key| Response::status(401, format!(r#"{{"error": {{"message": "no: {key}"}}}}"#)));
    assert_eq!(error.kind(), ErrorKind::User);
    assert!(error.to_string().ends_with("401 Unauthorized: no: Bearer ***"), "{error}");
    assert!(error.help_text().unwrap().contains("`key`"));
    let error = stopped(|_| Response::recorded("vllm-unknown-model.json"));
    assert!(error.help_text().unwrap().contains("`name`"), "{error:?}");
    let error = stopped(|_| Response::recorded("llama-unknown-path.json"));
    assert!(error.help_text().unwrap().contains("/v1"), "{error:?}");
    let error = stopped(|key| Response::status(307, "").header("location", &format!("http://other/{key}")));
    assert!(error.to_string().contains("redirects to http://other/Bearer ***"), "{error}");
    let config =
        TransportConfig { key: Some(Secret::new("sk\nbad")), ..config(&[&Stub::start(|_| Response::reset())]) };
    assert!(!format!("{config:?}").contains("sk"), "{config:?}");
    let error = Transport::new(config).err().unwrap();
    assert!(!error.to_string().contains("bad"), "{error}");
}

#[test]
fn control_characters_of_a_server_are_shown() {
    let stub = Stub::start(|_| Response::status(400, format!("\u{1b}[2J{}", "x".repeat(10_000))));
    let (_, message) = fault(config(&[&stub]));
    assert!(message.contains("\\u{1b}[2J") && message.len() < 500, "{message}");
}

#[test]
fn a_stop_ends_it_at_once_and_keeps_what_has_come() {
    let stub = Stub::start(|request| match request.nth {
        0 => Response::json(OK),
        _ => Response::hang(),
    });
    let transport = Transport::new(config(&[&stub])).unwrap();
    let cancel = CancelFlag::new();
    let (mut replies, mut at) = (0, None);
    let flag = cancel.clone();
    let result: Result<()> = transport.send(calls(1000), &cancel, &mut |_, result| {
        replies += usize::from(result.is_ok());
        flag.set();
        at = Some(Instant::now());
        Ok(())
    });
    let waited = at.unwrap().elapsed();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(replies, 1);
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    while transport.counters()[0].in_flight > 0 {
        std::thread::yield_now();
    }
    assert!(stub.count() < 1000);
}

#[test]
fn an_error_of_done_ends_it() {
    let stub = Stub::start(|_| Response::json(OK));
    let transport = Transport::new(config(&[&stub])).unwrap();
    let mut seen = 0;
    let result = transport.send(calls(1000), &CancelFlag::new(), &mut |_, _| {
        seen += 1;
        if seen == 10 { Err(Error::system("the disk is full")) } else { Ok(()) }
    });
    assert_eq!(result.unwrap_err().to_string(), "the disk is full");
    // Those that had come are handed over; none is waited for, and none is sent any more.
    while transport.counters()[0].in_flight > 0 {
        std::thread::yield_now();
    }
    assert!(seen >= 10 && stub.count() < 1000, "{seen} of {}", stub.count());
}

#[test]
fn paths_of_the_server_are_asked_once() {
    let stub = Stub::start(|request| match &*request.path {
        "/v1/models" => Response::json(r#"{"data": []}"#),
        _ => Response::status(404, "nothing"),
    });
    let transport = Transport::new(config(&[&stub])).unwrap();
    let cancel = CancelFlag::new();
    let reply = transport.get(0, "/v1/models", &cancel).unwrap();
    assert_eq!((reply.status, &*reply.body), (200, &br#"{"data": []}"#[..]));
    assert_eq!(transport.get(0, "/health", &cancel).unwrap().status, 404);
    stub.die();
    // A connection that was kept open may be found closed at first.
    let errors = [(); 2].map(|()| transport.get(0, "/v1/models", &cancel).unwrap_err());
    assert!(errors[1].to_string().contains("efused"), "{}", errors[1]);
    assert!(errors.iter().all(|error| error.help_text().is_some()), "{errors:?}");
    let hanging = Stub::start(|_| Response::hang());
    let transport = Transport::new(config(&[&hanging])).unwrap();
    cancel.set();
    assert_eq!(transport.get(0, "/v1/models", &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn no_proxy_stands_between_this_machine_and_itself() {
    let this = std::env::current_exe().unwrap();
    let proxy = "http://127.0.0.1:9";
    let mut test = std::process::Command::new(this);
    test.args(["--exact", "transport::one_bad_prompt_fails_alone"]).env_remove("NO_PROXY").env_remove("no_proxy");
    let output = test.env("HTTP_PROXY", proxy).env("http_proxy", proxy).env("ALL_PROXY", proxy).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn limits_without_a_limit_are_taken() {
    let stub = Stub::start(|request| match request.nth {
        0 => Response::status(503, "").header("retry-after", "0"),
        _ => Response::json(OK),
    });
    let transport = Transport::new(TransportConfig {
        max_in_flight: usize::MAX,
        row_budget: Duration::MAX,
        request_timeout: Duration::MAX,
        max_body: usize::MAX,
        ..config(&[&stub, &stub])
    });
    assert!(send(&transport.unwrap(), calls(20)).iter().all(|result| result.is_ok()));
}

#[test]
fn the_level_rises_to_the_ceiling_and_threads_share_it() {
    let stub = Stub::start(|_| Response::json(OK).delay(Duration::from_millis(20)));
    let transport = Arc::new(Transport::new(TransportConfig { max_in_flight: 24, ..config(&[&stub]) }).unwrap());
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let transport = Arc::clone(&transport);
            std::thread::spawn(move || send(&transport, calls(300)).iter().filter(|r| r.is_ok()).count())
        })
        .collect();
    let answered: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!((answered, stub.count()), (900, 900));
    assert!(stub.most_in_flight() <= 24 && stub.most_in_flight() > 8, "{}", stub.most_in_flight());
}

#[test]
fn prompts_with_a_common_head_go_to_one_endpoint() {
    let answer = |_: &_| Response::json(OK).delay(Duration::from_millis(5));
    let (one, other) = (Stub::start(answer), Stub::start(answer));
    let transport = Transport::new(TransportConfig { max_in_flight: 4, ..config(&[&one, &other]) }).unwrap();
    let homes = Mutex::new(BTreeMap::<u64, Vec<usize>>::new());
    let all = calls(700);
    let affinity: Vec<u64> = all.iter().map(|call| call.affinity).collect();
    for (i, result) in send(&transport, all).into_iter().enumerate() {
        homes.lock().unwrap().entry(affinity[i]).or_default().push(result.unwrap().endpoint);
    }
    let at_home: usize = homes.into_inner().unwrap().values().map(|ends| majority(ends)).sum();
    assert!(at_home > 500, "{at_home} of 700");
}

fn majority(ends: &[usize]) -> usize {
    let first = ends.iter().filter(|end| **end == 0).count();
    first.max(ends.len() - first)
}

#[test]
fn replies_that_have_come_are_handed_over_although_one_cannot_be_kept() {
    let stub = Stub::start(|_| Response::json(OK));
    let transport = Transport::new(TransportConfig { max_in_flight: 64, ..config(&[&stub]) }).unwrap();
    let mut handed_over = 0;
    let error = transport.send(calls(64), &CancelFlag::new(), &mut |_, result| {
        assert!(result.is_ok(), "{result:?}");
        handed_over += 1;
        // The others come meanwhile.
        while handed_over == 1 && transport.counters()[0].answered < 64 {
            std::thread::yield_now();
        }
        if handed_over == 1 {
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Error::user(format!("reply {handed_over} cannot be kept")))
    });
    assert_eq!(error.unwrap_err().to_string(), "reply 1 cannot be kept");
    assert_eq!(handed_over, 64, "each is paid for");
}
