//! The server: connections, the queue of requests, and its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_core::Stream;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};

use super::api_error::ApiError;
use super::clients::ClientLimits;
use super::connections::{ConnectionLimits, serve_connections};
use super::job::{Interface, ServeJob};
use super::loading::{self, ServedModels};
use super::race::{First, first};
use super::serve_options::ServeOptions;
use super::state::{ReadBody, ServerState};
use super::{chat, completions, info, stream, tokens};
use crate::cancel::CancelFlag;
use crate::data::counted;
use crate::engine::TokenEngine;
use crate::error::{Error, ErrorContext, Result};
use crate::threads;

/// Threads that serve connections.
const WORKERS: usize = 2;
/// Maximum bytes of a body.
const MAX_BODY: usize = 8 << 20;
/// A body above the maximum is read up to here and dropped, because many clients read no reply before they have sent
/// their request.
const MAX_DRAINED: usize = 64 << 20;
/// Bound of the bound of the queue.
const MAX_QUEUE: usize = 1 << 16;
/// KiB of bodies that are in memory together.
const BODIES_KIB: usize = 64 << 10;
/// Time in which a body must arrive.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Time in which the head of a request must arrive.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Time in which a client must take some of its reply.
const STALL_TIME: Duration = Duration::from_secs(60);
/// Connections that may be open beside those of the queue, so that a full queue can say so.
const SPARE_CONNECTIONS: usize = 64;
/// Time between two looks at the flag that stops the server.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time that replies have to end when the server stops.
const CLOSING_TIME: Duration = Duration::from_secs(3);
/// Events of a stream that wait for a slow client.
const WAITING_EVENTS: usize = 64;

/// Whether this build can serve models.
///
/// # Errors
/// Never in a build with the feature `servers`.
pub fn available() -> Result<()> {
    Ok(())
}

/// Serves an engine until `stop` is set, and blocks the calling thread. Calls `ready` with the address once clients can
/// connect.
///
/// # Errors
/// The address cannot be listened on, it is not loopback and there is no key, the engine does not say its model's size,
/// or `ready` fails.
pub fn serve(
    engine: Arc<dyn TokenEngine>,
    options: ServeOptions,
    stop: &CancelFlag,
    ready: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let size = engine.size().ok_or_else(|| Error::user("the engine does not say how long its model's context is"))?;
    let max_queue = options.max_queue.clamp(1, MAX_QUEUE);
    let refused = |e| Error::no_thread("the threads of the server", e);
    threads::check_memory(WORKERS, threads::STACK).map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        // A stream has a second thread, which does not belong to the runtime.
        .max_blocking_threads(max_queue.saturating_add(1))
        .thread_name("serve")
        .enable_all()
        .build();
    let runtime = runtime.map_err(refused)?;
    let address = format!("{}:{}", options.host, options.port);
    let listener = std::net::TcpListener::bind((options.host.as_str(), options.port));
    let listener = listener.user(|| format!("cannot listen on {address}"))?;
    let local = listener.local_addr().doing(|| address.clone())?;
    if !local.ip().is_loopback() && options.key.is_none() {
        return Err(Error::user(format!("{local} can be reached from other machines, so a key is required"))
            .help("put a key into an environment variable and name it with --key-env, or use --host 127.0.0.1"));
    }
    listener.set_nonblocking(true).doing(|| address.clone())?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let max_connections = u32::try_from(max_queue + SPARE_CONNECTIONS).unwrap_or(u32::MAX);
    let models = Arc::new(ServedModels::new(
        ServerState {
            engine,
            name: options.name,
            root: options.root,
            parent: None,
            size,
            key: options.key.map(|key| blake3::hash(key.as_bytes())),
            queue: Arc::new(Semaphore::new(max_queue)),
            max_queue,
            max_connections,
            of_client: ClientLimits {
                remote: options.max_per_client.unwrap_or(max_connections.div_ceil(2)),
                // The bound of all connections is theirs.
                local: options.max_per_client.unwrap_or(u32::MAX),
            },
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            parsing: Arc::default(),
            started,
            stopping: watch::Sender::new(false),
            metrics: Arc::default(),
        },
        options.loader,
    ));
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).doing(|| address)?;
        ready(local)?;
        listen(listener, models, stop).await;
        Ok(())
    });
    runtime.shutdown_timeout(CLOSING_TIME);
    served
}

/// Accepts connections until `stop` is set, then lets open replies end.
async fn listen(listener: tokio::net::TcpListener, models: Arc<ServedModels>, stop: &CancelFlag) {
    let state = models.base();
    let limits = ConnectionLimits {
        connections: state.max_connections,
        of_client: state.of_client,
        head_time: HEAD_TIME,
        stall_time: STALL_TIME,
    };
    let (counts, stopping) = (state.metrics.connections.clone(), state.stopping.subscribe());
    let server = serve_connections(listener, router(models), limits, counts, stopping);
    let watch = async {
        while !stop.is_set() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        state.stopping.send_replace(true);
        tokio::time::sleep(CLOSING_TIME).await;
    };
    first(server, watch).await;
}

fn router(models: Arc<ServedModels>) -> Router {
    Router::new()
        .route("/v1/completions", post(|state, request| answer(state, request, Work::Job(completions::job))))
        .route("/v1/chat/completions", post(|state, request| answer(state, request, Work::Job(chat::job))))
        .route("/tokenize", post(|state, request| answer(state, request, Work::Reply(tokens::tokenize))))
        .route("/detokenize", post(|state, request| answer(state, request, Work::Reply(tokens::detokenize))))
        .route(
            "/v1/load_lora_adapter",
            post(|models, request| answer(models, request, Work::Load(loading::load_adapter))),
        )
        .route(
            "/v1/unload_lora_adapter",
            post(|models, request| answer(models, request, Work::Load(loading::unload_adapter))),
        )
        .route(
            "/update_weights_from_disk",
            post(|models, request| answer(models, request, Work::Load(loading::update))),
        )
        .route("/v1/models", get(async |State(models): SharedModels| axum::Json(info::models(&models.all()))))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(async || axum::Json(serde_json::json!({ "status": "ok" }))))
        .route("/metrics", get(async |State(models): SharedModels| info::metrics(&models.all(), models.gone())))
        .fallback(async |request: Request| {
            let message = format!("path `{}` not found", request.uri().path());
            ApiError::new(StatusCode::NOT_FOUND, message).code("path_not_found")
        })
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("{} does not take {}", request.uri().path(), request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_allowed")
        })
        .layer(from_fn_with_state(models.clone(), guard))
        .with_state(models)
}

type SharedModels = State<Arc<ServedModels>>;

async fn model(State(models): SharedModels, axum::extract::Path(name): axum::extract::Path<String>) -> Response {
    match models.named(&name) {
        Some(state) => axum::Json(info::model(&state)).into_response(),
        None => ApiError::no_model(format!("this server has {} only", models.names())).into_response(),
    }
}

/// The path as it is counted.
fn counted_path(path: &str) -> &'static str {
    const PATHS: [&str; 10] = [
        "/v1/completions",
        "/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/health",
        "/metrics",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/update_weights_from_disk",
    ];
    PATHS.into_iter().find(|known| *known == path).unwrap_or("other")
}

/// Checks the key, counts the reply, and ends requests when the server stops.
async fn guard(State(models): SharedModels, request: Request, next: Next) -> Response {
    let state = models.base();
    let path = counted_path(request.uri().path());
    let mut stopping = state.stopping.subscribe();
    let response = if path == "/health" || has_key(&state, &request) {
        let stopped = stopping.wait_for(|stopping| *stopping);
        match first(next.run(request), stopped).await {
            First::Left(response) => response,
            // Dropping the handler cancels what it runs.
            First::Right(_) => ApiError::stopping().into_response(),
        }
    } else {
        let message = "a key is required: send the header `Authorization: Bearer KEY`";
        ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key").into_response()
    };
    state.metrics.count(path, response.status().as_u16());
    response
}

fn has_key(state: &ServerState, request: &Request) -> bool {
    let Some(wanted) = state.key else { return true };
    let header = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let key = header.and_then(|value| value.split_at_checked(7)).filter(|(s, _)| s.eq_ignore_ascii_case(b"bearer "));
    // Hashes are compared in constant time.
    key.is_some_and(|(_, key)| blake3::hash(key) == wanted)
}

/// What a path does with a body.
#[derive(Clone, Copy)]
enum Work {
    /// Reads a job, which the engine then runs.
    Job(fn(&ServerState, ReadBody) -> Result<ServeJob, ApiError>),
    /// Replies at once.
    Reply(fn(&ServerState, ReadBody) -> Result<Value, ApiError>),
    /// Changes the models.
    Load(fn(&ServedModels, ReadBody) -> Result<Value, ApiError>),
}

/// What a thread made of a request.
enum Made {
    Reply(Vec<u8>),
    Stream(Arc<ServerState>, Box<ServeJob>),
}

/// Sets the flag when the client is gone or the reply complete.
struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

async fn answer(State(models): SharedModels, request: Request, work: Work) -> Response {
    match answer_or_fail(models, request, work).await {
        Ok(response) => response,
        Err(e) => e.into_response(),
    }
}

async fn answer_or_fail(models: Arc<ServedModels>, request: Request, work: Work) -> Result<Response, ApiError> {
    let state = models.base();
    let Ok(place) = state.queue.clone().try_acquire_owned() else {
        let message = format!("the queue is full: {} are open; try again", counted(state.max_queue as u64, "request"));
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full"));
    };
    let body = tokio::time::timeout(BODY_TIME, read(&state, request.into_body())).await;
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    let body = body.map_err(late)??;
    let cancel = CancelFlag::new();
    let guard = CancelOnDrop(cancel.clone());
    let flag = cancel.clone();
    let made = tokio::task::spawn_blocking(move || make(&models, body, work, &flag)).await;
    let panicked = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; please report it");
    match made.map_err(panicked)?? {
        Made::Reply(bytes) => Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response()),
        Made::Stream(state, job) => {
            let (sender, events) = mpsc::channel(WAITING_EVENTS);
            // Not awaited: it ends when the answer or the client does.
            drop(tokio::task::spawn_blocking(move || {
                stream::run(&state, &job, &cancel, &|event| sender.blocking_send(event).is_ok());
                drop(place);
            }));
            let body = Body::from_stream(Events { events, _guard: guard });
            let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
            Ok((headers, body).into_response())
        }
    }
}

fn make(models: &ServedModels, body: ReadBody, work: Work, cancel: &CancelFlag) -> Result<Made, ApiError> {
    let reply = match work {
        Work::Load(load) => load(models, body)?,
        Work::Reply(reply) => reply(&*models.of(&body)?, body)?,
        Work::Job(job) => {
            let state = models.of(&body)?;
            let job = job(&state, body)?;
            if job.options.stream {
                return Ok(Made::Stream(state, Box::new(job)));
            }
            let outcome = job.run(&state, cancel)?;
            match job.interface {
                Interface::Completions => completions::reply(&state, &job, &outcome),
                Interface::Chat => chat::reply(&state, &job, &outcome),
            }
        }
    };
    completions::bytes(&reply).map(Made::Reply)
}

/// Reads a body.
async fn read(state: &ServerState, body: Body) -> Result<ReadBody, ApiError> {
    // Whoever does not say the length may send the longest.
    let hint = axum::body::HttpBody::size_hint(&body).upper().and_then(|n| usize::try_from(n).ok());
    let share = hint.unwrap_or(MAX_BODY).min(MAX_BODY) / 1024 + 1;
    let share = state.bodies.clone().acquire_many_owned(u32::try_from(share).unwrap_or(u32::MAX)).await;
    let share = share.map_err(|_| ApiError::stopping())?;
    let (mut parts, mut bytes, mut size) = (body.into_data_stream(), Vec::new(), 0usize);
    while let Some(part) = next_part(&mut parts).await {
        let lost = |e| ApiError::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}"));
        let part: Bytes = part.map_err(lost)?;
        size = size.saturating_add(part.len());
        if size <= MAX_BODY {
            bytes.extend_from_slice(&part);
        } else if size > MAX_DRAINED {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    if size > MAX_BODY {
        let message = format!("the body has more than {} MiB; send fewer prompts in one request", MAX_BODY >> 20);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large"));
    }
    Ok(ReadBody { bytes, _share: share })
}

async fn next_part(parts: &mut BodyDataStream) -> Option<Result<Bytes, axum::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *parts).poll_next(cx)).await
}

/// The events of a stream as a body.
struct Events {
    events: mpsc::Receiver<String>,
    _guard: CancelOnDrop,
}

impl Stream for Events {
    type Item = std::result::Result<String, Infallible>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx).map(|event| event.map(Ok))
    }
}
