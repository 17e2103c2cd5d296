//! The keys of a `[model.NAME]` whose model runs on a server.

use super::fields::Fields;
use super::fields::external::External;
use super::syntax::overrides::SERVER_KEYS;
use super::syntax::values::is_name;
use crate::data::address_problem;
use crate::store::InputForm;

/// A model that OpenAI-compatible servers run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ServerSource {
    /// Addresses of servers that run the same model, up to and including `/v1`, without a slash at the end.
    pub urls: Vec<String>,
    /// The model's name on the servers.
    pub name: String,
    /// Name of the environment variable that has the key, if the servers require one.
    pub key: Option<String>,
    /// Maximum number of requests in flight.
    pub max_in_flight: usize,
    /// Seconds in which a request is tried again after faults.
    pub time_limit: f64,
    /// A directory with tokenizer.json or a GGUF file. With it, token ids are sent, and not text.
    pub tokenizer: Option<External>,
    /// What happens to text of a message that the server may take for the end of a turn.
    pub special_text: SpecialTextKey,
    /// Price of a million tokens.
    pub price: Option<Price>,
    /// The run stops before it spends more.
    pub max_cost: Option<f64>,
    /// The run stops before the model samples more tokens.
    pub max_tokens: Option<u64>,
}

// The numbers are checked to be finite.
impl Eq for ServerSource {}

/// Value of the key `special_text`: what happens to text of a message that the server may take for the end of a turn,
/// such as `<|im_end|>`. The engine's word for it is `SpecialTextRule`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SpecialTextKey {
    /// The row fails.
    #[default]
    Refuse,
    /// A zero-width space after the opening bracket disarms it.
    Replace,
    /// It is sent as it is.
    Send,
}

/// Price of a million tokens, in any currency.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Price {
    /// Tokens of prompts.
    pub input: f64,
    /// Sampled tokens.
    pub output: f64,
}

/// Where a model runs, if not in reflux itself.
pub(super) enum ServerKey {
    /// On servers that run already.
    Source(Box<ServerSource>),
    /// On a server that reflux starts: the name of its table.
    Program(String),
}

/// Reads the keys; `None` if the model is not on a server.
pub(super) fn server(f: &mut Fields<'_>) -> Option<ServerKey> {
    let about = "addresses of OpenAI-compatible servers that run the model, such as \"http://10.0.0.1:8000/v1\"; several share the requests; or the NAME of a [server.NAME], which reflux starts with the model's files";
    let urls = f.optional_texts("server", about);
    let before = f.values.len();
    let name = f.optional_name("name", "with server: the model's name there");
    let about = "with server: where its key is, such as { env = \"JUDGE_KEY\" }; the key itself is never in the file";
    let key = f.optional_secret("key", about);
    let about = "with server: maximum number of requests in flight; fewer are sent when the server is slow or refuses";
    let max_in_flight = f.count("max_in_flight", about, Some(256), 1..=65_536);
    let about = "with server: seconds in which a request is tried again after faults; then its row fails";
    let time_limit = f.float("time_limit", about, Some(600.), 1.0..=1e6);
    let about = "with server: the model's files (a directory with tokenizer.json, or a GGUF file); token ids are then sent instead of text, and returned ids can be trained on";
    let tokenizer = f.optional_path("tokenizer", about, InputForm::Model);
    let words = [
        ("refuse", "the row fails; the default"),
        ("replace", "a zero-width space is put into it"),
        ("send", "it is sent, and can forge a turn"),
    ];
    let about =
        "with server and no tokenizer: what happens to text of a message that the server may take for a special token";
    let special_text = match f.choice("special_text", about, &words, Some("refuse")) {
        "replace" => SpecialTextKey::Replace,
        "send" => SpecialTextKey::Send,
        _ => SpecialTextKey::Refuse,
    };
    let price = f.optional_table("price", "with server: price of a million tokens", |f| Price {
        input: f.float("input", "of prompts", None, 0.0..=1e9),
        output: f.float("output", "of answers", None, 0.0..=1e9),
    });
    let about = "with server and price: the run stops before the model has cost more; raise it to go on";
    let max_cost = f.optional_float("max_cost", about, 0.0..=1e12);
    let about = "with server: the run stops before the model has read and sampled more tokens; raise it to go on";
    let max_tokens = f.optional_int("max_tokens", about, 1..=i64::MAX);
    let program = urls.as_ref().and_then(|urls| urls.first().filter(|name| urls.len() == 1 && is_name(name)));
    if let (Some(_), _) | (_, None) = (program, &urls) {
        // Their defaults mean nothing for other models.
        f.values.truncate(before);
        for key in SERVER_KEYS.into_iter().filter(|k| f.given(k)).collect::<Vec<_>>() {
            match program {
                None => f.problem(key, format!("`{key}` means something only with `server`"), "take it out"),
                Some(name) => {
                    let message = format!("`{key}` means something only with addresses of servers that run already");
                    f.problem(key, message, format!("take it out; [server.{name}] has the settings of the server"));
                }
            }
        }
        return program.cloned().map(ServerKey::Program);
    }
    let urls = urls.unwrap_or_default();
    if urls.is_empty() {
        f.problem("server", "`server` has no address", "name at least one, such as \"http://127.0.0.1:8000/v1\"");
    }
    for (i, url) in urls.iter().enumerate() {
        if let Some(problem) = address_problem(url) {
            f.problem("server", format!("address {} {problem}", i + 1), "an address is like http://127.0.0.1:8000/v1");
        }
    }
    if name.is_none() {
        f.problem(
            "server",
            "the model's `name` on the server is missing",
            "name = \"…\" as the server's /v1/models lists it",
        );
    }
    if max_cost.is_some() && price.is_none() {
        f.problem(
            "max_cost",
            "`max_cost` needs a `price`",
            "price = { input = 0.5, output = 1.5 }, of a million tokens",
        );
    }
    if tokenizer.is_some() {
        f.without_effect(&["special_text"], "with `tokenizer`: token ids are sent, in which text is never special", "");
    }
    let urls = urls.into_iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
    let max_tokens = max_tokens.and_then(|n| u64::try_from(n).ok());
    Some(ServerKey::Source(Box::new(ServerSource {
        urls,
        name: name.unwrap_or_default(),
        key,
        max_in_flight,
        time_limit,
        tokenizer,
        special_text,
        price,
        max_cost,
        max_tokens,
    })))
}
