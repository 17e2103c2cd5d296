//! Models of the Hugging Face hub: resolves a revision to a commit, and finds the commit's folder in the
//! cache. The cache is shared with Python's huggingface_hub, so a model fetched by either is available to
//! both.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use hf_hub::api::sync::ApiError;
use hf_hub::{Cache, Repo, RepoType};

use super::hub_files::Client;
use crate::error::{Error, Result};

/// The files of one commit of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// The commit of the revision when the model was first requested.
    pub commit: String,
    /// The folder that holds its files.
    pub dir: PathBuf,
}

/// Models that this process has fetched, by repository and revision. A branch that moves during a run must
/// not give the run two models.
static FETCHED: Mutex<BTreeMap<(String, String), HubModel>> = Mutex::new(BTreeMap::new());

/// Fetches a model's files into the cache, or finds them there. `revision` is a branch, tag or commit; the
/// default is `main`. Repeated calls of a process return the same commit. To resume a run, pass the commit
/// that the run recorded.
///
/// With `HF_HUB_OFFLINE=1` only the cache is used; it is also used if the hub is unreachable.
///
/// # Errors
/// The model does not exist, is not open to this user, or has no configuration; or the hub is unreachable
/// and the cache lacks the model.
pub fn fetch(repo: &str, revision: Option<&str>) -> Result<HubModel> {
    let revision = revision.unwrap_or("main");
    check_name(repo, revision)?;
    // The lock is held while files are fetched, so that others wait for the model.
    let mut fetched = FETCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (repo.to_string(), revision.to_string());
    if let Some(known) = fetched.get(&key) {
        return Ok(known.clone());
    }
    let model = Hub::from_env().fetch(repo, revision)?;
    fetched.insert(key, model.clone());
    Ok(model)
}

/// Checks names, which become parts of paths and URLs.
fn check_name(repo: &str, revision: &str) -> Result<()> {
    let plain = |text: &str| {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        !text.is_empty() && text.chars().all(safe) && !text.split('/').any(|part| matches!(part, "" | "." | ".."))
    };
    if plain(repo) && repo.split('/').count() <= 2 && plain(revision) {
        return Ok(());
    }
    Err(Error::user(format!("{repo:?} at {revision:?} is not the name of a model on the Hugging Face hub"))
        .help("names are OWNER/MODEL, revisions are branches, tags or commits"))
}

/// The hub and its cache.
struct Hub {
    cache: Cache,
    offline: bool,
}

impl Hub {
    fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let yes = |value: String| matches!(value.to_lowercase().as_str(), "1" | "on" | "true" | "yes");
        let cache = set("HF_HUB_CACHE").map_or_else(Cache::from_env, |path| Cache::new(path.into()));
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(|name| set(name).is_some_and(yes));
        Self { cache, offline }
    }

    fn fetch(&self, repo: &str, revision: &str) -> Result<HubModel> {
        if self.offline {
            return self.cached(repo, revision).ok_or_else(|| {
                Error::user(format!("{repo} at {revision} is not in the cache {}", self.cache.path().display())).help(
                    "HF_HUB_OFFLINE is set, so that the Hugging Face hub is not asked; fetch the model once without it",
                )
            });
        }
        let token = std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()).or_else(|| self.cache.token());
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let client = Client::new(&endpoint, token);
        match self.download(&client, repo, revision) {
            Err(e) if is_unreachable(&e) => self.cached(repo, revision).inspect(|model| {
                tracing::warn!(
                    "the Hugging Face hub cannot be reached; {repo} is taken from the cache, commit {}",
                    model.commit
                );
            }),
            other => Some(other.map_err(|e| failed(repo, revision, &e))?),
        }
        .map_or_else(|| Err(unreachable(repo, revision)), Ok)
        .and_then(|model| {
            if model.dir.join("config.json").exists() {
                return Ok(model);
            }
            Err(Error::user(format!(
                "{repo} on the Hugging Face hub has no config.json, so it holds no model that reflux can load"
            )))
        })
    }

    /// Asks the hub for the commit of the revision and fetches its files.
    fn download(&self, client: &Client, repo: &str, revision: &str) -> std::result::Result<HubModel, ApiError> {
        let named = Repo::with_revision(repo.into(), RepoType::Model, revision.into());
        let info = client.info(&named)?;
        let commit = info.sha;
        if !is_plain(&commit) {
            return Err(ApiError::InvalidHeader("sha"));
        }
        for file in info.siblings.iter().map(|s| &s.rfilename).filter(|name| is_wanted(name)) {
            client.fetch(&self.folder(repo), repo, &commit, file)?;
        }
        // The reference lets the cache find the commit by the name of the revision.
        self.cache.repo(named).create_ref(&commit)?;
        Ok(HubModel { dir: self.snapshot(repo, &commit), commit })
    }

    fn snapshot(&self, repo: &str, commit: &str) -> PathBuf {
        self.folder(repo).join("snapshots").join(commit)
    }

    fn folder(&self, repo: &str) -> PathBuf {
        self.cache.path().join(Repo::model(repo.into()).folder_name())
    }

    /// Finds a revision in the cache, by its name or as a commit.
    fn cached(&self, repo: &str, revision: &str) -> Option<HubModel> {
        let named = fs::read_to_string(self.folder(repo).join("refs").join(revision)).ok();
        let commit = named.map_or_else(|| revision.to_string(), |commit| commit.trim().to_string());
        let dir = self.snapshot(repo, &commit);
        (is_plain(&commit) && dir.join("config.json").exists()).then_some(HubModel { commit, dir })
    }
}

/// Whether a commit is safe as the name of a folder.
fn is_plain(commit: &str) -> bool {
    !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether reflux reads a file of a model.
fn is_wanted(name: &str) -> bool {
    // Mistral's repositories contain the weights a second time, in another format.
    let here = !name.contains('/') && !name.starts_with("consolidated");
    here && (name.ends_with(".safetensors") || name.ends_with(".json") || name == "chat_template.jinja")
}

/// Whether the hub did not respond at all.
fn is_unreachable(e: &ApiError) -> bool {
    match e {
        ApiError::RequestError(e) => matches!(**e, ureq::Error::Transport(_)),
        ApiError::TooManyRetries(e) => is_unreachable(e),
        _ => false,
    }
}

fn unreachable(repo: &str, revision: &str) -> Error {
    Error::system(format!("the Hugging Face hub cannot be reached, and {repo} at {revision} is not in the cache"))
        .help("check the network, or give the model by `path`")
}

/// Explains an error response of the hub.
fn failed(repo: &str, revision: &str, e: &ApiError) -> Error {
    let status = match e {
        ApiError::RequestError(e) => match &**e {
            ureq::Error::Status(code, _) => Some(*code),
            ureq::Error::Transport(_) => None,
        },
        _ => None,
    };
    let has_token = std::env::var("HF_TOKEN").is_ok_and(|t| !t.is_empty()) || Cache::from_env().token().is_some();
    match status {
        Some(401) if !has_token => Error::user(format!("{repo} on the Hugging Face hub is gated or private (401)"))
            .help(format!(
                "accept its terms at https://huggingface.co/{repo}, and set HF_TOKEN or run `huggingface-cli login`; \
                 the hub also answers so where there is no such model"
            )),
        Some(code @ (401 | 403)) => {
            Error::user(format!("{repo} on the Hugging Face hub is not open to this access token ({code})"))
                .help(format!("accept its terms at https://huggingface.co/{repo} with the account of the token"))
        }
        Some(404) => Error::user(format!("the Hugging Face hub has no model {repo} with a revision {revision} (404)"))
            .help("look at the spelling of `hf` and `revision`"),
        _ => Error::system(format!("{repo} on the Hugging Face hub: {e}"))
            .help("check the network, or give the model by `path`"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn hub(cache: &Path) -> Hub {
        Hub { cache: Cache::new(cache.into()), offline: true }
    }

    #[test]
    fn a_cached_model_is_found_without_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("models--some--tiny");
        let commit = "0123456789abcdef";
        fs::create_dir_all(folder.join("snapshots").join(commit)).unwrap();
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), commit).unwrap();
        let missing = hub(dir.path()).fetch("some/tiny", "main").unwrap_err();
        assert!(missing.to_string().contains("not in the cache"), "{missing}");
        fs::write(folder.join("snapshots").join(commit).join("config.json"), "{}").unwrap();
        // By branch name, and by commit.
        for revision in ["main", commit] {
            let model = hub(dir.path()).fetch("some/tiny", revision).unwrap();
            assert_eq!((model.commit.as_str(), model.dir.ends_with(commit)), (commit, true));
        }
        assert!(
            hub(dir.path()).fetch("some/tiny", "other").unwrap_err().help_text().unwrap().contains("HF_HUB_OFFLINE")
        );
        // A reference that points elsewhere is ignored.
        fs::write(folder.join("refs/main"), "../../elsewhere").unwrap();
        assert!(hub(dir.path()).fetch("some/tiny", "main").is_err());
    }

    #[test]
    fn names_stay_within_the_cache() {
        for (repo, revision) in [("../x", "main"), ("a/b/c", "main"), ("a/b", ".."), ("", "main"), ("a/b", "x/../..")] {
            assert!(fetch(repo, Some(revision)).is_err(), "{repo} {revision}");
        }
        assert!(check_name("owner/model-1.0_x", "refs/pr/1").is_ok());
    }
}
