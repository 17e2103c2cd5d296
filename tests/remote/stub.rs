//! A server that answers as a test wants it to, on threads of the standard library.
//!
//! ```text
//! let stub = Stub::start(|request| match request.nth {
//!     0 => Response::status(503, "{}").header("retry-after", "1"),
//!     _ => Response::json("{\"choices\": []}"),
//! });
//! // … stub.url(), stub.requests(), stub.die(), stub.revive()
//! ```
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number of requests that had arrived before it.
    pub nth: usize,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A reply, and how it is spoiled.
#[derive(Clone, Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Whole,
    Chunked,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    CutChunk(usize),
    /// A piece of the body every so often.
    Slow(Duration),
    /// The connection is closed without a word.
    Reset,
    /// Nothing is sent, and the connection stays open.
    Hang,
    /// The server dies: nobody listens any more, and all connections are closed.
    Die,
}

impl Response {
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        Self { status, headers: Vec::new(), body, delay: Duration::ZERO, end: End::Whole }
    }
    pub fn json(body: impl Into<String>) -> Self {
        Self::status(200, body).header("content-type", "application/json")
    }
    /// A recorded reply: a file of `tests/remote/replies`.
    pub fn recorded(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/remote/replies").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let body = record["body"].as_str().map_or_else(|| record["body"].to_string(), str::to_owned);
        Self::status(u16::try_from(record["status"].as_u64().unwrap()).unwrap(), body)
    }
    pub fn reset() -> Self {
        Self { end: End::Reset, ..Self::status(200, "") }
    }
    pub fn hang() -> Self {
        Self { end: End::Hang, ..Self::status(200, "") }
    }
    /// The server dies at this request, see [`Stub::die`].
    pub fn die() -> Self {
        Self { end: End::Die, ..Self::status(200, "") }
    }
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
    /// Waits before it answers.
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
    pub fn chunked(self) -> Self {
        Self { end: End::Chunked, ..self }
    }
    /// Announces the whole body, and closes the connection after so many bytes of it.
    pub fn cut(self, bytes: usize) -> Self {
        Self { end: End::Cut(bytes), ..self }
    }
    /// Closes the connection within a chunk.
    pub fn cut_chunk(self, bytes: usize) -> Self {
        Self { end: End::CutChunk(bytes), ..self }
    }
    /// Sends a byte of the body every so often.
    pub fn slow(self, every: Duration) -> Self {
        Self { end: End::Slow(every), ..self }
    }
}

type Answer = dyn Fn(&Request) -> Response + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    address: SocketAddr,
    alive: AtomicBool,
    /// Whether the socket is open.
    listening: AtomicBool,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// A server on a free port of this machine. It ends with the process, or when it is told to die.
pub struct Stub(Arc<Shared>);

impl Stub {
    /// Starts a server that answers each request as the function says. It is called on many threads.
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }
    /// Starts a server at an address.
    pub fn start_at(address: &str, answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            address: listener.local_addr().unwrap(),
            alive: AtomicBool::new(true),
            listening: AtomicBool::new(true),
            requests: Mutex::default(),
            connections: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        listen(listener, &shared);
        Self(shared)
    }
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.0.address)
    }
    /// All requests that have arrived, in their order.
    pub fn requests(&self) -> Vec<Request> {
        self.0.requests.lock().unwrap().clone()
    }
    /// Number of requests that have arrived.
    pub fn count(&self) -> usize {
        self.0.requests.lock().unwrap().len()
    }
    /// Most requests that were under way at once.
    pub fn most_in_flight(&self) -> usize {
        self.0.most_in_flight.load(Ordering::SeqCst)
    }
    /// Requests that are under way.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::SeqCst)
    }
    /// Refuses connections from now on, and closes those there are.
    pub fn die(&self) {
        self.0.die();
    }
    /// Whether connections are taken.
    pub fn is_alive(&self) -> bool {
        self.0.alive.load(Ordering::SeqCst)
    }
    /// Listens again at the same address.
    pub fn revive(&self) {
        if !self.0.alive.swap(true, Ordering::SeqCst) {
            let listener = TcpListener::bind(self.0.address).unwrap();
            self.0.listening.store(true, Ordering::SeqCst);
            listen(listener, &self.0);
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.die();
    }
}

impl Shared {
    fn die(&self) {
        if !self.alive.swap(false, Ordering::SeqCst) {
            return;
        }
        // Wakes the listening thread, which then closes its socket. From then on connections are refused.
        drop(TcpStream::connect(self.address));
        while self.listening.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn listen(listener: TcpListener, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if !shared.alive.load(Ordering::SeqCst) {
                break;
            }
            let mut connections = shared.connections.lock().unwrap();
            connections.retain(|c| c.peer_addr().is_ok());
            connections.push(stream.try_clone().unwrap());
            drop(connections);
            let shared = Arc::clone(&shared);
            // An error is a client that went away.
            thread::spawn(move || drop(serve(&shared, stream)));
        }
        drop(listener);
        shared.listening.store(false, Ordering::SeqCst);
    });
}

fn serve(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(shared, &mut reader)? {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let response = (shared.answer)(&request);
        thread::sleep(response.delay);
        shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !reply(shared, &mut stream, &response)? {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn read(shared: &Shared, reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    let mut requests = shared.requests.lock().unwrap();
    let request = Request { nth: requests.len(), method, path, headers, body };
    requests.push(request.clone());
    Ok(Some(request))
}

/// Answers. Returns whether the connection stays open.
fn reply(shared: &Shared, stream: &mut TcpStream, response: &Response) -> std::io::Result<bool> {
    match response.end {
        End::Reset => return Ok(false),
        End::Hang => {
            // Until the client or the stub goes.
            let mut rest = [0; 64];
            while stream.read(&mut rest)? > 0 {}
            return Ok(false);
        }
        End::Die => {
            shared.die();
            return Ok(false);
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} Text\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let body = &response.body;
    let chunked = matches!(response.end, End::Chunked | End::CutChunk(_));
    match chunked {
        true => head += "transfer-encoding: chunked\r\n\r\n",
        false => head += &format!("content-length: {}\r\n\r\n", body.len()),
    }
    let mut message = head.into_bytes();
    match response.end {
        End::Chunked => {
            for piece in body.chunks(7) {
                message.extend(format!("{:x}\r\n", piece.len()).bytes());
                message.extend(piece);
                message.extend(b"\r\n");
            }
            message.extend(b"0\r\n\r\n");
        }
        End::CutChunk(bytes) => {
            message.extend(format!("{:x}\r\n", body.len()).bytes());
            message.extend(&body[..bytes]);
        }
        End::Cut(bytes) => message.extend(&body[..bytes]),
        End::Slow(every) => {
            stream.write_all(&message)?;
            for byte in body {
                stream.write_all(&[*byte])?;
                thread::sleep(every);
            }
            return Ok(true);
        }
        _ => message.extend(body),
    }
    stream.write_all(&message)?;
    Ok(!matches!(response.end, End::Cut(_) | End::CutChunk(_)))
}
