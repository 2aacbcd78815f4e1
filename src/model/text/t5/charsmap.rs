//! The check of a table of characters (SentencePiece's `precompiled_charsmap`): the crate that reads it takes for
//! granted that every place which it names exists.
//!
//! The table is the length of a trie in bytes, the trie (a double array of Darts, `u32`), and texts that end with a zero.
//! Sources: SentencePiece's `normalizer.cc`, `darts.h`.

use crate::model::text::TextError;

/// Bit of a unit that is a value.
const IS_VALUE: u32 = 1 << 31;
/// Bit of a node behind which there is a value.
const HAS_VALUE: u32 = 1 << 8;

/// Checks that each step and each value of the trie lies within the table.
///
/// # Errors
/// A table that is cut off or damaged.
pub(super) fn check(table: &[u8]) -> Result<(), TextError> {
    if is_whole(table) {
        return Ok(());
    }
    Err(TextError::Tokenizer("its table of characters is damaged".to_owned()))
}

fn is_whole(table: &[u8]) -> bool {
    let Some((length, rest)) = table.split_first_chunk::<4>() else { return false };
    let length = u32::from_le_bytes(*length) as usize;
    let Some((trie, texts)) = rest.split_at_checked(length) else { return false };
    let (units, []) = trie.as_chunks::<4>() else { return false };
    let Ok(texts) = std::str::from_utf8(texts) else { return false };
    let unit = |index: usize| units.get(index).map(|&bytes| u32::from_le_bytes(bytes));
    !units.is_empty()
        && (0..units.len()).all(|index| {
            let Some(node) = unit(index).filter(|unit| unit & IS_VALUE == 0) else { return true };
            let offset = ((node >> 10) << ((node & (1 << 9)) >> 6)) as usize;
            // Any byte may follow a node.
            let first = index ^ offset;
            let value = || unit(first).map(|unit| (unit & !IS_VALUE) as usize);
            (first | 0xff) < units.len()
                && (node & HAS_VALUE == 0 || value().is_some_and(|at| texts.is_char_boundary(at)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table in which `a` becomes `b`: node 0 leads with `a` to node 97, whose value is the text at 0.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; 512];
        // Behind the root lies the block that begins with unit 256.
        units[0] = 256 << 10;
        units[256 ^ usize::from(b'a')] = u32::from(b'a') | HAS_VALUE;
        let own = 256 ^ usize::from(b'a');
        units[own] |= ((own ^ 256) as u32) << 10;
        units[256] = IS_VALUE;
        let mut table = 2048u32.to_le_bytes().to_vec();
        table.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        table.extend(b"b\0");
        table
    }

    #[test]
    fn a_table_that_is_whole_is_used_and_one_that_is_damaged_is_refused() {
        let whole = table();
        check(&whole).unwrap();
        let map = tokenizers::normalizers::Precompiled::from(&whole).unwrap();
        assert_eq!((map.transform("a"), map.transform("c")), (Some("b"), None));
        let with = |index: usize, unit: u32| {
            let mut table = whole.clone();
            table[4 + 4 * index..][..4].copy_from_slice(&unit.to_le_bytes());
            table
        };
        let length = [&u32::MAX.to_le_bytes()[..], &whole[4..]].concat();
        for damaged in [
            Vec::new(),
            whole[..whole.len() / 2].to_vec(),
            length,
            // A step and a value beyond the end.
            with(0, 512 << 10),
            with(256, IS_VALUE | 3),
        ] {
            assert!(check(&damaged).is_err());
        }
    }
}
