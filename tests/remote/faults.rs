//! Faults of the transport and of servers: each row is settled once, and no answered row is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reflux::cancel::CancelFlag;
use reflux::engine::remote::transport::{Fault, Transport, TransportConfig};

use crate::stub::{Response, Stub};
use crate::transport::{OK, calls, config, fault, send};

/// Asserts that a row is answered at the third attempt, after two spoiled ones.
fn is_retried(name: &str, spoiled: impl Fn() -> Response + Send + Sync + 'static) {
    let stub = Stub::start(move |request| if request.nth < 2 { spoiled() } else { Response::json(OK) });
    let config = TransportConfig { request_timeout: Duration::from_millis(300), max_body: 100, ..config(&[&stub]) };
    let transport = Transport::new(config).unwrap();
    let results = send(&transport, calls(1));
    assert!(results[0].is_ok(), "{name}: {results:?}");
    assert_eq!((stub.count(), transport.counters()[0].retries), (3, 2), "{name}");
}

/// A reply that is right but for its length.
fn long() -> String {
    format!(r#"{{"choices": [], "text": "{}"}}"#, "1".repeat(100))
}

#[test]
fn what_passes_is_retried() {
    for status in [408, 409, 425, 429, 500, 502, 503, 504] {
        is_retried(&status.to_string(), move || Response::status(status, "{}"));
    }
    is_retried("a reset", Response::reset);
    is_retried("a hanging server", Response::hang);
    is_retried("half a body", || Response::json(OK).cut(9));
    is_retried("half a chunk", || Response::json(OK).cut_chunk(9));
    is_retried("a slow body", || Response::json(OK).slow(Duration::from_millis(40)));
    is_retried("no JSON", || Response::json("<html>"));
    is_retried("a long body", || Response::json(long()));
    is_retried("a long body in chunks", || Response::json(long()).chunked());
    is_retried("loading", || Response::recorded("llama-loading.json"));
    is_retried("a full queue", || Response::recorded("vllm-queue-full.json"));
}

#[test]
fn an_unreadable_reply_is_asked_for_three_times() {
    let stub = Stub::start(|_| Response::json("{\"choices\": \u{1b}"));
    let (code, message) = fault(config(&[&stub]));
    assert_eq!((code, stub.count()), ("bad_reply", 3));
    assert!(!message.contains('\u{1b}'), "{message}");
}

#[test]
fn a_row_ends_with_the_servers_words_when_its_budget_is_spent() {
    let stub = Stub::start(|_| Response::recorded("vllm-queue-full.json"));
    let began = Instant::now();
    let (code, message) = fault(TransportConfig { row_budget: Duration::from_millis(900), ..config(&[&stub]) });
    assert_eq!(code, "server_unavailable");
    assert!(message.contains("503 Service Unavailable: The engine is currently busy"), "{message}");
    assert!(message.ends_with("times within 0.9 s"), "{message}");
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert!((3..=8).contains(&stub.count()), "{}", stub.count());
}

#[test]
fn retry_after_is_honoured_within_the_budget() {
    let stub = Stub::start(|request| match request.nth {
        0 => Response::status(429, "{}").header("retry-after", "1"),
        _ => Response::json(OK),
    });
    let began = Instant::now();
    assert!(send(&Transport::new(config(&[&stub])).unwrap(), calls(1))[0].is_ok());
    assert!(began.elapsed() >= Duration::from_secs(1));
    // A day is longer than the budget: the row is tried at its end, and no later.
    let stub = Stub::start(|_| Response::status(429, "{}").header("retry-after", "86400"));
    let began = Instant::now();
    let (code, _) = fault(TransportConfig { row_budget: Duration::from_millis(600), ..config(&[&stub]) });
    assert_eq!((code, stub.count()), ("server_unavailable", 2));
    assert!(began.elapsed() >= Duration::from_millis(600));
}

#[test]
fn rows_that_nobody_hears_wait_within_their_budget() {
    let stub = Stub::start(|_| Response::json(OK));
    stub.die();
    let transport =
        Transport::new(TransportConfig { row_budget: Duration::from_millis(700), ..config(&[&stub]) }).unwrap();
    for result in send(&transport, calls(300)) {
        let Err(Fault::Row { code, message }) = result else { panic!("{result:?}") };
        assert_eq!(code, "server_unavailable");
        assert!(message.contains("efused"), "{message}");
    }
    // A server that comes back in time answers all of them.
    let transport = Transport::new(config(&[&stub])).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while transport.counters()[0].alive {
                std::thread::yield_now();
            }
            stub.revive();
        });
        assert!(send(&transport, calls(300)).iter().all(|result| result.is_ok()));
    });
    assert_eq!(stub.count(), 300);
}

#[test]
fn a_dead_endpoint_is_left_out() {
    let (dead, alive) = (Stub::start(|_| Response::json(OK)), Stub::start(|_| Response::json(OK)));
    dead.die();
    let transport = Transport::new(config(&[&dead, &alive])).unwrap();
    assert!(send(&transport, calls(400)).iter().all(|result| result.is_ok()));
    let counters = transport.counters();
    assert!(!counters[0].alive && counters[0].deaths == 1, "{counters:?}");
    assert!(counters[0].requests < 40, "{counters:?}");
    assert_eq!(alive.count(), 400);
}

/// Request 3 kills whichever server computes it. The rows next to it are answered all the same.
#[test]
fn a_request_that_kills_two_servers_kills_no_third() {
    let answer = |request: &crate::stub::Request| match request.body.contains("\"3\"") {
        true => Response::die().delay(Duration::from_millis(30)),
        false => Response::json(OK).delay(Duration::from_millis(30)),
    };
    let stubs: Vec<Stub> = (0..3).map(|_| Stub::start(answer)).collect();
    let stubs: Vec<&Stub> = stubs.iter().collect();
    let results = send(&Transport::new(config(&stubs)).unwrap(), calls(60));
    for (i, result) in results.iter().enumerate() {
        match result {
            Err(Fault::Row { code, .. }) => assert_eq!((i, *code), (3, "server_died")),
            other => assert!(i != 3 && other.is_ok(), "{i}: {other:?}"),
        }
    }
    let kills: usize = stubs.iter().flat_map(|stub| stub.requests()).filter(|r| r.body.contains("\"3\"")).count();
    assert_eq!(kills, 2);
}

#[test]
fn rows_that_take_turns_after_a_death_keep_their_budget() {
    // All are in flight when the server dies, and then sent one by one, which takes longer than the budget of one.
    let stub = Stub::start(|request| match request.nth {
        0..7 => Response::hang(),
        7 => Response::die(),
        _ => Response::json(OK).delay(Duration::from_millis(200)),
    });
    let transport = Transport::new(TransportConfig { row_budget: Duration::from_secs(1), ..config(&[&stub]) }).unwrap();
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            while stub.count() < 8 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(700));
            stub.revive();
        });
        send(&transport, calls(8))
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[test]
fn a_request_that_kills_one_server_twice_is_given_up() {
    let stub = Stub::start(|request| match request.body.contains("\"3\"") {
        true => Response::die().delay(Duration::from_millis(30)),
        false => Response::json(OK).delay(Duration::from_millis(30)),
    });
    let transport = Transport::new(config(&[&stub])).unwrap();
    let results = std::thread::scope(|scope| {
        let supervisor = scope.spawn(|| {
            for _ in 0..2 {
                while stub.is_alive() {
                    std::thread::yield_now();
                }
                // Longer than the wait of a row, after which it looks whether the server died.
                std::thread::sleep(Duration::from_secs(1));
                stub.revive();
            }
        });
        let results = send(&transport, calls(40));
        supervisor.join().unwrap();
        results
    });
    let failed: Vec<usize> = (0..40).filter(|i| results[*i].is_err()).collect();
    assert_eq!(failed, [3], "{results:?}");
    assert!(matches!(results[3], Err(Fault::Row { code: "server_died", .. })));
}

/// A spoiled reply, chosen by a number.
fn spoiled(kind: u64) -> Response {
    let body = || Response::json(OK);
    match kind % 12 {
        0 => Response::reset(),
        1 => body().cut(11),
        2 => body().cut_chunk(11),
        3 => Response::status(429, "{}"),
        4 => Response::status(429, "{}").header("retry-after", "0"),
        5 => Response::status(503, "{}").delay(Duration::from_millis(5)),
        6 => Response::status(500, "Internal Server Error"),
        7 => Response::status(502, "<html>bad gateway</html>"),
        8 => Response::status(504, ""),
        9 => Response::status(408, "{}"),
        10 => Response::hang(),
        _ => Response::json("{\"choices\": [{\"te"),
    }
}

#[test]
fn a_thousand_faults_lose_no_row_and_ask_no_answered_one_again() {
    const ROWS: usize = 600;
    let seed = |body: &str, attempt: u64| {
        let bytes = body
            .bytes()
            .fold(attempt.wrapping_mul(0x9e37_79b9), |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        (bytes ^ (bytes >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
    };
    // By row: its attempts so far over all servers, and whether it was answered.
    let rows: &'static Mutex<BTreeMap<String, (u64, bool)>> = Box::leak(Box::default());
    let answer = move |request: &crate::stub::Request| {
        let mut rows = rows.lock().unwrap();
        let (attempts, answered) = rows.entry(request.body.clone()).or_default();
        assert!(!*answered, "{} was answered", request.body);
        *attempts += 1;
        let drawn = seed(&request.body, *attempts);
        // At most four faults a row, and one unreadable reply.
        let kind = if *attempts == 1 { drawn } else { drawn % 11 };
        if *attempts <= 4 && drawn % 100 < 68 {
            return spoiled(kind);
        }
        *answered = true;
        Response::json(format!(r#"{{"echo": {}}}"#, request.body))
    };
    let stubs: Vec<Stub> = (0..8).map(|_| Stub::start(answer)).collect();
    let servers: Vec<&Stub> = stubs.iter().collect();
    let config = TransportConfig { request_timeout: Duration::from_millis(300), ..config(&servers) };
    let transport = Transport::new(config).unwrap();
    for (i, result) in send(&transport, calls(ROWS)).into_iter().enumerate() {
        let reply = result.unwrap_or_else(|fault| panic!("{i}: {fault:?}"));
        assert_eq!(reply.body, format!(r#"{{"echo": {{"prompt": "{i}"}}}}"#));
    }
    let rows = rows.lock().unwrap();
    let asked: usize = rows.values().map(|(attempts, _)| *attempts as usize).sum();
    assert_eq!(rows.len(), ROWS);
    assert_eq!(asked, stubs.iter().map(Stub::count).sum::<usize>());
    assert!(asked - ROWS >= 1000, "only {} faults", asked - ROWS);
    let retries: u64 = transport.counters().iter().map(|c| c.retries).sum();
    assert_eq!(retries as usize, asked - ROWS);
}

#[test]
fn a_server_that_restarts_again_and_again_loses_no_row() {
    let answered: &'static Mutex<BTreeSet<String>> = Box::leak(Box::default());
    let stub = Stub::start(move |request| {
        assert!(answered.lock().unwrap().insert(request.body.clone()), "{} again", request.body);
        Response::json(OK)
    });
    let transport = Transport::new(config(&[&stub])).unwrap();
    for round in 0..5 {
        let from = round * 40;
        let mut calls = calls(from + 40);
        stub.die();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while transport.counters()[0].alive {
                    std::thread::yield_now();
                }
                stub.revive();
            });
            let mut seen = 0;
            let done = &mut |_, result: std::result::Result<_, Fault>| {
                assert!(result.is_ok(), "{result:?}");
                seen += 1;
                Ok(())
            };
            transport.send(calls.split_off(from), &CancelFlag::new(), done).unwrap();
            assert_eq!(seen, 40);
        });
    }
    assert_eq!(stub.count(), 200);
}
