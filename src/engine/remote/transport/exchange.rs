//! One HTTP exchange: a request is sent, and what comes back is read whole and bounded.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, redirect};

use super::endpoint::Endpoint;
use crate::error::{Error, Result};

/// Longest body of an error that is read.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Within this time a connection is made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Unused connections are closed after this time. uvicorn closes them after five seconds, and a request that is sent at
/// that moment is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// An idle connection is probed after this time, so that a host that went away is noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a server sent.
pub(super) struct Received {
    pub status: u16,
    pub body: Bytes,
    pub retry_after: Option<String>,
    pub location: Option<String>,
}

/// Why nothing whole came back.
pub(super) struct Failure {
    pub kind: FailureKind,
    pub words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No connection could be made.
    Unreachable,
    /// The connection ended before the reply was whole.
    Lost,
    /// The time limit passed.
    Slow,
    /// The reply is longer than allowed.
    TooLong,
    /// The request is malformed.
    Unsendable,
}

impl Failure {
    fn new(kind: FailureKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into() }
    }
}

/// Limits of an exchange.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub time: Duration,
    pub body: usize,
}

/// A client for an endpoint. It follows no redirects, and uses no proxy to reach this machine.
///
/// # Errors
/// TLS cannot be set up.
pub(super) fn client(endpoint: &Endpoint, headers: HeaderMap) -> Result<Client> {
    let client = Client::builder()
        .default_headers(headers)
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .http1_only();
    let client = if endpoint.is_loopback() { client.no_proxy() } else { client };
    client.build().map_err(|e| Error::system(format!("cannot set up HTTP: {}", root(&e))))
}

/// Sends a JSON body to a path below the endpoint's url.
pub(super) async fn post(client: &Client, url: &str, body: Bytes, limits: Limits) -> Result<Received, Failure> {
    within(limits, client.post(url).header(CONTENT_TYPE, "application/json").body(body)).await
}

/// Asks for a url.
pub(super) async fn get(client: &Client, url: &str, limits: Limits) -> Result<Received, Failure> {
    within(limits, client.get(url)).await
}

async fn within(limits: Limits, request: RequestBuilder) -> Result<Received, Failure> {
    let late = |_| {
        let seconds = limits.time.as_secs_f64();
        Failure::new(FailureKind::Slow, format!("no whole reply within {seconds} s"))
    };
    tokio::time::timeout(limits.time, exchange(request, limits.body)).await.map_err(late)?
}

async fn exchange(request: RequestBuilder, max_body: usize) -> Result<Received, Failure> {
    let response = request.send().await.map_err(|e| failure(&e))?;
    let status = response.status().as_u16();
    let headers = response.headers();
    let (retry_after, location) = (header(headers, RETRY_AFTER), header(headers, LOCATION));
    let body = if response.status().is_success() {
        whole_body(response, max_body).await?
    } else {
        first_of_body(response).await
    };
    Ok(Received { status, body, retry_after, location })
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

async fn whole_body(mut response: Response, max: usize) -> Result<Bytes, Failure> {
    let too_long = || Failure::new(FailureKind::TooLong, format!("the reply is longer than {max} bytes"));
    let announced = response.content_length().unwrap_or(0);
    if announced > max as u64 {
        return Err(too_long());
    }
    // Small replies come in one piece, which is not copied.
    let Some(first) = response.chunk().await.map_err(|e| failure(&e))? else { return Ok(Bytes::new()) };
    if first.len() > max {
        return Err(too_long());
    }
    let Some(second) = response.chunk().await.map_err(|e| failure(&e))? else { return Ok(first) };
    let mut body = BytesMut::from(&first[..]);
    let mut next = Some(second);
    while let Some(piece) = next {
        if body.len() + piece.len() > max {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
        next = response.chunk().await.map_err(|e| failure(&e))?;
    }
    Ok(body.freeze())
}

/// The beginning of an error's body: the status counts even if the body is cut.
async fn first_of_body(mut response: Response) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(piece)) = response.chunk().await {
        let room = MAX_ERROR_BODY - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if body.len() == MAX_ERROR_BODY {
            break;
        }
    }
    body.freeze()
}

fn failure(error: &reqwest::Error) -> Failure {
    let kind = if error.is_builder() {
        FailureKind::Unsendable
    } else if error.is_connect() {
        FailureKind::Unreachable
    } else if error.is_timeout() {
        FailureKind::Slow
    } else {
        FailureKind::Lost
    };
    Failure::new(kind, root(error))
}

/// The innermost cause: the layers above it repeat the url and say that sending failed.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
