//! The connections of a run to the servers of its models.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::server_process::again;
use crate::cancel::CancelFlag;
use crate::dataflow::{Context, Operator};
use crate::engine::remote::transport::{Endpoint, Secret, TransportConfig};
use crate::engine::remote::{
    Connection, NoReplies, RemoteConfig, ReplyStore, SpecialTextRule, Usage, connect, engine, honours,
};
use crate::engine::{Capabilities, ConstraintForm, Engine};
use crate::error::{Error, ErrorContext as _, Result};
use crate::jinja::DateTime;
use crate::model::ModelOutline;
use crate::pipeline::{ModelKind, ModelSource, ModelUse, Plan, ServerSource, SpecialTextKey, Step};
use crate::store::{Replies, ReplyUsage, Run};

/// Maximum bytes of a reply.
pub(super) const MAX_BODY: usize = 64 << 20;
/// Longest time of one request. The answers of a slow server may take minutes.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The connections of a run.
#[derive(Default)]
pub(super) struct Servers {
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    by_model: BTreeMap<String, Arc<Connection>>,
    /// Why a server could not be connected to. The run is about to stop.
    failure: Option<Error>,
}

impl ReplyStore for Replies {
    fn find(&self, request: &[u8; 32]) -> Option<Vec<u8>> {
        self.find(request)
    }
    fn keep(&self, request: &[u8; 32], body: &[u8], usage: Usage) -> Result<()> {
        let Usage { prompt, cached, sampled } = usage;
        self.keep(request, body, ReplyUsage { prompt, cached: cached.unwrap_or(0), sampled })
    }
}

impl Servers {
    fn connections(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine of a model on servers, for the microbatch at hand.
    ///
    /// # Errors
    /// The servers cannot be used; the microbatch's stored replies cannot be read.
    pub fn engine(&self, cx: &Context<'_>, source: &ModelSource) -> Result<Arc<dyn Engine>> {
        let (connection, note) = self.connection(&cx.shared.plan, source, Some(cx.run()), &cx.shared.stop)?;
        if let Some(note) = note {
            tracing::info!("{note}");
        }
        let replies = cx.run().replies(&cx.step.name, cx.epoch, &source.name)?;
        Ok(engine(&connection, Arc::new(replies)))
    }

    /// Connects to a model's servers at the first call, and checks that they can do what its steps need. That call also
    /// returns a line on the model.
    fn connection(
        &self,
        plan: &Plan<dyn Operator>,
        source: &ModelSource,
        run: Option<&Run>,
        cancel: &CancelFlag,
    ) -> Result<(Arc<Connection>, Option<String>)> {
        // The lock is held while probing, so that the servers are probed once.
        let mut connections = self.connections();
        if let Some(connection) = connections.by_model.get(&source.name) {
            return Ok((Arc::clone(connection), None));
        }
        // Nobody is to wait for the servers once more until the error has stopped the run.
        if let Some(failure) = &connections.failure {
            return Err(again(failure));
        }
        match connect_checked(plan, source, run, cancel) {
            Ok((connection, note)) => {
                connections.by_model.insert(source.name.clone(), Arc::clone(&connection));
                Ok((connection, Some(note)))
            }
            Err(e) => {
                connections.failure = Some(again(&e));
                Err(e)
            }
        }
    }

    /// Connects to the servers of every model that a step uses, and checks that they can do what the steps need. Where
    /// all steps of a model have rows in the run, its servers may have nothing left to do and be gone: they are
    /// connected to when a row needs them.
    ///
    /// # Errors
    /// A server cannot be used, or lacks what a step needs.
    pub fn check(&self, plan: &Plan<dyn Operator>, run: Option<&Run>, cancel: &CancelFlag) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for source in plan.models.iter().filter(|m| matches!(m.kind, ModelKind::Server(_))) {
            let steps = steps_of(plan, source);
            if steps.is_empty() {
                continue;
            }
            if let Some(run) = run
                && steps.iter().all(|step| run.has_rows(&step.name))
            {
                notes.push(format!("model `{}`: its servers are asked when a row needs them", source.name));
                continue;
            }
            notes.extend(self.connection(plan, source, run, cancel)?.1);
        }
        Ok(notes)
    }

    /// Name and connection of each model.
    pub fn all(&self) -> Vec<(String, Arc<Connection>)> {
        named(&self.connections())
    }

    /// As [`Servers::all`]; `None` while a connection is being made.
    pub fn try_all(&self) -> Option<Vec<(String, Arc<Connection>)>> {
        Some(named(&*self.connections.try_lock().ok()?))
    }
}

fn named(connections: &Connections) -> Vec<(String, Arc<Connection>)> {
    connections.by_model.iter().map(|(name, connection)| (name.clone(), Arc::clone(connection))).collect()
}

/// The steps that use a model.
fn steps_of<'a>(plan: &'a Plan<dyn Operator>, source: &ModelSource) -> Vec<&'a Step<dyn Operator>> {
    let uses = |step: &&Step<dyn Operator>| step.model == Some(ModelUse::Source(source.name.clone()));
    plan.steps.iter().filter(uses).collect()
}

/// Connects to a model's servers, and checks that they can do what its steps need. Returns a line on the model too.
fn connect_checked(
    plan: &Plan<dyn Operator>,
    source: &ModelSource,
    run: Option<&Run>,
    cancel: &CancelFlag,
) -> Result<(Arc<Connection>, String)> {
    let ModelKind::Server(server) = &source.kind else { return Err(Error::bug("not a model on servers")) };
    let doing = || format!("model `{}`", source.name);
    let config = config(&source.name, server, run, plan.date).doing(doing)?;
    let connection = connect(config, cancel).doing(doing)?;
    let asked = engine(&connection, Arc::new(NoReplies));
    let able = asked.capabilities();
    for step in steps_of(plan, source) {
        suits(step, &source.name, able)?;
        if let Some(form) = step.op.constrains().and_then(ConstraintForm::named) {
            holds(&step.name, &source.name, form, &|form| honours(&connection, &*asked, form, cancel))?;
        }
    }
    let note = describe(source, &connection, able);
    Ok((connection, note))
}

/// Connects to the servers of a plan's models and checks that they can do what its steps need. Returns a line on each
/// model.
///
/// # Errors
/// A server cannot be used, or lacks what a step needs.
pub fn check_servers(plan: &Plan<dyn Operator>, cancel: &CancelFlag) -> Result<Vec<String>> {
    Servers::default().check(plan, None, cancel)
}

/// The engine of a model on servers, for a command without a run.
///
/// # Errors
/// The servers cannot be used.
pub fn server_engine(server: &ServerSource, cancel: &CancelFlag) -> Result<Arc<dyn Engine>> {
    let connection = connect(config(&server.name, server, None, Some(DateTime::now()))?, cancel)?;
    Ok(engine(&connection, Arc::new(NoReplies)))
}

/// Time that a check outside of a run waits for a server to start.
const PATIENCE: Duration = Duration::from_secs(5);

/// Refuses a step that needs more than a model's servers can do.
pub(super) fn suits(step: &Step<dyn Operator>, model: &str, able: Capabilities) -> Result<()> {
    if step.op.needs_choices() && !able.choices {
        return Err(Error::user(format!(
            "step `{}` needs the probabilities of scores, which the servers of `{model}` do not give",
            step.name
        ))
        .help("use mode = \"sampled\", or vLLM or `reflux serve` with the model's `tokenizer`"));
    }
    Ok(())
}

/// Refuses a step that holds answers to a form which a model's servers do not honour.
pub(super) fn holds(
    step: &str,
    model: &str,
    form: ConstraintForm,
    honours: &dyn Fn(ConstraintForm) -> Result<bool>,
) -> Result<()> {
    if honours(form)? {
        return Ok(());
    }
    let name = form.name();
    let mut others = Vec::new();
    for other in ConstraintForm::ALL.into_iter().filter(|other| *other != form) {
        if honours(other)? {
            others.push(format!("structured = {:?}", other.name()));
        }
    }
    let other = match others.is_empty() {
        true => "take `structured` out, or use vLLM or llama.cpp".to_owned(),
        false => format!("it honours {}; or take the key out", others.join(" and ")),
    };
    let message = format!("step `{step}` has structured = {name:?}, which the server of `{model}` ignores or refuses");
    Err(Error::user(message).help(other))
}

/// What was found about a model's servers, in a line.
fn describe(source: &ModelSource, connection: &Connection, able: Capabilities) -> String {
    let sent = match (able.token_ids, able.exact_logprobs) {
        (true, true) => "token ids are sent and returned, with log-probabilities",
        (true, false) => "token ids are sent and returned, with log-probabilities after temperature or top_k",
        (false, _) => "text is sent and returned, without token ids and log-probabilities",
    };
    format!("model `{}` is {}: {sent}", source.name, connection.id())
}

/// The connection's settings.
fn config(name: &str, server: &ServerSource, run: Option<&Run>, date: Option<DateTime>) -> Result<RemoteConfig> {
    let key = server.key.as_ref().map(|variable| match std::env::var(variable) {
        Ok(key) if !key.trim().is_empty() => Ok(Secret::new(key.trim().to_owned())),
        _ => Err(Error::user(format!("the environment variable {variable} is not set; it has the key of the servers"))
            .help(format!("export {variable}=…, in the shell that starts reflux"))),
    });
    let tokenizer = server.tokenizer.as_ref().map(|files| -> Result<_> {
        let path = match run {
            Some(run) => files.open(run)?,
            None => files.outside_of_runs(),
        };
        Ok(ModelOutline::of_tokenizer(path)?.tokenizer.with_date(date))
    });
    let before = run.map(|run| run.reply_usage(name)).transpose()?.unwrap_or_default();
    let ReplyUsage { prompt, cached, sampled } = before;
    let budget = Duration::from_secs_f64(server.time_limit);
    Ok(RemoteConfig {
        transport: TransportConfig {
            endpoints: server.urls.iter().map(|url| Endpoint::new(url)).collect::<Result<_>>()?,
            key: key.transpose()?,
            max_in_flight: server.max_in_flight,
            row_budget: if run.is_some() { budget } else { budget.min(PATIENCE) },
            request_timeout: REQUEST_TIMEOUT,
            max_body: MAX_BODY,
        },
        name: server.name.clone(),
        tokenizer: tokenizer.transpose()?,
        special_text: match server.special_text {
            SpecialTextKey::Refuse => SpecialTextRule::Refuse,
            SpecialTextKey::Replace => SpecialTextRule::Replace,
            SpecialTextKey::Send => SpecialTextRule::Send,
        },
        max_tokens: server.max_tokens,
        price: server.price.map(|price| (price.input / 1e6, price.output / 1e6)),
        max_cost: server.max_cost,
        spent_before: Usage { prompt, cached: Some(cached), sampled },
        id: None,
    })
}
