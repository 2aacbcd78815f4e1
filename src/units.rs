//! Numbers as people read them, written the same way everywhere in the program: byte counts in binary units, digests in
//! hexadecimal digits, and things that are counted.

use std::fmt::Write as _;

/// Byte count with the unit that fits: `512 B`, `618.0 MiB`, `7.3 GiB` (powers of 1024; GiB is the largest unit).
///
/// `count` is any integer type, so that lengths (`usize`) and file sizes (`u64`) need no cast; a count that no
/// `u64` holds is shown as the largest one.
#[must_use]
pub fn bytes(count: impl TryInto<u64>) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let mut value = count as f64;
    let mut units = ["B", "KiB", "MiB", "GiB"].into_iter().peekable();
    while let Some(unit) = units.next() {
        // What would be rounded to 1024.0 of a unit is 1.0 of the next one.
        if value < 1023.95 || units.peek().is_none() {
            let decimals = usize::from(unit != "B");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    unreachable!("the last unit returns")
}

/// A number of things by their name in the singular: `1 region`, `2 regions`. The plural is the name with an `s`.
#[must_use]
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Lower-case hexadecimal digits, two for each byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_shown_with_the_unit_that_fits() {
        for (count, expected) in [
            (0u64, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (618 << 20, "618.0 MiB"),
            (7_838_315_316, "7.3 GiB"),
            (4_000_000_000_000_000, "3725290.3 GiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(bytes(8usize << 30), "8.0 GiB");
    }

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "step")), ["0 steps", "1 step", "2 steps"]);
    }

    #[test]
    fn digests_have_two_digits_a_byte() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }
}
