//! A server on any free port, and a client of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use candle_core::{DType, Device};
use reflux::cancel::CancelFlag;
use reflux::engine::{
    Codec, EncodedRequest, EngineConfig, Finish, ModelSize, NewToken, RowResult, SampledTokens, Stats, TokenEngine,
    TokenListener, open_tokens,
};
use reflux::error::Result;
use reflux::serve::{ServeOptions, serve};
use serde_json::Value;

pub const MODEL: &str = "pipelines/listworld/m0";

/// An engine of the small world's model.
pub fn engine() -> Arc<dyn TokenEngine> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    let config = EngineConfig { kv_memory: 16 << 20, ..EngineConfig::default() };
    open_tokens(&path, &Device::Cpu, DType::F32, config).unwrap()
}

/// An engine that draws nothing of its own: each answer has the same token, up to its greatest length. It waits before
/// it gives an answer until it is released or cancelled.
pub struct Gate {
    real: Arc<dyn TokenEngine>,
    /// Hears of a call, and then whether it was cancelled.
    entered: Mutex<mpsc::Sender<bool>>,
    released: Mutex<mpsc::Receiver<()>>,
}

impl Gate {
    pub fn new(entered: mpsc::Sender<bool>, released: mpsc::Receiver<()>) -> Self {
        Self { real: engine(), entered: Mutex::new(entered), released: Mutex::new(released) }
    }

    /// An engine that never waits.
    pub fn open() -> Self {
        // Nobody can release it any more, so it does not wait.
        Self::new(mpsc::channel().0, mpsc::channel().1)
    }

    fn wait(&self, cancel: &CancelFlag) -> Result<()> {
        // A test that does not listen has dropped the other end.
        let tell = |cancelled| self.entered.lock().unwrap().send(cancelled).unwrap_or_default();
        tell(false);
        while let Err(mpsc::TryRecvError::Empty) = self.released.lock().unwrap().try_recv() {
            if cancel.is_set() {
                tell(true);
                return Err(reflux::error::Error::cancelled());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn sampled(&self, row: &EncodedRequest) -> SampledTokens {
        let room = row.sampling.max_tokens.min(256 - row.prompt.len());
        SampledTokens { tokens: vec![60; room], logprobs: vec![-1.; room], finish: Finish::Length }
    }
}

impl TokenEngine for Gate {
    fn codec(&self) -> &dyn Codec {
        self.real.codec()
    }
    fn run(&self, rows: Vec<EncodedRequest>, cancel: &CancelFlag) -> Result<Vec<RowResult>> {
        self.wait(cancel)?;
        Ok(rows.iter().map(|row| (row.row, Ok(self.sampled(row)))).collect())
    }
    fn run_streaming(
        &self,
        rows: Vec<EncodedRequest>,
        listener: TokenListener,
        cancel: &CancelFlag,
    ) -> Result<Vec<RowResult>> {
        for row in &rows {
            for token in self.sampled(row).tokens {
                listener(NewToken { row: row.row, token, logprob: -1. });
            }
        }
        self.run(rows, cancel)
    }
    fn size(&self) -> Option<ModelSize> {
        self.real.size()
    }
    fn count(&self, requests: usize) {
        self.real.count(requests);
    }
    fn id(&self) -> &str {
        self.real.id()
    }
    fn tokenizer(&self) -> Option<&str> {
        self.real.tokenizer()
    }
    fn stats(&self) -> Stats {
        self.real.stats()
    }
}

/// A running server; dropping it stops it.
pub struct Server {
    pub address: SocketAddr,
    stop: CancelFlag,
    thread: Option<JoinHandle<Result<()>>>,
}

pub fn options() -> ServeOptions {
    let (host, name) = ("127.0.0.1".into(), "m0".into());
    ServeOptions {
        host,
        port: 0,
        name,
        root: MODEL.into(),
        key: None,
        max_queue: 64,
        max_per_client: None,
        loader: None,
    }
}

impl Server {
    pub fn start(engine: Arc<dyn TokenEngine>, options: ServeOptions) -> Self {
        let stop = CancelFlag::new();
        let (sender, ready) = mpsc::channel();
        let flag = stop.clone();
        let run = move || {
            serve(engine, options, &flag, |address| {
                sender.send(address).unwrap();
                Ok(())
            })
        };
        let thread = std::thread::spawn(run);
        let address = ready.recv().expect("the server starts");
        Self { address, stop, thread: Some(thread) }
    }

    pub fn small() -> Self {
        Self::start(engine(), options())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and body of a reply.
    pub fn post(&self, path: &str, body: &Value) -> (u16, String) {
        self.post_text(path, &body.to_string())
    }

    pub fn post_text(&self, path: &str, body: &str) -> (u16, String) {
        reply(ureq::post(&self.url(path)).send_string(body))
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        reply(ureq::get(&self.url(path)).call())
    }

    /// The body of a reply to a request that is answered.
    pub fn answer(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.post(path, body);
        assert_eq!(status, 200, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until `/metrics` has this line.
    pub fn wait_for(&self, line: &str) {
        while !self.get("/metrics").1.lines().any(|l| l == line) {
            std::thread::yield_now();
        }
    }
}

pub fn reply(reply: Result<ureq::Response, ureq::Error>) -> (u16, String) {
    match reply {
        Ok(response) | Err(ureq::Error::Status(_, response)) => (response.status(), response.into_string().unwrap()),
        Err(e) => panic!("{e}"),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}
