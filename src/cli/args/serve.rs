//! Options of `serve`: where it listens, who may ask, how much, and where its jobs lie.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
};

use clap::{ArgMatches, Args, parser::ValueSource};

use super::{JobArgs, request};
use crate::cli::values;

/// The variable that has the token where no option does.
const TOKEN_VARIABLE: &str = "CUPSCALE_TOKEN";

/// Fewest characters of a token: a shorter one is guessed.
const SHORTEST_TOKEN: usize = 8;

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub job: JobArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Address and port to listen on; port 0 takes one that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7860", value_parser = address)]
    pub listen: SocketAddr,
    /// Token that every request must bear [default: $CUPSCALE_TOKEN; without either none on the loopback, and on any other
    /// address one that is made and printed]
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    token: Option<Token>,
    /// Name under which clients may reach it, besides the loopback's names and the address; may be given several times
    #[arg(long, value_name = "NAME", value_parser = host)]
    pub allow_host: Vec<String>,
    /// Site whose pages may ask from a browser (CORS), as `https://studio.example`; may be given several times
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub allow_origin: Vec<String>,
    /// Folder of the jobs, with which another start goes on [default: one for the address in the cache; for port 0 one
    /// that is removed at the end]
    #[arg(long, value_name = "DIR")]
    pub jobs_dir: Option<PathBuf>,
    /// Jobs that may wait behind the one that runs
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub queue: u32,
    /// Hours for which jobs that have ended are kept
    #[arg(long, value_name = "HOURS", default_value_t = 24.0, value_parser = values::positive)]
    pub keep: f64,
    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::bytes)]
    pub max_body: usize,
    /// Most pixels of a picture, before and after
    #[arg(long, value_name = "N", default_value = "100M", value_parser = pixels)]
    pub max_pixels: u64,
    /// Longest time of a job while it runs [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_time: Option<u32>,
}

/// A secret that is not shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token in letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl ServerArgs {
    /// The token by the option, or by the environment.
    ///
    /// # Errors
    /// One that is too short or cannot be sent.
    pub fn token(&self) -> Result<Option<Token>, String> {
        if self.token.is_some() {
            return Ok(self.token.clone());
        }
        match std::env::var(TOKEN_VARIABLE) {
            Ok(text) if !text.is_empty() => {
                let of_variable =
                    token(&text).map_err(|error| format!("${TOKEN_VARIABLE}: {error}"));
                of_variable.map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Options of a job that `serve` refuses on its command line.
pub fn refused() -> Vec<String> {
    request::refused().into_iter().chain(["work_dir".to_owned()]).collect()
}

/// Why `serve` does not start with these options, if it does not.
pub fn refusal(matches: &ArgMatches) -> Option<String> {
    request::refusal(matches, "serve", "requests").or_else(|| {
        let is_typed = matches.value_source("work_dir") == Some(ValueSource::CommandLine);
        is_typed.then(|| {
            "--work-dir is not for `serve`: the work of its jobs is in --jobs-dir".to_owned()
        })
    })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| "an address and a port, as 127.0.0.1:7860 or 0.0.0.0:7860".to_owned())
}

fn token(text: &str) -> Result<Token, String> {
    if text.chars().count() < SHORTEST_TOKEN {
        return Err(format!("a token has {SHORTEST_TOKEN} characters at least"));
    }
    if !text.chars().all(|sign| sign.is_ascii_graphic()) {
        return Err("a token has letters, digits and signs of ASCII, and no spaces".to_owned());
    }
    Ok(Token(text.to_owned()))
}

fn host(text: &str) -> Result<String, String> {
    let is_sign = |sign: char| sign.is_ascii_alphanumeric() || ".-_:[]".contains(sign);
    if text.is_empty() || !text.chars().all(is_sign) {
        return Err("a name as studio.local, or an address".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest)
            if !rest.is_empty()
                && rest.chars().all(|sign| sign.is_ascii_graphic() && !"/?#@*".contains(sign)) =>
        {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(
            "an origin is http:// or https://, a name and perhaps a port, with nothing behind it"
                .to_owned(),
        ),
    }
}

/// A number of pixels: `100M` are a hundred million.
fn pixels(text: &str) -> Result<u64, String> {
    let wrong = || "a number of pixels, as 100M or 64000000".to_owned();
    let (number, unit) = match text.find(|sign: char| sign.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    match number * factor {
        pixels if (1.0..1e15).contains(&pixels) => Ok(pixels as u64),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_server_are_read_and_refused() {
        assert_eq!(pixels("100M"), Ok(100_000_000));
        assert_eq!(pixels("1.5k"), Ok(1500));
        for text in ["", "M", "0", "-1M", "1T", "1e40"] {
            assert!(pixels(text).is_err(), "{text}");
        }
        assert_eq!(address("127.0.0.1:0").unwrap().port(), 0);
        assert!(address("127.0.0.1").is_err() && address(":80").is_err());
        assert_eq!(origin("https://Studio.example:8080").unwrap(), "https://studio.example:8080");
        for text in ["*", "null", "studio.example", "https://studio.example/", "https://a@b"] {
            assert!(origin(text).is_err(), "{text}");
        }
        assert!(token("short").is_err() && token("with a space").is_err());
        assert!(host("a/b").is_err() && host("").is_err());
        let shown = format!("{:?}", token("0123456789abcdef").unwrap());
        assert!(!shown.contains("0123"), "{shown}");
    }
}
