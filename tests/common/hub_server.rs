//! A model hub on the loopback: the part of the protocol that downloads use, and every way in which
//! a real one, or the network before it, misbehaves.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

/// The commit that `main` stands for.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Contents and behaviour of the server; tests change them while it runs.
#[derive(Default)]
pub struct Behaviour {
    /// contents by `OWNER/NAME/path`
    pub files: BTreeMap<String, Vec<u8>>,
    /// the commit of every repository, where it is not [`COMMIT`]
    pub commit: Option<String>,
    /// asked of everybody
    pub token: Option<String>,
    /// where the bytes are, if not here: an origin
    pub redirect: Option<String>,
    /// answers to the next requests for bytes: status, and the value of `Retry-After`
    pub answers: VecDeque<(u16, &'static str)>,
    /// of the next requests for bytes, how many to send before the connection is cut
    pub cuts: VecDeque<usize>,
    /// whether a request for a range gets the whole file
    pub ignores_ranges: bool,
    /// whether one bit of every large file is another one
    pub flips_a_bit: bool,
    /// bytes by which every large file is longer than it should be
    pub excess: usize,
    /// whether the headers and the list keep silent about size and hash
    pub declares_nothing: bool,
    /// a name that the list has besides the files
    pub extra_name: Option<String>,
    /// a pause after every 16 kB
    pub pause: Duration,
    /// what was asked so far
    pub log: Vec<Request>,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// what was asked for, as it stands in the first line
    pub target: String,
    pub authorization: Option<String>,
    /// the first byte of the range asked for
    pub from: Option<usize>,
    /// bytes of the file that were sent
    pub sent: usize,
}

/// A hub; it ends with the test program.
pub struct HubServer {
    pub origin: String,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl HubServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let shared = Arc::clone(&behaviour);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                // A client that goes away is part of the tests.
                thread::spawn(move || stream.and_then(|stream| serve(&stream, &shared)));
            }
        });
        Self { origin, behaviour }
    }

    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.behaviour().files.insert(name.to_owned(), bytes.to_vec());
    }

    /// The requests for the bytes of a file, by the end of its name.
    pub fn requests_for(&self, end: &str) -> Vec<Request> {
        let behaviour = self.behaviour();
        behaviour.log.iter().filter(|request| request.target.ends_with(end)).cloned().collect()
    }
}

/// True for files in the hub's large-file storage, for which it declares a hash.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(stream: &TcpStream, shared: &Mutex<Behaviour>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut request = Request { target: String::new(), authorization: None, from: None, sent: 0 };
    request.target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => {
                let from = value.strip_prefix("bytes=").and_then(|it| it.strip_suffix('-'));
                request.from = from.and_then(|from| from.parse().ok());
            }
            _ => {}
        }
    }
    let answer = decide(&request, &mut shared.lock().unwrap());
    let mut out = stream;
    write!(out, "HTTP/1.1 {} x\r\nConnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    let length = answer.body.len() + answer.missing;
    write!(out, "Content-Length: {length}\r\n\r\n")?;
    let pause = shared.lock().unwrap().pause;
    let index = {
        let mut behaviour = shared.lock().unwrap();
        behaviour.log.push(request);
        behaviour.log.len() - 1
    };
    for chunk in answer.body.chunks(16 << 10) {
        out.write_all(chunk)?;
        shared.lock().unwrap().log[index].sent += chunk.len();
        thread::sleep(pause);
    }
    out.flush()
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// bytes that are announced and never come
    missing: usize,
}

fn decide(request: &Request, hub: &mut Behaviour) -> Answer {
    let answer = |status, headers, body| Answer { status, headers, body, missing: 0 };
    let plain = |status| answer(status, Vec::new(), Vec::new());
    let commit = hub.commit.clone().unwrap_or_else(|| COMMIT.to_owned());
    if let Some(token) = &hub.token
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        let words = "Access to this model is restricted.".to_owned();
        return answer(401, vec![("X-Error-Message", words)], Vec::new());
    }
    let target = request.target.split('?').next().unwrap_or_default();
    if let Some(rest) = target.strip_prefix("/api/models/") {
        let Some((repository, revision)) = rest.split_once("/revision/") else { return plain(404) };
        let names: Vec<_> = hub
            .files
            .keys()
            .filter_map(|name| name.strip_prefix(&format!("{repository}/")))
            .collect();
        if names.is_empty() || !(revision == "main" || revision == commit) {
            return plain(404);
        }
        let mut siblings: Vec<_> = names
            .iter()
            .map(|name| {
                let bytes = &hub.files[&format!("{repository}/{name}")];
                if hub.declares_nothing {
                    serde_json::json!({ "rfilename": name })
                } else if is_large(name) {
                    let lfs = serde_json::json!({ "sha256": sha256(bytes), "size": bytes.len() });
                    serde_json::json!({ "rfilename": name, "size": bytes.len(), "lfs": lfs })
                } else {
                    serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": "0" })
                }
            })
            .collect();
        siblings.extend(hub.extra_name.iter().map(|it| serde_json::json!({ "rfilename": it })));
        let body = serde_json::json!({ "id": repository, "sha": commit, "siblings": siblings });
        return answer(200, Vec::new(), body.to_string().into_bytes());
    }
    if let Some((status, retry_after)) = hub.answers.pop_front() {
        return answer(status, vec![("Retry-After", retry_after.to_owned())], Vec::new());
    }
    // /OWNER/NAME/resolve/COMMIT/path here, /bytes/OWNER/NAME/path where a redirect leads.
    let name = match target.strip_prefix("/bytes/") {
        Some(name) => Some(name.to_owned()),
        None => target[1..].split_once("/resolve/").and_then(|(repository, rest)| {
            let (asked, path) = rest.split_once('/')?;
            (asked == commit).then(|| format!("{repository}/{path}"))
        }),
    };
    let Some((name, bytes)) = name
        .and_then(|name| Some((hub.files.get(&name)?, name)))
        .map(|(bytes, name)| (name, bytes.clone()))
    else {
        return plain(404);
    };
    let mut headers = vec![("X-Repo-Commit", commit)];
    if is_large(&name) && !hub.declares_nothing {
        headers.push(("X-Linked-Size", bytes.len().to_string()));
        headers.push(("X-Linked-ETag", format!("\"{}\"", sha256(&bytes))));
    }
    if let Some(other) = &hub.redirect {
        headers.push(("Location", format!("{other}/bytes/{name}")));
        return answer(302, headers, Vec::new());
    }
    body(request, hub, &name, bytes, headers)
}

fn body(
    request: &Request,
    hub: &mut Behaviour,
    name: &str,
    mut bytes: Vec<u8>,
    mut headers: Vec<(&'static str, String)>,
) -> Answer {
    headers.push(("ETag", format!("\"{}\"", &sha256(&bytes)[..40])));
    if is_large(name) {
        if hub.flips_a_bit {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        bytes.extend(std::iter::repeat_n(7, hub.excess));
    }
    let whole = bytes.len();
    let status = match request.from.filter(|_| !hub.ignores_ranges) {
        Some(from) if from >= whole => {
            return Answer { status: 416, headers, body: Vec::new(), missing: 0 };
        }
        Some(from) => {
            headers.push(("Content-Range", format!("bytes {from}-{}/{whole}", whole - 1)));
            bytes.drain(..from);
            206
        }
        None => 200,
    };
    let cut = hub.cuts.pop_front().filter(|_| is_large(name)).unwrap_or(usize::MAX);
    let sent = bytes.len().min(cut);
    let missing = bytes.len() - sent;
    bytes.truncate(sent);
    Answer { status, headers, body: bytes, missing }
}
