//! Requests to the hub. Redirects are followed here and not by the HTTP library, because the hub's headers about a
//! file are those of the redirect itself, and because the token must go to the hub alone.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use serde::Deserialize;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response},
};

use super::{
    HubError, TransferProgress, names,
    url::{encode, is_loopback, join, origin},
};
use crate::weights::small_file::read_small;

/// Default hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Redirects that are followed before an answer.
const MAX_REDIRECTS: usize = 8;
/// Time without a byte after which a connection counts as cut.
const STALL: Duration = Duration::from_secs(30);
/// Failures in a row, without a byte in between, after which a transfer is given up.
const MAX_FAILURES: u32 = 5;
/// Failures of one transfer in all.
const MAX_FAILURES_IN_ALL: u32 = 100;
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Characters of an address that a message repeats.
const LONGEST_QUOTE: usize = 200;
/// Longest answer of the hub's API that is read, in bytes.
const MAX_ANSWER: u64 = 32 << 20;

/// Longest file with a token, in bytes.
const MAX_TOKEN: u64 = 16 << 10;

/// Address of the hub and the user's token, as far as they are given.
#[derive(Clone, Debug, Default)]
pub struct HubOptions {
    /// the hub's address; `$HF_ENDPOINT`, then `https://huggingface.co` otherwise
    pub endpoint: Option<String>,
    /// a file with the token; `$HF_TOKEN`, then the token file of the hub's own tools otherwise
    pub token_file: Option<PathBuf>,
    /// whether the token may go to a hub that is reached without encryption (`http://`) over a network
    pub insecure: bool,
}

/// A hub that speaks the protocol.
#[derive(Debug)]
pub struct Hub {
    agent: Agent,
    endpoint: String,
    origin: String,
    token: Option<String>,
    offline: bool,
}

/// A revision of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoInfo {
    /// the commit, 40 hexadecimal digits
    pub commit: String,
    /// everything in it
    pub files: Vec<RemoteFile>,
}

/// A file as the hub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// relative to the repository
    pub path: String,
    /// bytes
    pub size: Option<u64>,
    /// declared for large files only
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
struct RepoAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// A file's body about to arrive.
pub struct Opened {
    /// 200 or 206, or 416 where there is nothing left to send
    pub status: u16,
    pub body: Body,
    /// first byte and whole length that a 206 claims to bring
    pub range: Option<(u64, Option<u64>)>,
    /// bytes that this answer brings
    pub length: Option<u64>,
    /// the strong tag of the bytes themselves
    pub etag: Option<String>,
    /// size and digest of the whole file, as the hub declares them
    pub linked_size: Option<u64>,
    pub linked_sha256: Option<String>,
    pub commit: Option<String>,
}

/// Failure of a request: one that may pass by itself, or a final one.
pub enum RequestFailure {
    Passing { reason: String, status: Option<u16>, wait: Option<Duration> },
    Final(HubError),
}

/// Counter of failures, which waits between attempts.
#[derive(Debug, Default)]
pub struct Attempts {
    in_row: u32,
    in_all: u32,
}

impl Attempts {
    /// Notes that a byte arrived: the connection works.
    pub fn progressed(&mut self) {
        self.in_row = 0;
    }

    /// Waits after a passing failure.
    ///
    /// # Errors
    /// A final failure, too many passing ones, or an interruption.
    pub fn wait(
        &mut self,
        what: &str,
        failure: RequestFailure,
        progress: &mut dyn TransferProgress,
    ) -> Result<(), HubError> {
        let (reason, status, wait) = match failure {
            RequestFailure::Final(error) => return Err(error),
            RequestFailure::Passing { reason, status, wait } => (reason, status, wait),
        };
        self.in_row += 1;
        self.in_all += 1;
        if self.in_row >= MAX_FAILURES || self.in_all >= MAX_FAILURES_IN_ALL {
            let what = what.to_owned();
            return Err(match status {
                Some(status) => HubError::Status { what, status },
                None => HubError::Network { what, reason },
            });
        }
        let delay = FIRST_DELAY * 2u32.pow(self.in_row - 1);
        let delay = wait.unwrap_or(delay).min(LONGEST_DELAY);
        progress.note(&format!("{what}: {reason}; trying again in {:.1} s", delay.as_secs_f64()));
        let until = Instant::now() + delay;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if progress.interrupted() {
                return Err(HubError::Interrupted);
            }
            sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

impl Hub {
    /// Hub that the options or the environment name: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`,
    /// `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// An endpoint that is no address; a token file that cannot be read; a token that anybody on the way could read,
    /// unless [`HubOptions::insecure`] allows that.
    pub fn new(options: HubOptions) -> Result<Self, HubError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = options.endpoint.or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT).trim_end_matches('/');
        let origin = origin(endpoint).ok_or_else(|| HubError::Endpoint(endpoint.to_owned()))?;
        let token = match options.token_file {
            Some(file) => Some(read_token(&file).map_err(|error| HubError::Token {
                file: file.display().to_string(),
                reason: error.to_string(),
            })?),
            None => variable("HF_TOKEN").or_else(|| {
                let home = variable("HF_HOME")
                    .map(PathBuf::from)
                    .or_else(|| Some(std::env::home_dir()?.join(".cache").join("huggingface")))?;
                read_token(&home.join("token")).ok()
            }),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Token {
                file: "the token".to_owned(),
                reason: "has characters that no token has".to_owned(),
            });
        }
        let in_clear = origin.starts_with("http:") && !is_loopback(&origin);
        if token.is_some() && in_clear && !options.insecure {
            return Err(HubError::TokenInClear(endpoint.to_owned()));
        }
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
        });
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("cupscale-fast/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(STALL))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL));
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint: endpoint.to_owned(),
            origin,
            token,
            offline,
        })
    }

    /// Checks that the user lets downloads use the network; `what` is what is to come.
    ///
    /// # Errors
    /// [`HubError::Offline`].
    pub(in crate::weights) fn check_online(&self, what: &str) -> Result<(), HubError> {
        if self.offline { Err(HubError::Offline { what: what.to_owned() }) } else { Ok(()) }
    }

    /// Commit that a revision (a branch, a tag, a commit) stands for, and its files.
    ///
    /// # Errors
    /// A hub that cannot be reached, refuses, does not know it, or answers with something else.
    pub(in crate::weights) fn revision(
        &self,
        repository: &str,
        revision: &str,
        progress: &mut dyn TransferProgress,
    ) -> Result<RepoInfo, HubError> {
        let what = format!("{repository}@{revision}");
        let revision = encode(revision, false);
        let url =
            format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.endpoint);
        let mut attempts = Attempts::default();
        loop {
            let failure = match self.answer(&what, repository, &url) {
                Ok(bytes) => return understand(&what, &bytes),
                Err(failure) => failure,
            };
            attempts.wait(&what, failure, progress)?;
        }
    }

    fn answer(&self, what: &str, repository: &str, url: &str) -> Result<Vec<u8>, RequestFailure> {
        let (response, _) = self.get(what, repository, url, &[])?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(self.refusal(what, repository, &response, true));
        }
        let mut bytes = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(MAX_ANSWER)
            .read_to_end(&mut bytes)
            .map_err(|error| passing(error.to_string()))?;
        Ok(bytes)
    }

    /// Asks for the bytes of a file from byte `from` on. With `etag`, the hub sends the whole file
    /// where it is no longer the one with that tag.
    pub(super) fn open(
        &self,
        (repository, commit, path): (&str, &str, &str),
        from: u64,
        etag: Option<&str>,
    ) -> Result<Opened, RequestFailure> {
        let what = format!("{repository}/{path}");
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, encode(path, true));
        let mut headers = Vec::new();
        if from > 0 {
            headers.push(("range", format!("bytes={from}-")));
            headers.extend(etag.map(|etag| ("if-range", etag.to_owned())));
        }
        let (response, linked) = self.get(&what, repository, &url, &headers)?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 206 | 416) {
            return Err(self.refusal(&what, repository, &response, linked.last_was_hub));
        }
        let headers = response.headers();
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Opened {
            status,
            range: header("content-range").and_then(content_range),
            length: header("content-length").and_then(|length| length.parse().ok()),
            etag: header("etag").filter(|tag| tag.starts_with('"')).map(str::to_owned),
            linked_size: linked.size,
            linked_sha256: linked.sha256,
            commit: linked.commit,
            body: response.into_body(),
        })
    }

    /// GET, with the redirects that follow. The token goes to the hub's own origin only.
    fn get(
        &self,
        what: &str,
        repository: &str,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<(Response<Body>, Linked), RequestFailure> {
        self.check_online(repository).map_err(RequestFailure::Final)?;
        let answer = |reason: String| {
            RequestFailure::Final(HubError::Answer { what: what.to_owned(), reason })
        };
        let mut linked = Linked::default();
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let to = || {
                format!("redirected to `{}`", url.chars().take(LONGEST_QUOTE).collect::<String>())
            };
            let asked = origin(&url).ok_or_else(|| answer(to()))?;
            if self.origin.starts_with("https:") && asked.starts_with("http:") {
                return Err(answer(format!("redirected to {asked}, which is not encrypted")));
            }
            linked.last_was_hub = asked == self.origin;
            // Bytes must arrive as they are stored, or neither lengths nor ranges mean anything.
            let mut request = self.agent.get(&url).header("accept-encoding", "identity");
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| linked.last_was_hub) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if is_loopback(&asked) {
                // A proxy knows another loopback, and would see the token on the way.
                request = request.config().proxy(None).build();
            }
            let response = request.call().map_err(|error| {
                // A certificate that is not trusted now will not be in a second either.
                if is_distrust(&error) { answer(plain(&error)) } else { passing(plain(&error)) }
            })?;
            if linked.last_was_hub {
                linked.note(response.headers());
            }
            let location = response.headers().get("location").and_then(|to| to.to_str().ok());
            match (response.status().as_u16(), location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    url = join(&url, location).ok_or_else(|| answer(to()))?;
                }
                _ => return Ok((response, linked)),
            }
        }
        Err(answer(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Failure that an answer other than the wanted one means.
    fn refusal(
        &self,
        what: &str,
        repository: &str,
        response: &Response<Body>,
        by_hub: bool,
    ) -> RequestFailure {
        let what = what.to_owned();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        match response.status().as_u16() {
            status @ (401 | 403) if by_hub => {
                let detail = header("x-error-message").map(one_line).unwrap_or_default();
                let page = format!("{}/{repository}", self.endpoint);
                RequestFailure::Final(HubError::Refused { what, status, detail, page })
            }
            status @ (404 | 410) if by_hub => {
                let endpoint = self.endpoint.clone();
                RequestFailure::Final(HubError::NotFound { what, endpoint, status })
            }
            // Elsewhere than at the hub, 401 to 404 mean that the address has expired: the hub
            // gives a new one.
            status @ (401 | 403 | 404 | 408 | 410 | 429 | 500..=599) => RequestFailure::Passing {
                reason: format!("the hub answered {status}"),
                status: Some(status),
                wait: header("retry-after")
                    .and_then(|seconds| seconds.trim().parse().ok())
                    .map(Duration::from_secs),
            },
            status => RequestFailure::Final(HubError::Status { what, status }),
        }
    }
}

/// Facts about a file in the headers of the hub's own answers.
#[derive(Default)]
struct Linked {
    size: Option<u64>,
    sha256: Option<String>,
    commit: Option<String>,
    last_was_hub: bool,
}

impl Linked {
    fn note(&mut self, headers: &HeaderMap) {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(size) = header("x-linked-size").and_then(|size| size.parse().ok()) {
            self.size = Some(size);
        }
        // The tag of a large file is its SHA-256; small files have git's hash, which is shorter.
        let tag = header("x-linked-etag").map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
        if let Some(tag) = tag.filter(|tag| names::is_sha256(tag)) {
            self.sha256 = Some(tag.to_ascii_lowercase());
        }
        if let Some(commit) = header("x-repo-commit").filter(|commit| names::is_commit(commit)) {
            self.commit = Some(commit.to_ascii_lowercase());
        }
    }
}

pub(in crate::weights) fn understand(what: &str, bytes: &[u8]) -> Result<RepoInfo, HubError> {
    let bad = |reason: String| HubError::Answer { what: what.to_owned(), reason };
    let answer: RepoAnswer = serde_json::from_slice(bytes)
        .map_err(|error| bad(format!("the hub's answer is not understood ({error})")))?;
    if !names::is_commit(&answer.sha) {
        return Err(bad("the hub names no commit".to_owned()));
    }
    let files = answer.siblings.into_iter().map(|sibling| {
        if !names::is_inside(&sibling.rfilename) {
            return Err(HubError::UnsafePath { what: what.to_owned(), path: sibling.rfilename });
        }
        let (sha256, size) = sibling.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
        Ok(RemoteFile {
            path: sibling.rfilename,
            size: sibling.size.or(size),
            sha256: sha256
                .filter(|hash| names::is_sha256(hash))
                .map(|hash| hash.to_ascii_lowercase()),
        })
    });
    let files = files.collect::<Result<_, _>>()?;
    Ok(RepoInfo { commit: answer.sha.to_ascii_lowercase(), files })
}

fn read_token(file: &Path) -> std::io::Result<String> {
    String::from_utf8(read_small(file, MAX_TOKEN)?).map_err(|_| std::io::Error::other("not a text"))
}

fn passing(reason: String) -> RequestFailure {
    RequestFailure::Passing { reason, status: None, wait: None }
}

/// `true` if the other side is not who it should be, or does not encrypt at all.
fn is_distrust(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        _ => false,
    }
}

/// Message of an error of the HTTP library.
fn plain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "no such host (is the network up?)".to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        error => one_line(&error.to_string()).trim_start_matches(": ").to_owned(),
    }
}

/// Text from a server, made fit for one line.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let text: String = words.join(" ").chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// First byte and whole length of a `Content-Range` (`bytes 5-9/10`).
pub(in crate::weights) fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, whole.parse().ok()))
}
