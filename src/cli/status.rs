//! `status`: sums up all shares whose outputs lie in a folder, while they run and afterwards.

use std::fmt::Write as _;

use cupscale::{pipeline::Error, units};

use super::{
    args::StatusArgs,
    error::{CliError, DONE, FAILED, SKIPPED},
    print::{complain, print, print_json},
    shares::{OfShare, Summary},
};

/// The most shares that are listed without being asked for.
const FEW: usize = 20;

/// Exit code while pictures are left and none has failed: as for what was skipped, an engine may come again.
const LEFT: u8 = SKIPPED;

/// Prints it; the exit code says whether all is done.
///
/// # Errors
/// A folder without shares, or records that cannot be read.
pub fn run(args: &StatusArgs) -> Result<u8, CliError> {
    let summary =
        Summary::of(&args.folder).map_err(|(path, source)| Error::Work { path, source })?;
    let Some(summary) = summary else {
        let what = if args.folder.is_dir() { "no share" } else { "no such folder: no share" };
        return Err(CliError::Usage(format!(
            "{}: {what} was begun with its outputs there (--shard writes a record into their folder)",
            args.folder.display()
        )));
    };
    match args.json {
        true => print_json(&format!("{:#}\n", serde_json::json!(summary)))?,
        false => {
            summary.notes.iter().for_each(|note| complain(note));
            print(&text(&summary, args.shares))?;
        }
    }
    Ok(match &summary {
        Summary { failed: 1.., .. } => FAILED,
        Summary { left: 0, running: 0, .. } => DONE,
        _ => LEFT,
    })
}

fn text(summary: &Summary, every: bool) -> String {
    let Summary { pictures, done, failed, running, left, of, not_begun, shares, failures, .. } =
        summary;
    let mut text = format!(
        "{}: {done} done, {failed} failed, {running} running, {left} left\n",
        units::count(*pictures, "picture")
    );
    if *not_begun > 0 {
        let _ = writeln!(text, "{not_begun} of {of} shares have not begun");
    }
    if every || shares.len() <= FEW {
        text += &table(shares);
    }
    for failure in failures {
        // One that names its picture need not name it twice.
        match failure.reason.starts_with(&failure.picture) {
            true => text += &one_line(&failure.reason),
            false => text += &one_line(&format!("{}: {}", failure.picture, failure.reason)),
        }
    }
    text
}

/// A line of its own, whatever a name holds.
fn one_line(text: &str) -> String {
    format!("{}\n", super::print::line(text))
}

fn table(shares: &[OfShare]) -> String {
    let head =
        ["share", "pictures", "done", "failed", "running", "left", "runs", "host", "last run"];
    let rows = shares.iter().map(|share| {
        let ended = match share.code {
            Some(code) => format!("ended with {code}"),
            None if share.running > 0 => "runs".to_owned(),
            None => "has not ended".to_owned(),
        };
        let OfShare {
            share: number, of, pictures, done, failed, running, left, runs, host, ..
        } = share;
        [
            format!("{number}/{of}"),
            pictures.to_string(),
            done.to_string(),
            failed.to_string(),
            running.to_string(),
            left.to_string(),
            runs.to_string(),
            super::print::line(host).into_owned(),
            ended,
        ]
    });
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..head.len()).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Numbers stand below each other.
            let pad = " ".repeat(width - cell.chars().count());
            if (1..=6).contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}
