//! Asks the hub for what it has, and brings its files into the cache, laid out as Python's huggingface_hub does: contents in `blobs`, by their hash, and
//! in `snapshots/COMMIT` links to them. The access token goes to the hub alone: large files are at other hosts, whose
//! addresses carry their own permission.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Repo;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::ApiError;
use ureq::{Agent, AgentBuilder, Response};

/// Most redirects from a file's address to its content.
const MAX_REDIRECTS: usize = 10;
/// How long the hub may say nothing before a request fails, unless `HF_HUB_DOWNLOAD_TIMEOUT` gives other seconds.
const SILENCE: Duration = Duration::from_secs(120);
/// The list of a model's files is refused beyond this.
const MAX_INFO: u64 = 16 << 20;

/// Asks the hub for files.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    /// A client of the hub at `endpoint`, with an access token if there is one.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        let seconds = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|seconds| seconds.parse().ok());
        let silence = seconds.filter(|s| *s > 0).map_or(SILENCE, Duration::from_secs);
        let agent = AgentBuilder::new().try_proxy_from_env(true).redirects(0).timeout_read(silence).build();
        Self { agent, endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// Brings a file of a commit into `folder`, the cache's folder of the repository, unless it is there.
    ///
    /// # Errors
    /// The hub does not give it, or it cannot be written.
    pub fn fetch(&self, folder: &Path, repo: &str, commit: &str, name: &str) -> Result<(), ApiError> {
        let link = folder.join("snapshots").join(commit).join(name);
        if link.exists() {
            return Ok(());
        }
        let found = self.find(&format!("{}/{repo}/resolve/{commit}/{name}", self.endpoint))?;
        let blobs = folder.join("blobs");
        fs::create_dir_all(&blobs)?;
        let blob = blobs.join(found.etag.as_ref().ok_or(ApiError::MissingHeader("etag"))?);
        if !blob.exists() {
            self.download(found, &blob)?;
        }
        if let Some(snapshot) = link.parent() {
            fs::create_dir_all(snapshot)?;
        }
        put_link(&blob, &link)?;
        Ok(())
    }

    /// What the hub says of a model's revision: its commit and the names of its files.
    ///
    /// # Errors
    /// The hub does not say it.
    pub fn info(&self, repo: &Repo) -> Result<RepoInfo, ApiError> {
        let found = self.find(&format!("{}/api/{}", self.endpoint, repo.api_url()))?;
        let text = found.response.into_reader().take(MAX_INFO);
        serde_json::from_reader(text).map_err(|e| ApiError::IoError(e.into()))
    }

    /// Follows redirects to an answer.
    fn find(&self, url: &str) -> Result<Found, ApiError> {
        let (mut url, mut etag) = (url.to_owned(), None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(&url, 0)?;
            // The hub's own answer names the content, whatever another host calls it.
            let named = ["x-linked-etag", "etag"].into_iter().find_map(|header| response.header(header));
            etag = etag.or(named.map(plain).filter(|etag| !etag.is_empty()));
            if !(300..400).contains(&response.status()) {
                return Ok(Found { url, etag, response });
            }
            let location = response.header("location").ok_or(ApiError::MissingHeader("location"))?;
            url = match location.starts_with('/') && !location.starts_with("//") {
                true => origin(&url).to_owned() + location,
                false => location.to_owned(),
            };
        }
        Err(ApiError::InvalidHeader("location"))
    }

    /// One request, for the content from byte `from` on.
    fn get(&self, url: &str, from: u64) -> Result<Response, ApiError> {
        let mut request = self.agent.get(url);
        if origin(url) == origin(&self.endpoint)
            && let Some(token) = &self.token
        {
            request = request.set("Authorization", &format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.set("Range", &format!("bytes={from}-"));
        }
        Ok(request.call().map_err(Box::new)?)
    }

    /// Writes a content to its place, going on with what an interrupted download left.
    fn download(&self, found: Found, blob: &Path) -> Result<(), ApiError> {
        let part = with_ending(blob, "part");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(with_ending(blob, "lock"))?;
        // Another process may be fetching the same.
        lock.lock()?;
        if blob.exists() {
            return Ok(());
        }
        let have = fs::metadata(&part).map_or(0, |m| m.len());
        let rest = (have > 0).then(|| self.get(&found.url, have));
        let response = match rest {
            // The part is whole already, or is of something else: there is no byte after it.
            Some(Err(ApiError::RequestError(e))) if matches!(*e, ureq::Error::Status(416, _)) => found.response,
            Some(rest) => rest?,
            None => found.response,
        };
        let goes_on = match response.status() {
            200 => false,
            206 => true,
            _ => return Err(ApiError::InvalidHeader("status")),
        };
        let mut file = OpenOptions::new().create(true).append(goes_on).write(true).truncate(!goes_on).open(&part)?;
        io::copy(&mut response.into_reader(), &mut file)?;
        file.sync_all()?;
        fs::rename(&part, blob)?;
        Ok(())
    }
}

/// An answer, and where it came from.
struct Found {
    url: String,
    /// The name of the content in the cache, where the hub has one for it.
    etag: Option<String>,
    response: Response,
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// An etag as the name of a file: no quotes, and nothing that leads elsewhere.
fn plain(etag: &str) -> String {
    let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    etag.chars().map(safe).collect()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

/// A link to a content of the cache, or a copy where the system has no such links.
fn put_link(blob: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(Path::new("../../blobs").join(blob.file_name().unwrap_or_default()), link);
    #[cfg(not(unix))]
    let made = fs::copy(blob, link).map(drop);
    match made {
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_etags_are_cut_up() {
        assert_eq!(origin("https://huggingface.co/a/b?c"), "https://huggingface.co");
        assert_eq!(origin("http://127.0.0.1:80"), "http://127.0.0.1:80");
        assert_ne!(origin("https://huggingface.co.evil.com/"), origin("https://huggingface.co/"));
        assert_eq!(plain("\"ab12\""), "ab12");
        assert_eq!(plain("W/\"../../x\""), "------x");
    }
}
