//! The keys of `[server.NAME]`: a server that reflux starts and stops.

use std::time::Duration;

use super::command::{CommandRules, CommandTemplate};
use super::environment::EnvironmentVariable;
use super::fields::Fields;

/// What the command of a server is given.
const COMMAND: CommandRules = CommandRules {
    placeholders: &[
        ("model", "directory of the model to serve"),
        ("port", "port to listen on, on this machine"),
        ("name", "the model's name in requests; another one for each policy, except with update = \"reload\""),
    ],
    required: &["model", "port"],
    example: "command = [\"vllm\", \"serve\", \"{model}\", \"--port\", \"{port}\", \"--served-model-name\", \"{name}\"]",
};

/// Value of the key `update`: how a server gets the weights of the next policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerUpdate {
    /// It is stopped before a training, and started with the next policy.
    #[default]
    Restart,
    /// It runs on, and loads the next policy as a LoRA adapter of what it was started with.
    Lora,
    /// It runs on, and reads the next policy's weights in place of its own.
    Reload,
}

impl ServerUpdate {
    /// Whether the server runs on from one policy to the next, and while there is training.
    pub fn runs_on(self) -> bool {
        self != Self::Restart
    }
}

/// `[server.NAME]`: a server that reflux starts for a model, with its present weights.
#[derive(Clone, PartialEq, Debug)]
pub struct ServerProgram {
    /// NAME.
    pub name: String,
    /// Program and arguments.
    pub command: CommandTemplate,
    /// Variables of its environment, beside reflux's own.
    pub environment: Vec<EnvironmentVariable>,
    /// How it gets the weights of the next policy.
    pub update: ServerUpdate,
    /// The model's name on the server, where the command does not hand one over.
    pub served_name: Option<String>,
    /// Time that a start may take.
    pub ready_within: Duration,
    /// Time that it has to end after SIGTERM.
    pub stop_within: Duration,
    /// How often a server that ended by itself is started again with the same weights.
    pub restarts: usize,
    /// Maximum number of requests in flight.
    pub max_in_flight: usize,
    /// Time in which a request is tried again after faults, besides that of starts.
    pub time_limit: Duration,
    /// Largest difference between a log-probability of the server and the one that reflux computes.
    pub tolerance: f64,
}

// The tolerance is checked to be finite.
impl Eq for ServerProgram {}

/// Reads the keys.
pub(super) fn server_program(f: &mut Fields<'_>, name: &str) -> ServerProgram {
    let about = "program and arguments; {model}, {port} and {name} are replaced, and {{ is a brace";
    let words = f.texts("command", about, None);
    let command = CommandTemplate::parse(&words, &COMMAND).unwrap_or_else(|(message, help)| {
        // A missing key was reported as such.
        if !words.is_empty() {
            f.problem("command", message, help);
        }
        CommandTemplate::default()
    });
    let about = "the model's name as the server lists it, where the command has no {name}";
    let served_name = f.optional_name("name", about);
    if command.program().is_some() && command.has("name") == served_name.is_some() {
        if served_name.is_some() {
            f.problem("name", "`name` and {name} both say how the server calls the model", "take one of them out");
        } else {
            let help = "hand over {name}, e.g. \"--served-model-name\", \"{name}\" for vLLM or \"--name\", \"{name}\" for \
                        `reflux serve`; or write name = \"…\" as its /v1/models lists the model";
            f.problem("command", "`command` does not tell the server how to call the model", help);
        }
    }
    let environment = f.environment();
    let words = [
        ("restart", "it is stopped before each training, and started with the next policy; the default"),
        ("lora", "it runs on, and loads the next policy as an adapter of what it was started with"),
        ("reload", "it runs on, and reads the next policy's weights in place of its own"),
    ];
    let update = match f.choice("update", "how the server gets the weights of the next policy", &words, Some("restart"))
    {
        "lora" => ServerUpdate::Lora,
        "reload" => ServerUpdate::Reload,
        _ => ServerUpdate::Restart,
    };
    if update == ServerUpdate::Lora && served_name.is_some() {
        let help = "take `name` out and hand over {name}, e.g. \"--served-model-name\", \"{name}\"";
        f.problem("name", "with update = \"lora\" each policy has a name of its own", help);
    }
    let about = "time that a start may take until /v1/models answers";
    let ready_within = f.duration("ready_within", about, Duration::from_secs(600));
    let about = "time that it has to end after SIGTERM; then everything of it is killed";
    let stop_within = f.duration("stop_within", about, Duration::from_secs(10));
    let about = "how often a server that ended by itself is started again with the same weights, for each policy";
    let restarts = f.count("restarts", about, Some(2), 0..=1000);
    let about = "maximum number of requests in flight; fewer are sent when the server is slow or refuses";
    let max_in_flight = f.count("max_in_flight", about, Some(256), 1..=65_536);
    let about = "time in which a request is tried again after faults, besides the time of starts";
    let time_limit = f.duration("time_limit", about, Duration::from_secs(600));
    let about =
        "largest difference between a log-probability of the server and reflux's own: 0.25 suits bf16, 0.001 f32";
    let tolerance = f.float("tolerance", about, Some(0.25), 1e-6..=10.0);
    let name = name.to_owned();
    ServerProgram {
        name,
        command,
        environment,
        update,
        served_name,
        ready_within,
        stop_within,
        restarts,
        max_in_flight,
        time_limit,
        tolerance,
    }
}
