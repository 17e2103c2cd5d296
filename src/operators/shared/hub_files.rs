//! Downloads files of the hub into the cache, in the layout of Python's huggingface_hub: contents in
//! `blobs`, by hash, and links to them in `snapshots/COMMIT`. The access token is sent to the hub only:
//! large files are on other hosts, whose URLs carry their own permission.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Repo;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::ApiError;
use ureq::{Agent, AgentBuilder, Response};

/// Most redirects from a file's URL to its content.
const MAX_REDIRECTS: usize = 10;
/// Timeout of a silent connection, unless `HF_HUB_DOWNLOAD_TIMEOUT` gives another number of seconds.
const SILENCE: Duration = Duration::from_secs(120);
/// Most bytes of the list of a model's files.
const MAX_INFO: u64 = 16 << 20;

/// A client of the hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    /// Creates a client of the hub at `endpoint`, with an optional access token.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        let seconds = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|seconds| seconds.parse().ok());
        let silence = seconds.filter(|s| *s > 0).map_or(SILENCE, Duration::from_secs);
        let agent = AgentBuilder::new().try_proxy_from_env(true).redirects(0).timeout_read(silence).build();
        Self { agent, endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// Downloads a file of a commit into `folder`, the cache's folder of the repository, unless it exists.
    ///
    /// # Errors
    /// The hub does not return the file, or it cannot be written.
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

    /// Returns the commit of a model's revision and the names of its files.
    ///
    /// # Errors
    /// The hub does not return them.
    pub fn info(&self, repo: &Repo) -> Result<RepoInfo, ApiError> {
        let found = self.find(&format!("{}/api/{}", self.endpoint, repo.api_url()))?;
        let text = found.response.into_reader().take(MAX_INFO);
        serde_json::from_reader(text).map_err(|e| ApiError::IoError(e.into()))
    }

    /// Requests a URL and follows redirects.
    fn find(&self, url: &str) -> Result<HubResponse, ApiError> {
        let (mut url, mut etag) = (url.to_owned(), None);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(&url, 0)?;
            // The hub's own response names the content, whatever other hosts call it.
            let named = ["x-linked-etag", "etag"].into_iter().find_map(|header| response.header(header));
            etag = etag.or(named.map(plain).filter(|etag| !etag.is_empty()));
            if !(300..400).contains(&response.status()) {
                return Ok(HubResponse { url, etag, response });
            }
            let location = response.header("location").ok_or(ApiError::MissingHeader("location"))?;
            url = match location.starts_with('/') && !location.starts_with("//") {
                true => origin(&url).to_owned() + location,
                false => location.to_owned(),
            };
        }
        Err(ApiError::InvalidHeader("location"))
    }

    /// Sends one request for the content from byte `from` on.
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

    /// Downloads a file, resuming an interrupted download.
    fn download(&self, found: HubResponse, blob: &Path) -> Result<(), ApiError> {
        let part = with_ending(blob, "part");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(with_ending(blob, "lock"))?;
        // Another process may be downloading the same file.
        lock.lock()?;
        if blob.exists() {
            return Ok(());
        }
        let have = fs::metadata(&part).map_or(0, |m| m.len());
        let rest = (have > 0).then(|| self.get(&found.url, have));
        let response = match rest {
            // Status 416: the part is complete already, or belongs to another file.
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

/// A response, and the URL that it came from.
struct HubResponse {
    url: String,
    /// Name of the content in the cache, if the hub gives one.
    etag: Option<String>,
    response: Response,
}

/// Returns scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// Converts an etag to a safe file name without quotes.
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

/// Links to a content of the cache, or copies it if the system has no symbolic links.
fn put_link(blob: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(Path::new("../../blobs").join(blob.file_name().unwrap_or_default()), link);
    #[cfg(not(unix))]
    let made = fs::copy(blob, link).map(drop);
    match made {
        // Another process has created it.
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
