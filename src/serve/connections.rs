//! Connections: how many are open, and how long they may be silent.
//!
//! A connection that waits for a request is closed after some time, and at once if another client waits for its place.
//! One that is being answered is closed only if its client stops reading.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use super::api_error::ApiError;
use super::clients::{ClientLimits, ClientPlace, ClientPlaces};
use super::metrics::ConnectionCounts;
use super::race::{First, first};

/// Time until the next try after the system refused to accept a connection.
const PAUSE: Duration = Duration::from_secs(1);
/// Time in which a connection that is refused must have sent its request.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Connections that are told at once why they are refused. Others are closed.
const REFUSALS: usize = 64;
/// Maximum bytes of a request's head, and of what is buffered of a body or a reply.
const MAX_BUFFERED: usize = 64 << 10;

/// Bounds of what clients can hold.
#[derive(Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Maximum number of open connections. Further clients wait until one is closed.
    pub connections: u32,
    /// Maximum numbers of those of one client. Its further ones are refused.
    pub of_client: ClientLimits,
    /// Time in which the head of a request must arrive, from the start of the connection or the reply before.
    pub head_time: Duration,
    /// Time in which the client must take some of a reply.
    pub stall_time: Duration,
}

/// Accepts connections until the server stops, and returns when all of them have ended.
pub(super) async fn serve_connections(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    counts: Arc<ConnectionCounts>,
    stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let (clients, refusals) = (ClientPlaces::new(limits.of_client), Arc::new(Semaphore::new(REFUSALS)));
    // A change closes the connections that wait for a request, and others after their reply.
    let closing = watch::Sender::new(());
    while let First::Left(accepted) = first(listener.accept(), stopped(stopping.clone())).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) if is_of_client(&e) => continue,
            Err(e) => {
                tracing::warn!("no connection can be accepted: {e}; `ulimit -n` shows how many files may be open");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(client) = clients.take(peer.ip()) else {
            counts.refused();
            if let Ok(place) = refusals.clone().try_acquire_owned() {
                let (limits, closing) = (ConnectionLimits { head_time: REFUSAL_TIME, ..limits }, closing.subscribe());
                let connection =
                    ClientConnection { limits, counts: counts.clone(), closing, client: None, _place: place };
                drop(tokio::spawn(connection.serve(stream, Router::new().fallback(too_many))));
            }
            continue;
        };
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                counts.waited();
                closing.send_replace(());
                match first(places.clone().acquire_owned(), stopped(stopping.clone())).await {
                    First::Left(Ok(place)) => place,
                    // The semaphore is never closed.
                    First::Left(Err(_)) | First::Right(()) => break,
                }
            }
        };
        let (counts, closing) = (counts.clone(), closing.subscribe());
        let connection = ClientConnection { limits, counts, closing, client: Some(client), _place: place };
        // Not awaited: it ends with its place.
        drop(tokio::spawn(connection.serve(stream, router.clone())));
    }
    drop(listener);
    closing.send_replace(());
    // Every place is free again when every connection has ended.
    let _ = places.acquire_many(limits.connections).await;
}

/// The reply to a client that has too many connections.
async fn too_many() -> Response {
    let message = "too many connections from this address; send more requests on each, or fewer at once";
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("too_many_connections");
    let mut response = error.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Ends when the server stops.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the server is gone.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Whether accepting failed because the client is gone already.
fn is_of_client(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// An accepted connection.
struct ClientConnection {
    limits: ConnectionLimits,
    counts: Arc<ConnectionCounts>,
    closing: watch::Receiver<()>,
    /// One of its client's; `None` if it is refused.
    client: Option<ClientPlace>,
    /// Free again when the connection has ended.
    _place: OwnedSemaphorePermit,
}

impl ClientConnection {
    /// Serves the connection until its end.
    async fn serve(mut self, stream: TcpStream, router: Router) {
        let _open = self.client.as_ref().map(|_| self.counts.open());
        // Without it, the end of a reply may wait for the client's acknowledgement of its beginning.
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!("a connection is not set to send at once: {e}");
        }
        let limit = self.limits.stall_time;
        let stream = TimedStream { stream, limit, stalled: None, counts: self.counts.clone() };
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.head_time).max_buf_size(MAX_BUFFERED);
        let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut served = pin!(served);
        let ended = match first(served.as_mut(), self.closing.changed()).await {
            First::Left(ended) => ended,
            First::Right(_) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        match ended {
            Err(e) if e.is_timeout() => self.counts.without_head(),
            Err(e) => tracing::debug!("a connection has ended early: {e}"),
            Ok(()) => {}
        }
    }
}

/// A connection that fails when the client takes nothing of a reply for too long.
struct TimedStream {
    stream: TcpStream,
    limit: Duration,
    /// Ends when the client has taken nothing for too long.
    stalled: Option<Pin<Box<Sleep>>>,
    counts: Arc<ConnectionCounts>,
}

impl TimedStream {
    /// Passes on the result of a write. One that has to wait for too long is an error.
    fn in_time(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if stalled.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.counts.stalled();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client does not read its reply")))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(1 << 20);
    const SHORT: Duration = Duration::from_millis(200);
    const ANY: ClientLimits = ClientLimits { remote: u32::MAX, local: u32::MAX };

    /// Runs a server with these limits beside the client.
    fn with_server(limits: ConnectionLimits, client: impl FnOnce(SocketAddr, &ConnectionCounts)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopping) = watch::channel(false);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", axum::routing::get(async || "hello"))
            .route("/long", axum::routing::get(async || "x".repeat(64 << 20)));
        let counts = Arc::<ConnectionCounts>::default();
        let served = runtime.spawn(serve_connections(listener, router, limits, counts.clone(), stopping));
        client(address, &counts);
        stop.send_replace(true);
        // It returns although clients keep connections open.
        runtime.block_on(served).unwrap();
        assert_eq!(counts.snapshot().open, 0);
    }

    fn connect(address: SocketAddr, send: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(send.as_bytes()).unwrap();
        stream
    }

    /// A whole exchange on a connection of its own.
    fn exchange(address: SocketAddr) {
        let mut reply = String::new();
        let mut stream = connect(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.ends_with("hello"), "{reply}");
    }

    /// A connection that was answered once and stays open.
    fn kept_alive(address: SocketAddr) -> TcpStream {
        let mut stream = connect(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut reply = Vec::new();
        while !reply.ends_with(b"hello") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            reply.extend(byte);
        }
        stream
    }

    /// Waits for what happens a moment after the client has seen the end.
    fn until(is_so: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        while !is_so() {
            assert!(std::time::Instant::now() < deadline, "it did not happen");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads to the end, which may be a reset.
    fn rest(stream: &mut TcpStream) -> usize {
        let mut rest = Vec::new();
        // Both are an end of the connection.
        let _ = stream.read_to_end(&mut rest);
        rest.len()
    }

    #[test]
    fn a_head_that_does_not_arrive_gives_its_place_to_others() {
        let limits = ConnectionLimits { connections: 2, of_client: ANY, head_time: SHORT, stall_time: LONG };
        with_server(limits, |address, counts| {
            let mut slow = [connect(address, "GET / HTTP/1.1\r\nHo"), connect(address, "")];
            // It is served when one of the two is closed, which nothing else than their time does.
            exchange(address);
            assert_eq!(slow.each_mut().map(rest), [0, 0]);
            // One without a byte makes room before its time is over.
            until(|| counts.snapshot().without_head >= 1);
        });
    }

    #[test]
    fn a_connection_without_a_request_makes_room_and_ends_with_the_server() {
        let limits = ConnectionLimits { connections: 2, of_client: ANY, head_time: LONG, stall_time: LONG };
        with_server(limits, |address, counts| {
            let mut kept = [kept_alive(address), kept_alive(address)];
            exchange(address);
            assert_eq!(kept.each_mut().map(rest), [0, 0]);
            let counts = counts.snapshot();
            assert_eq!((counts.waited, counts.without_head), (1, 0));
            // The server stops although this one stays open.
            std::mem::forget(kept_alive(address));
        });
    }

    #[test]
    fn a_silent_connection_is_closed_after_a_reply_too() {
        let limits = ConnectionLimits { connections: 2, of_client: ANY, head_time: SHORT, stall_time: LONG };
        with_server(limits, |address, counts| {
            assert_eq!(rest(&mut kept_alive(address)), 0);
            until(|| counts.snapshot().without_head == 1);
        });
    }

    #[test]
    fn a_client_that_does_not_read_gives_its_place_to_others() {
        let limits = ConnectionLimits { connections: 1, of_client: ANY, head_time: LONG, stall_time: SHORT };
        with_server(limits, |address, counts| {
            let mut deaf = connect(address, "GET /long HTTP/1.1\r\nHost: a\r\n\r\n");
            exchange(address);
            assert_eq!(counts.snapshot().stalled, 1);
            assert!(rest(&mut deaf) < 64 << 20);
        });
    }

    #[test]
    fn a_client_with_too_many_connections_is_told_and_others_are_served() {
        let of_client = ClientLimits { remote: 1, local: 2 };
        let limits = ConnectionLimits { connections: 8, of_client, head_time: LONG, stall_time: LONG };
        with_server(limits, |address, counts| {
            let mut kept = vec![kept_alive(address), kept_alive(address)];
            let mut reply = String::new();
            connect(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").read_to_string(&mut reply).unwrap();
            assert!(reply.starts_with("HTTP/1.1 429 ") && reply.contains("too_many_connections"), "{reply}");
            assert!(reply.contains("retry-after: 1") && reply.contains("connection: close"), "{reply}");
            // One that says nothing is closed, and takes no place meanwhile.
            assert_eq!(rest(&mut connect(address, "")), 0);
            assert_eq!((counts.snapshot().refused, counts.snapshot().open), (2, 2));
            kept.pop();
            until(|| counts.snapshot().open == 1);
            until(|| {
                let mut reply = String::new();
                connect(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    .read_to_string(&mut reply)
                    .is_ok_and(|_| reply.ends_with("hello"))
            });
        });
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let limits = ConnectionLimits { connections: 1, of_client: ANY, head_time: LONG, stall_time: LONG };
        with_server(limits, |address, _| {
            let mut long = connect(address, "GET / HTTP/1.1\r\n");
            let line = format!("X-Long: {}\r\n", "x".repeat(1000));
            // The server closes before everything is sent.
            let sent = (0..2 * MAX_BUFFERED / line.len()).all(|_| long.write_all(line.as_bytes()).is_ok());
            let mut reply = String::new();
            let read = long.read_to_string(&mut reply);
            assert!(reply.starts_with("HTTP/1.1 431 ") || read.is_err() || !sent, "{reply}");
            exchange(address);
        });
    }
}
