//! What a request to a server costs the client: CPU time and memory, against a server that answers at once.
//!
//! ```text
//! cargo bench --profile dev --bench remote                 # or: … --bench remote -- 1000000
//! ```
//! The server is a process of its own, so that its time is not counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reflux::cancel::CancelFlag;
use reflux::engine::remote::transport::{Call, Endpoint, Transport, TransportConfig};

const SERVE: &str = "serve";
/// Calls that are handed over at once, as a microbatch is.
const BATCH: usize = 10_000;

fn main() {
    if std::env::args().any(|a| a == SERVE) {
        return serve();
    }
    let count: usize = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(100_000);
    let this = std::env::current_exe().unwrap();
    let mut server = Command::new(this).arg(SERVE).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let transport = Transport::new(TransportConfig {
        endpoints: vec![Endpoint::new(&format!("http://127.0.0.1:{}/v1", port.trim())).unwrap()],
        key: None,
        max_in_flight: 64,
        row_budget: Duration::from_secs(60),
        request_timeout: Duration::from_secs(60),
        max_body: 1 << 20,
    });
    let transport = transport.unwrap();
    let ids: String = (0..200).map(|id| format!("{},", id * 37)).collect();
    let body =
        bytes::Bytes::from(format!("{{\"model\": \"m\", \"prompt\": [{ids}1], \"max_tokens\": 64, \"seed\": 1}}"));
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let mut sent = 0;
    while sent < count {
        let now = BATCH.min(count - sent);
        let call = |i: usize| Call { path: "/completions", body: body.clone(), affinity: i as u64 % 16 };
        let mut answered = 0;
        let done = &mut |_, reply: Result<_, _>| {
            answered += usize::from(reply.is_ok());
            Ok(())
        };
        transport.send((0..now).map(call).collect(), &CancelFlag::new(), done).unwrap();
        assert_eq!(answered, now);
        sent += now;
        if sent == now || sent == count {
            println!("{sent} requests: {} KiB of memory", memory_kib());
        }
    }
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{:.0} requests a second", count as f64 / wall);
    println!("{:.3} ms of CPU time a request", cpu * 1e3 / count as f64);
    server.kill().unwrap();
    server.wait().unwrap();
}

/// CPU time of this process, in user and system mode.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks: Vec<u64> = after_name.split_whitespace().skip(11).take(2).map(|t| t.parse().unwrap()).collect();
    // Linux counts them in hundredths of a second.
    (ticks[0] + ticks[1]) as f64 / 100.
}

fn memory_kib() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4
}

fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || drop(answer(stream)));
    }
}

/// Answers requests of one connection as a server of completions does.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let ids: String = (0..63).map(|id| format!("{id},")).collect();
    let body =
        format!("{{\"choices\": [{{\"index\": 0, \"text\": \"{}\", \"token_ids\": [{ids}1]}}]}}", "word ".repeat(64));
    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
                Some(_) => {}
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        stream.write_all(reply.as_bytes())?;
    }
}
