//! [`ChatServer`]: a model on servers that take and return text.
//!
//! The second tier: answers have no token ids and no log-probabilities, and the server may take text of a message for
//! special tokens, see [`SpecialTextRule`].

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::connection::{Connection, SharedReplies, affinity, seed};
use super::reply::{self, ChatReply};
use super::special::SpecialTextRule;
use crate::cancel::CancelFlag;
use crate::engine::backend::{Capabilities, Engine};
use crate::engine::request::{
    Answer, ChoiceRequest, Completion, Finish, Probabilities, Request, RequestError, problem,
};
use crate::engine::sampling::stop;
use crate::engine::stats::Stats;
use crate::error::{Error, Result};
use crate::model::Message;

/// Roles that are sent. A server may take any other for part of its template.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// A model on servers that take and return text.
pub struct ChatServer {
    connection: Arc<Connection>,
    replies: SharedReplies,
}

impl ChatServer {
    pub(super) fn new(connection: Arc<Connection>, replies: SharedReplies) -> Self {
        Self { connection, replies }
    }

    /// The text of a message as it is sent.
    fn safe<'t>(&self, text: &'t str) -> std::result::Result<Cow<'t, str>, RequestError> {
        let Some(found) = self.connection.special.find(text) else { return Ok(text.into()) };
        match self.connection.config.special_text {
            SpecialTextRule::Send => Ok(text.into()),
            SpecialTextRule::Replace => Ok(self.connection.special.disarmed(text).into()),
            SpecialTextRule::Refuse => {
                let message = format!(
                    "the message has {found:?}, which the server may take for a special token; give the model its \
                     `tokenizer`, or set special_text = \"replace\""
                );
                Err(RequestError { code: "special_text", message })
            }
        }
    }

    fn message(&self, message: &Message) -> std::result::Result<Value, RequestError> {
        if !ROLES.contains(&message.role.as_str()) {
            let role = reply::shortened(&message.role);
            let message = format!("the role {role:?} cannot be sent; it is one of {}", ROLES.join(", "));
            return Err(RequestError { code: "template", message });
        }
        if message.other_keys().next().is_some() {
            let message = "a message has more than role and content, which is not sent as chat; give the model its \
                           `tokenizer`";
            return Err(RequestError { code: "template", message: message.into() });
        }
        Ok(json!({"role": message.role, "content": self.safe(&message.content)?}))
    }

    fn body(&self, request: &Request) -> std::result::Result<(Value, u64), RequestError> {
        if let Some(error) = problem(request) {
            return Err(error);
        }
        let sampling = &request.sampling;
        let refuse = |message: String| RequestError { code: "bad_sampling", message };
        if !sampling.stop_ids.is_empty() {
            return Err(refuse("stop_ids are not sent as chat; give the model its `tokenizer`".into()));
        }
        if let Some(message) = self.connection.facts.ignored_option(sampling) {
            return Err(refuse(message));
        }
        let messages: Vec<Value> = request.messages.iter().map(|m| self.message(m)).collect::<Result<_, _>>()?;
        let mut body = self.connection.facts.dialect.sampling(sampling, sampling.max_tokens, seed(&request.key));
        body.insert("model".into(), json!(self.connection.config.name));
        body.insert("messages".into(), messages.into());
        body.extend(self.connection.constraint(sampling)?);
        let head = request.messages.first().map_or("", |m| m.content.as_str());
        let head = &head.as_bytes()[..head.len().min(256)];
        Ok((Value::Object(body), affinity([head])))
    }
}

/// The answer that a reply makes.
fn completion(request: &Request, reply: ChatReply) -> Completion {
    let (mut text, mut finish) = (reply.text, reply.finish);
    // Stop strings beyond those that were sent, and those that a server does not cut.
    if let Some(at) = stop::find(&text, &request.sampling.stop, 0) {
        text.truncate(at);
        finish = Finish::Stop;
    }
    Completion { text, tokens: Vec::new(), logprobs: Vec::new(), finish, prompt_tokens: Arc::new([]) }
}

impl Engine for ChatServer {
    fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>> {
        self.connection.count_requests(requests.len());
        let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
        let (mut rows, mut bodies) = (Vec::new(), Vec::new());
        for (row, request) in requests.iter().enumerate() {
            match self.body(request) {
                Ok(body) => {
                    rows.push(row);
                    bodies.push(body);
                }
                Err(e) => answers[row] = Some(Err(e)),
            }
        }
        let replies = self
            .connection
            .ask("/chat/completions", bodies, &*self.replies, cancel, |r| reply::chat(r).map(Arc::new))?;
        for (row, reply) in rows.into_iter().zip(replies) {
            let reply = reply.map(|reply| ChatReply { text: reply.text.clone(), finish: reply.finish });
            answers[row] = Some(reply.map(|reply| completion(&requests[row], reply)));
        }
        answers.into_iter().map(|a| a.ok_or_else(|| Error::bug("a request was left without an answer"))).collect()
    }
    fn choose(&self, choices: Vec<ChoiceRequest>, _: &CancelFlag) -> Result<Vec<Probabilities>> {
        let message = "a chat server gives no probabilities; give the model its `tokenizer`";
        Ok(choices.iter().map(|_| Err(RequestError { code: "no_answer", message: message.into() })).collect())
    }
    fn id(&self) -> &str {
        self.connection.id()
    }
    fn stats(&self) -> Stats {
        self.connection.stats()
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { token_ids: false, exact_logprobs: false, choices: false, constraints: true }
    }
}
