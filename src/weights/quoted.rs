//! Texts out of files in messages: a message is one line of a bounded length, whatever a file holds.

/// Beginning of a text in at most so many characters and the escapes of those that are no plain text, with `…` where
/// there is more.
pub(super) fn quoted(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let mut start = String::new();
    for character in characters.by_ref().take(most) {
        if character.is_control() {
            start.extend(character.escape_debug());
        } else {
            start.push(character);
        }
    }
    if characters.next().is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_and_its_control_characters_are_written_out() {
        for (text, expected) in [
            ("unet \"x\" ü", "unet \"x\" ü"),
            ("a\n\u{1b}[31m", "a\\n\\u{1b}[31m"),
            ("12345678901", "1234567890…"),
        ] {
            assert_eq!(quoted(text, 10), expected);
        }
    }
}
