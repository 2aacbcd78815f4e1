//! Who may ask: requests come by a name that this server has (so that no site can reach it under a name of its own), from
//! pages of its own or of allowed sites, and with the token if there is one. Every answer passes here, too.

use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tracing::info;

use super::{
    error::{Kind, Refusal},
    linger::linger,
};
use crate::cli::args::{ServerArgs, Token};

/// Places that need no token: the page, which asks for it, what tells that the server lives, and the API's description.
const OPEN: [&str; 3] = ["/", "/health", "/openapi.json"];
/// Where Basic is offered as well: plug-ins there know nothing else. (A browser that is offered it shows its own dialog.)
const BASIC: &str = "/sdapi/";

const METHODS: &str = "GET, POST, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type";
const ANSWER_HEADERS: &str = "content-disposition, location, retry-after";
/// Seconds for which a browser may remember what is allowed.
const MAX_AGE: &str = "600";

/// Rules of who may ask.
pub struct Guard {
    /// Digest of the token: of one length, whatever is compared with it.
    token: Option<[u8; 32]>,
    /// Names of this server, in lower case, without ports.
    names: Vec<String>,
    /// Every address is this server's: it listens on all of the machine. No site can make an address its name.
    any_address: bool,
    origins: Vec<String>,
}

impl Guard {
    pub fn new(args: &ServerArgs, token: Option<&Token>) -> Self {
        let ip = args.listen.ip();
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.push(ip.to_string());
        names.extend(args.allow_host.iter().map(|name| bare(name).to_owned()));
        Self {
            token: token.map(|token| digest(token.as_str().as_bytes())),
            names,
            any_address: ip.is_unspecified(),
            origins: args.allow_origin.clone(),
        }
    }

    /// `true` if requests need a token.
    pub fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    fn is_name(&self, authority: &str) -> bool {
        // What is no name and port (an address with a user's name, say) is nobody's.
        if authority.contains('@') || authority.parse::<Authority>().is_err() {
            return false;
        }
        let name = bare(authority).to_ascii_lowercase();
        self.names.contains(&name) || self.any_address && name.parse::<IpAddr>().is_ok()
    }

    /// The name that the request came by.
    ///
    /// # Errors
    /// One that is not this server's, or none.
    fn check_host<'a>(&self, request: &'a Request) -> Result<&'a str, Refusal> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let host = match (host, hosts.next(), request.uri().authority()) {
            (Some(host), None, None) => host,
            (Some(host), None, Some(other)) if other.as_str() == host => host,
            _ => return Err(Refusal::new(Kind::Forbidden, "the request needs one Host header")),
        };
        if self.is_name(host) {
            return Ok(host);
        }
        let shown: String = host.chars().take(100).collect();
        let message = format!(
            "{shown} is no name of this server: it is started with --allow-host for others"
        );
        Err(Refusal::new(Kind::Forbidden, message))
    }

    /// The site that the request came from, if it is another one.
    ///
    /// # Errors
    /// A site that is not allowed.
    fn check_origin(
        &self,
        headers: &HeaderMap,
        host: &str,
    ) -> Result<Option<HeaderValue>, Refusal> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(None) };
        let origin = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if own.is_some_and(|own| own == host.to_ascii_lowercase()) {
            return Ok(None);
        }
        if self.origins.contains(&origin) {
            return Ok(Some(value.clone()));
        }
        let shown: String = origin.chars().take(100).collect();
        let message = format!(
            "pages of {shown} may not ask this server: it is started with --allow-origin for them"
        );
        Err(Refusal::new(Kind::Forbidden, message))
    }

    /// Checks the token, if there is one.
    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(given) = given.and_then(token_of) else {
            let message = "this server wants its token: Authorization: Bearer TOKEN";
            return Err(Refusal::new(Kind::Unauthorized, message));
        };
        if bool::from(digest(&given).ct_eq(token)) {
            return Ok(());
        }
        Err(Refusal::new(Kind::Unauthorized, "the token is wrong"))
    }
}

/// `true` for a place that needs no token.
pub fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// The token of an `Authorization` header: that of Bearer, or the password of Basic.
fn token_of(value: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let at = pair.iter().position(|&sign| sign == b':')?;
    Some(pair[at + 1..].to_vec())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// An authority without its port and brackets.
fn bare(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match authority.rsplit_once(':') {
        // An address of the sixth version without brackets has more of them.
        Some((name, _)) if !name.contains(':') => name,
        _ => authority,
    }
}

/// Lets a request in, and its answer out.
pub async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (mut response, site) = match admit(&guard, &request, &path) {
        Ok(Admitted::Preflight(site)) => (preflight(request.headers()), Some(site)),
        Ok(Admitted::Request(site)) => (next.run(request).await, site),
        Err((refusal, site)) => {
            // Who waits to be told to go on has sent nothing yet.
            if !request.headers().contains_key(header::EXPECT) {
                linger(request.into_body()).await;
            }
            let is_unknown = refusal.kind == Kind::Unauthorized;
            let mut response = refusal.into_response();
            if is_unknown && path.starts_with(BASIC) {
                let basic = HeaderValue::from_static("Basic realm=\"cupscale\", charset=\"UTF-8\"");
                response.headers_mut().append(header::WWW_AUTHENTICATE, basic);
            }
            (response, site)
        }
    };
    protect(response.headers_mut(), site);
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    info!(%method, path, status, ?took, "request");
    response
}

enum Admitted {
    /// A browser asks whether it may ask for this site.
    Preflight(HeaderValue),
    Request(Option<HeaderValue>),
}

fn admit(
    guard: &Guard,
    request: &Request,
    path: &str,
) -> Result<Admitted, (Refusal, Option<HeaderValue>)> {
    let host = guard.check_host(request).map_err(|refusal| (refusal, None))?;
    let headers = request.headers();
    let site = guard.check_origin(headers, host).map_err(|refusal| (refusal, None))?;
    let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if let Some(site) = site.clone()
        && request.method() == Method::OPTIONS
        && asks
    {
        return Ok(Admitted::Preflight(site));
    }
    let is_open = [Method::GET, Method::HEAD].contains(request.method()) && is_open(path);
    if !is_open {
        guard.check_token(headers).map_err(|refusal| (refusal, site.clone()))?;
    }
    Ok(Admitted::Request(site))
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    // A page of a public site asks a server of the local network.
    if asked.contains_key("access-control-request-private-network") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        headers.insert(name, HeaderValue::from_static("true"));
    }
    *response.body_mut() = Body::empty();
    response
}

/// What browsers are told about every answer.
fn protect(headers: &mut HeaderMap, site: Option<HeaderValue>) {
    let mut own = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    own(header::CACHE_CONTROL, "no-store");
    own(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    own(header::REFERRER_POLICY, "no-referrer");
    own(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox");
    own(header::VARY, "origin");
    let reach = if site.is_some() { "cross-origin" } else { "same-origin" };
    own(HeaderName::from_static("cross-origin-resource-policy"), reach);
    if let Some(site) = site {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, site);
        let shown = HeaderValue::from_static(ANSWER_HEADERS);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(any_address: bool) -> Guard {
        Guard {
            token: Some(digest(b"0123456789")),
            names: ["localhost", "127.0.0.1", "::1", "studio.local"].map(str::to_owned).to_vec(),
            any_address,
            origins: vec!["https://studio.example".to_owned()],
        }
    }

    #[test]
    fn only_names_of_the_server_are_its_own() {
        for host in
            ["localhost", "LOCALHOST:7860", "127.0.0.1:7860", "[::1]:7860", "studio.local:80"]
        {
            assert!(guard(false).is_name(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.0.9:7860",
            "",
            ":7860",
            "a@localhost",
            "localhost/",
        ] {
            assert!(!guard(false).is_name(host), "{host}");
        }
        assert!(guard(true).is_name("192.168.0.9:7860") && guard(true).is_name("[fe80::1]:1"));
        assert!(!guard(true).is_name("evil.example:7860"));
    }

    #[test]
    fn pages_of_other_sites_may_not_ask() {
        let of = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            guard(false).check_origin(&headers, "127.0.0.1:7860").map(|site| site.is_some())
        };
        assert_eq!(of("http://127.0.0.1:7860"), Ok(false));
        assert_eq!(of("https://studio.example"), Ok(true));
        for origin in
            ["null", "http://127.0.0.1", "http://localhost:7860", "https://evil.example", "file://"]
        {
            assert_eq!(of(origin).unwrap_err().kind, Kind::Forbidden, "{origin}");
        }
        assert_eq!(guard(false).check_origin(&HeaderMap::new(), "a"), Ok(None));
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_the_password_of_basic() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            guard(false).check_token(&headers).is_ok()
        };
        assert!(of("Bearer 0123456789") && of("bearer 0123456789"));
        assert!(of(&format!("Basic {}", STANDARD.encode("anyone:0123456789"))));
        for value in [
            "Bearer 012345678",
            "Bearer",
            "0123456789",
            "Digest 0123456789",
            "Basic !",
            "Basic MDEyMzQ1Njc4OQ==",
        ] {
            assert!(!of(value), "{value}");
        }
        assert!(guard(false).check_token(&HeaderMap::new()).is_err());
    }
}
