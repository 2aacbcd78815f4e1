//! Text output: whatever the program says to a person passes here, where what a terminal would obey is escaped and
//! lines get a bound. Names of files, of tensors and of models come from anywhere; nothing before this place needs to
//! care.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write as _},
};

use super::error::CliError;

/// Characters of a line at most; of a longer one the ends are shown.
const LONGEST: usize = 1000;

/// Characters of a longer line's end, where messages say what helps.
const END: usize = 300;

/// One line for a terminal: control characters and those that change the direction of text are escaped
/// (`\n`, `\u{1b}`), and only the ends of a line beyond the limit are shown.
pub fn line(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    if text.chars().nth(LONGEST).is_some() {
        // Places in a string that is all characters that the limit leaves.
        let start: String = text.chars().take(LONGEST - END).collect();
        let end: Vec<char> = text.chars().rev().take(END).collect();
        shown = Cow::Owned(start + " … " + &end.into_iter().rev().collect::<String>());
    }
    if !shown.contains(is_obeyed) {
        return shown;
    }
    let mut escaped = String::with_capacity(shown.len() + 16);
    for sign in shown.chars() {
        if is_obeyed(sign) {
            escaped.extend(sign.escape_default());
        } else {
            escaped.push(sign);
        }
    }
    Cow::Owned(escaped)
}

/// `true` for characters that a terminal does not show but obeys: control characters, line ends, and marks that
/// turn the direction of the text behind them.
fn is_obeyed(sign: char) -> bool {
    sign.is_control()
        || matches!(
            sign,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        )
}

/// JSON for a program or a terminal: the same value, with characters that a terminal would obey escaped as JSON
/// escapes them. Nothing is left out. Line ends between values stay.
pub fn json(text: &str) -> Cow<'_, str> {
    // Everything below U+0020 is escaped already, and none of these can stand outside a string.
    let is_obeyed = |sign: char| sign >= '\u{7f}' && is_obeyed(sign);
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for sign in text.chars() {
        if is_obeyed(sign) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(sign));
        } else {
            escaped.push(sign);
        }
    }
    Cow::Owned(escaped)
}

/// Writes a message as one line to standard error; write errors are ignored.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", line(text));
}

/// Writes an error as one line to standard error; write errors are ignored.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "cupscale-fast: {}", line(text));
}

/// Writes a line for a program to standard error as it is; write errors are ignored.
pub fn say_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes the result of a verb, text of one or more lines, to standard output.
pub fn print(text: &str) -> Result<(), CliError> {
    let lines: Vec<_> = text.split('\n').map(line).collect();
    print_as_is(&lines.join("\n"))
}

/// Writes the result of a verb, a JSON value, to standard output.
pub fn print_json(value: &str) -> Result<(), CliError> {
    print_as_is(&json(value))
}

fn print_as_is(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Print)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_else_stays() {
        for (text, expected) in [
            ("été 東京 👩‍👩‍👧.png: 2 × 3", "été 東京 👩‍👩‍👧.png: 2 × 3"),
            ("a\u{1b}]0;owned\u{7}.png", "a\\u{1b}]0;owned\\u{7}.png"),
            ("a\nb\r\t\u{7f}\u{9b}2J", "a\\nb\\r\\t\\u{7f}\\u{9b}2J"),
            ("gnp.\u{202e}jpg", "gnp.\\u{202e}jpg"),
            ("a\u{61c}b\u{206f}c", "a\\u{61c}b\\u{206f}c"),
        ] {
            assert_eq!(line(text), expected);
        }
    }

    #[test]
    fn a_line_that_is_too_long_shows_its_ends() {
        let long = format!("merge `{}` is not in the vocabulary; do this", "é".repeat(1 << 20));
        let shown = line(&long);
        assert!(
            shown.starts_with("merge `éé")
                && shown.ends_with("é` is not in the vocabulary; do this")
        );
        assert_eq!(shown.chars().count(), LONGEST + 3);
        let whole = "x".repeat(LONGEST);
        assert_eq!(line(&whole), whole);
    }

    #[test]
    fn json_keeps_its_value_and_its_lines() {
        let value = serde_json::json!({ "input": "a\u{9b}\u{202e}\u{7f}\n\u{1b}é.png" });
        let text = format!("{value:#}\n");
        let shown = json(&text);
        assert!(!shown.contains(|sign| sign != '\n' && is_obeyed(sign)), "{shown}");
        assert!(shown.contains(r"\u009b\u202e\u007f\n\u001bé"), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
