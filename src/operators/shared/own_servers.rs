//! Servers that reflux starts for the models of a run: one for the policy, and one for each other model that steps name.
//!
//! A job that asks a model holds a [`ServerLease`] of its server. The server of another policy is started only when nobody
//! holds one, and older policies come first, so that what is left of an iteration is not asked of the next policy. A
//! training holds a [`Pause`]: all servers are stopped, and none is started, but for those that run on from one policy to
//! the next.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::first_difference;
pub(super) use super::served_model::ModelToServe;
use super::served_model::{RunningServer, ServedModel, folder};
use super::server_process::again;
use super::subprocess;
use crate::cancel::CancelFlag;
use crate::data::counted;
use crate::dataflow::Context;
use crate::engine::remote::transport::EndpointCounters;
use crate::engine::remote::{NoReplies, ReplyStore, engine};
use crate::engine::{Answer, Capabilities, ChoiceRequest, ConstraintForm, Engine, Probabilities, Request, Stats};
use crate::error::{Error, ErrorContext as _, ErrorKind, Result};
use crate::pipeline::ServerUpdate;

/// Longest time that a job waits without looking whether the run is being stopped.
const WAIT: Duration = Duration::from_millis(50);
/// How much farther from its weights than the first policy a later one may be. Rounding differs a little between
/// weights, and weights of an earlier policy, or a part of them, are off by more.
const FARTHER: f32 = 8.;
/// A difference that no rule calls a fault: float sums in another order.
const ROUNDING: f32 = 1e-5;

/// The counters of a server that was used.
#[derive(Clone, Debug)]
pub(super) struct ServerUse {
    /// The model that it had.
    pub model: String,
    pub stats: Stats,
    pub endpoints: Vec<EndpointCounters>,
}

impl ServerUse {
    fn new(running: &RunningServer) -> Self {
        let (stats, endpoints) = (running.connection.stats(), running.connection.endpoints());
        Self { model: running.model.name.clone(), stats, endpoints }
    }
}

/// The servers of a run.
#[derive(Clone, Default)]
pub(super) struct OwnServers(Arc<SharedServers>);

#[derive(Default)]
struct SharedServers {
    state: Mutex<ServersState>,
    changed: Condvar,
    /// Held while a model is loaded for its canary, so that it is loaded once.
    loading: Mutex<()>,
}

#[derive(Default)]
struct ServersState {
    /// By what steps call the model.
    slots: BTreeMap<String, ServerSlot>,
    /// Trainings that want the machine for themselves, running and waiting.
    trainings: usize,
    /// The run has ended.
    is_closed: bool,
    /// Why a server could not be started. The run is about to stop.
    failure: Option<Error>,
    gone: Vec<ServerUse>,
}

/// The place of a server.
#[derive(Default)]
struct ServerSlot {
    /// The models that it may serve, by version and name.
    models: BTreeMap<(u32, String), Arc<ServedModel>>,
    running: Option<Arc<RunningServer>>,
    is_changing: bool,
    leases: usize,
    /// Number of jobs that wait, by the version of their model.
    waiting: BTreeMap<u32, usize>,
    /// How far the first policy on it was from its weights.
    first_difference: Option<f32>,
}

/// The right to ask a model. Its server runs until it is dropped.
struct ServerLease {
    servers: OwnServers,
    running: Arc<RunningServer>,
}

/// While it is there, no server runs but those that run on.
pub(crate) struct Pause(OwnServers);

impl OwnServers {
    fn state(&self) -> MutexGuard<'_, ServersState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, ServersState>) -> MutexGuard<'a, ServersState> {
        self.0.changed.wait_timeout(state, WAIT).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The engine of a model for the microbatch at hand.
    ///
    /// # Errors
    /// The server cannot be used; the run is being stopped.
    pub fn engine(&self, cx: &Context<'_>, model: &ModelToServe<'_>) -> Result<Arc<dyn Engine>> {
        let served = self.served(cx, model)?;
        let able = {
            let lease = self.acquire(&served)?;
            engine(&lease.running.connection, Arc::new(NoReplies)).capabilities()
        };
        let replies = Arc::new(cx.run().replies(&cx.step.name, cx.epoch, model.slot)?);
        let (step, form) = (cx.step.name.clone(), cx.step.op.constrains().and_then(ConstraintForm::named));
        Ok(Arc::new(OwnServerEngine { servers: self.clone(), model: served, replies, able, step, form }))
    }

    /// Prepares a model at the first call.
    fn served(&self, cx: &Context<'_>, model: &ModelToServe<'_>) -> Result<Arc<ServedModel>> {
        let known = || -> Option<Arc<ServedModel>> {
            let key = (model.version, model.name.to_owned());
            self.state().slots.get(model.slot)?.models.get(&key).cloned()
        };
        if let Some(served) = known() {
            return Ok(served);
        }
        let _loading = self.0.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = known() {
            return Ok(served);
        }
        let served = Arc::new(ServedModel::new(cx, model).doing(|| format!("model `{}`", model.name))?);
        let mut state = self.state();
        let is_new = !state.slots.contains_key(model.slot);
        let slot = state.slots.entry(model.slot.to_owned()).or_default();
        // No future step uses a policy older than the last one.
        slot.models.retain(|(version, _), _| *version == 0 || version + 1 >= model.version);
        slot.models.insert((model.version, model.name.to_owned()), Arc::clone(&served));
        slot.first_difference = slot.first_difference.or_else(|| first_difference::read(&served));
        drop(state);
        if is_new {
            let leftover = subprocess::stop_leftovers(&served.mark);
            if leftover > 0 {
                let processes = counted(leftover, "process");
                tracing::warn!("{}: {processes} that outlived an earlier run had to be stopped", served.who());
            }
        }
        Ok(served)
    }

    /// Waits until the model's server runs, and starts it if needed.
    fn acquire(&self, model: &Arc<ServedModel>) -> Result<ServerLease> {
        self.enter(model, 1);
        let lease = self.acquire_in_turn(model);
        self.enter(model, -1);
        lease
    }

    /// Counts a job that waits, or waits no more.
    fn enter(&self, model: &ServedModel, change: isize) {
        let mut state = self.state();
        let slot = state.slots.entry(model.slot.clone()).or_default();
        let count = slot.waiting.entry(model.version).or_default();
        *count = count.saturating_add_signed(change);
        slot.waiting.retain(|_, count| *count > 0);
        self.0.changed.notify_all();
    }

    fn acquire_in_turn(&self, model: &Arc<ServedModel>) -> Result<ServerLease> {
        let mut state = self.state();
        loop {
            if let Some(failure) = &state.failure {
                return Err(again(failure));
            }
            if state.is_closed || model.cancel.is_set() {
                return Err(Error::cancelled());
            }
            let is_paused = state.trainings > 0 && !model.program.update.runs_on();
            let slot = state.slots.entry(model.slot.clone()).or_default();
            let is_first = slot.waiting.keys().next().is_none_or(|first| *first >= model.version);
            if !is_paused && is_first && !slot.is_changing {
                match &slot.running {
                    Some(running) if Arc::ptr_eq(&running.model, model) && !may_start_again(running) => {
                        slot.leases += 1;
                        return Ok(ServerLease { servers: self.clone(), running: Arc::clone(running) });
                    }
                    _ if slot.leases == 0 => {
                        slot.is_changing = true;
                        let before = slot.running.take();
                        let limit = slot.limit(model);
                        drop(state);
                        return self.change(model, before, limit);
                    }
                    _ => {}
                }
            }
            state = self.wait(state);
        }
    }

    /// Gives a server that runs the model's weights, or stops it and starts another one, for a slot that is marked as
    /// changing.
    fn change(&self, model: &Arc<ServedModel>, before: Option<Arc<RunningServer>>, limit: f32) -> Result<ServerLease> {
        let used = before.as_deref().map(ServerUse::new);
        let change = before.as_deref().and_then(|server| model.change_for(server));
        let started = match (before, change) {
            (Some(server), Some(change)) => model.update(&server, &change, limit),
            (before, _) => {
                if let Some(before) = before {
                    tell_why(&before, model);
                }
                model.start(limit)
            }
        };
        let mut state = self.state();
        state.gone.extend(used);
        let slot = state.slots.entry(model.slot.clone()).or_default();
        slot.is_changing = false;
        let lease = started.map(|(running, difference)| {
            let running = Arc::new(running);
            if slot.first_difference.is_none() {
                slot.first_difference = Some(difference);
                first_difference::write(model, difference);
            }
            slot.running = Some(Arc::clone(&running));
            slot.leases += 1;
            ServerLease { servers: self.clone(), running }
        });
        // Nobody is to start the server once more until the error has stopped the run.
        state.failure = lease.as_ref().err().map(again);
        self.0.changed.notify_all();
        lease
    }

    /// Stops all servers, and keeps them stopped until the value is dropped. Those that run on are left alone.
    ///
    /// # Errors
    /// The run is being stopped.
    pub fn pause(&self, cancel: &CancelFlag) -> Result<Pause> {
        let mut state = self.state();
        state.trainings += 1;
        let pause = Pause(self.clone());
        while state.slots.values().any(|slot| !slot.runs_on() && (slot.leases > 0 || slot.is_changing)) {
            if cancel.is_set() {
                drop(state);
                return Err(Error::cancelled());
            }
            state = self.wait(state);
        }
        let stopped = state.stop(|slot| !slot.runs_on());
        drop(state);
        // Outside of the lock: a server may take its time to end.
        drop(stopped);
        Ok(pause)
    }

    /// Whether there is or will be another server in place of one that has ended.
    fn goes_on(&self, ended: &Arc<RunningServer>) -> bool {
        if !ended.model.program.update.runs_on() || !ended.is_lost() {
            return false;
        }
        let state = self.state();
        let present = state.slots.get(&ended.model.slot).and_then(|slot| slot.running.as_ref());
        !present.is_some_and(|present| Arc::ptr_eq(present, ended)) || may_start_again(ended)
    }

    /// Stops all servers for good. Returns the models that have a folder in the run's scratch folder.
    pub fn close(&self) -> Vec<(String, u32)> {
        let mut state = self.state();
        state.is_closed = true;
        let stopped = state.stop(|_| true);
        let folders = state.slots.iter().flat_map(|(name, slot)| slot.models.keys().map(|(v, _)| (folder(name), *v)));
        let folders = folders.collect();
        self.0.changed.notify_all();
        drop(state);
        drop(stopped);
        folders
    }

    /// The counters of every server: of stopped ones in order, then of those that run.
    pub fn used(&self) -> Vec<ServerUse> {
        self.state().used()
    }

    /// As [`OwnServers::used`]; `None` if reading would block.
    pub fn try_used(&self) -> Option<Vec<ServerUse>> {
        Some(self.0.state.try_lock().ok()?.used())
    }
}

impl ServersState {
    /// Takes running servers out. Dropping one stops it.
    fn stop(&mut self, which: impl Fn(&ServerSlot) -> bool) -> Vec<Arc<RunningServer>> {
        let slots = self.slots.values_mut().filter(|slot| which(slot));
        let stopped: Vec<_> = slots.filter_map(|slot| slot.running.take()).collect();
        self.gone.extend(stopped.iter().map(|running| ServerUse::new(running)));
        stopped
    }

    fn used(&self) -> Vec<ServerUse> {
        let running = self.slots.values().filter_map(|slot| slot.running.as_deref());
        self.gone.iter().cloned().chain(running.map(ServerUse::new)).collect()
    }
}

/// Tells why a server is not used for the model at hand, unless its `update` says so.
fn tell_why(before: &RunningServer, model: &ServedModel) {
    let who = before.model.who();
    if before.is_lost() {
        let deaths = before.model.deaths.fetch_add(1, Ordering::Relaxed) + 1;
        let most = model.program.restarts;
        tracing::warn!(
            "{who} ended by itself; it is started again ({deaths} of at most {most} times), now as `{}`",
            model.name
        );
    } else if model.program.update == ServerUpdate::Lora {
        tracing::warn!("{who} is started anew: `{}` is no adapter of what it was started with", model.name);
    }
}

/// Whether a server that ran on from policy to policy has ended by itself, and may be started again.
fn may_start_again(server: &RunningServer) -> bool {
    let ServedModel { program, deaths, .. } = &*server.model;
    program.update.runs_on() && server.is_lost() && deaths.load(Ordering::Relaxed) < program.restarts
}

impl ServerSlot {
    /// Whether its server runs on from one policy to the next.
    fn runs_on(&self) -> bool {
        self.models.values().any(|model| model.program.update.runs_on())
    }

    /// The largest difference from its weights that the model's server may have. The first one shows how the server
    /// rounds; the others must be about as near.
    fn limit(&self, model: &ServedModel) -> f32 {
        let tolerance = model.program.tolerance as f32;
        self.first_difference.map_or(tolerance, |first| (FARTHER * first).clamp(ROUNDING, tolerance.max(ROUNDING)))
    }
}

impl Drop for ServerLease {
    fn drop(&mut self) {
        let mut state = self.servers.state();
        if let Some(slot) = state.slots.get_mut(&self.running.model.slot) {
            slot.leases = slot.leases.saturating_sub(1);
        }
        self.servers.0.changed.notify_all();
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.trainings = state.trainings.saturating_sub(1);
        self.0.0.changed.notify_all();
    }
}

/// A model on a server of the run's own, for one microbatch.
struct OwnServerEngine {
    servers: OwnServers,
    model: Arc<ServedModel>,
    replies: Arc<dyn ReplyStore>,
    able: Capabilities,
    /// The step that asks, and the form that it needs of answers.
    step: String,
    form: Option<ConstraintForm>,
}

impl OwnServerEngine {
    /// Asks the server, which may have been stopped since the last time. One that runs on from policy to policy and ends
    /// is started again, and asked again for what it has not answered.
    fn ask<T>(&self, ask: impl Fn(&dyn Engine, &CancelFlag) -> Result<T>) -> Result<T> {
        loop {
            let lease = self.servers.acquire(&self.model)?;
            let (server, lost) = (&lease.running, lease.running.process.lost());
            let engine = engine(&server.connection, Arc::clone(&self.replies));
            let is_held = self.form.map_or(Ok(()), |form| server.holds(&self.step, form));
            match is_held.and_then(|()| ask(&*engine, lost)) {
                Err(e) if e.kind() == ErrorKind::Cancelled => {
                    if !self.servers.goes_on(server) {
                        return Err(server.process.failure().unwrap_or(e));
                    }
                }
                answer => return answer,
            }
        }
    }
}

impl Engine for OwnServerEngine {
    fn generate(&self, requests: Vec<Request>, _: &CancelFlag) -> Result<Vec<Answer>> {
        self.ask(|engine, lost| engine.generate(requests.clone(), lost))
    }
    fn choose(&self, choices: Vec<ChoiceRequest>, _: &CancelFlag) -> Result<Vec<Probabilities>> {
        self.ask(|engine, lost| engine.choose(choices.clone(), lost))
    }
    fn id(&self) -> &str {
        &self.model.hash
    }
    fn tokenizer(&self) -> Option<&str> {
        Some(self.model.tokenizer.hash())
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
    fn capabilities(&self) -> Capabilities {
        self.able
    }
}
