//! Lines of the record of a share: JSON, one object a line, which any program may read. docs/guide.md describes every field.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Folder of the records, within that of the outputs: hidden, so that no run takes anything in it for a picture.
pub const FOLDER: &str = ".cupscale-shares";
/// Ending of a record's name.
const ENDING: &str = ".jsonl";

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line<'a> {
    /// The first: a process begins with the share.
    Run(Run),
    /// Something became of a picture.
    Picture {
        /// The picture, as it was named.
        #[serde(borrow)]
        picture: Cow<'a, str>,
        /// Its output below the folder of the outputs: what tells pictures apart.
        #[serde(borrow)]
        output: Cow<'a, str>,
        state: State,
        /// Why it failed or was skipped.
        #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
        reason: Option<Cow<'a, str>>,
        /// Time that it took, for one that is done or failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    /// The last, unless the process was killed: it ends.
    End {
        /// Its exit code.
        code: u8,
        /// Seconds since 1970.
        time: u64,
    },
}

/// What a process is that does a share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Form of the record.
    pub version: u32,
    /// Number of the share, from 1.
    pub share: u32,
    /// Number of all shares.
    pub of: u32,
    /// Pictures of the share.
    pub pictures: usize,
    /// Pictures of all shares, as this process found them.
    pub list: usize,
    pub host: String,
    pub pid: u32,
    /// Seconds since 1970 when it began.
    pub time: u64,
    /// Digest of the settings that decide what the outputs are.
    pub settings: String,
    /// Version of the program.
    pub program: String,
    /// Place of unfinished work, if it is not beside the outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
}

/// State of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Begun,
    Done,
    /// Its output was there.
    Exists,
    /// Another process works on it: its turn comes again.
    Waiting,
    /// Another process works on it, and it is left to that.
    Locked,
    Failed,
}

/// The version of records that this program writes and reads.
pub const VERSION: u32 = 1;

/// Name of the record of one run of a share. Each run has a file of its own: two that run at a time, on hosts whose writes to
/// one file would take each other's place, write none together.
pub fn name(share: u32, of: u32, run: &str) -> String {
    format!("{share:03}-of-{of:03}.{run}{ENDING}")
}

/// Share and number of shares of the record of this name; `None` for another file.
pub fn parse_name(name: &str) -> Option<(u32, u32)> {
    let (shares, _) = name.strip_suffix(ENDING)?.split_once('.')?;
    let (share, of) = shares.split_once("-of-")?;
    let (share, of) = (share.parse().ok()?, of.parse().ok()?);
    (1..=of).contains(&share).then_some((share, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_share_of_how_many() {
        assert_eq!(name(7, 50, "0a1b"), "007-of-050.0a1b.jsonl");
        for (share, of) in [(7, 50), (1, 1), (1234, 100_000)] {
            assert_eq!(parse_name(&name(share, of, "0a1b")), Some((share, of)));
        }
        for other in [
            "",
            "007-of-050.jsonl",
            "000-of-050.a.jsonl",
            "051-of-050.a.jsonl",
            "a-of-b.c.jsonl",
            "007-of-050.a.json",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_line_is_what_the_guide_says() {
        let line = Line::Picture {
            picture: "in/a.png".into(),
            output: "a.png".into(),
            state: State::Failed,
            reason: Some("not a picture".into()),
            seconds: Some(0.5),
        };
        let text = r#"{"event":"picture","picture":"in/a.png","output":"a.png","state":"failed","reason":"not a picture","seconds":0.5}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
        assert!(matches!(serde_json::from_str(text), Ok(Line::Picture { seconds: Some(_), .. })));
    }
}
