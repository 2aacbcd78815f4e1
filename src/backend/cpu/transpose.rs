//! Rows of words to a panel: sixteen by sixteen at a time in registers where there are enough.

use super::kernel::{PANEL, ROW};

/// `panel[w][r] = rows[r][w]` for [`PANEL`] rows, [`ROW`] words apart, and `words` words.
pub(in crate::backend) fn transpose(rows: &[u32], words: usize, panel: &mut [u32]) {
    assert!(words <= ROW && rows.len() >= PANEL * ROW && panel.len() >= words * PANEL, "sizes");
    let done = whole_squares(rows, words, panel);
    for (word, panel) in panel.chunks_exact_mut(PANEL).enumerate().take(words).skip(done) {
        for (value, row) in panel.iter_mut().zip(rows.chunks_exact(ROW)) {
            *value = row[word];
        }
    }
}

/// Does as many words as are done sixteen at a time, and says how many those are.
fn whole_squares(rows: &[u32], words: usize, panel: &mut [u32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        let words = words / 16 * 16;
        for word in (0..words).step_by(16) {
            for row in (0..PANEL).step_by(16) {
                let (from, to) = (row * ROW + word, word * PANEL + row);
                // SAFETY: the processor has the instructions, as just checked.
                unsafe { square(&rows[from..], &mut panel[to..]) };
            }
        }
        return words;
    }
    let _ = (rows, words, panel);
    0
}

/// Sixteen words of sixteen rows: pairs, fours, and then the quarters of the vectors change places.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn square(rows: &[u32], panel: &mut [u32]) {
    use std::arch::x86_64::{
        _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    let mut a = [_mm512_setzero_si512(); 16];
    let mut b = a;
    for (row, a) in a.iter_mut().enumerate() {
        // SAFETY: sixteen words, as the slice checks.
        *a = unsafe { _mm512_loadu_si512(rows[row * ROW..][..16].as_ptr().cast()) };
    }
    for i in 0..8 {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for i in 0..4 {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
    for j in 0..4 {
        for half in [0, 8] {
            let (first, second) = (a[half + j], a[half + 4 + j]);
            b[half + j] = _mm512_shuffle_i32x4::<0x88>(first, second);
            b[half + 4 + j] = _mm512_shuffle_i32x4::<0xdd>(first, second);
        }
    }
    for j in 0..8 {
        a[j] = _mm512_shuffle_i32x4::<0x88>(b[j], b[8 + j]);
        a[8 + j] = _mm512_shuffle_i32x4::<0xdd>(b[j], b[8 + j]);
    }
    for (word, a) in a.into_iter().enumerate() {
        // SAFETY: sixteen words, as the slice checks.
        unsafe { _mm512_storeu_si512(panel[word * PANEL..][..16].as_mut_ptr().cast(), a) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_every_row_finds_its_place_in_the_panel() {
        let rows: Vec<u32> = (0..(PANEL * ROW) as u32).collect();
        for words in [1, 15, 16, 37, 256] {
            let mut panel = vec![0; words * PANEL];
            transpose(&rows, words, &mut panel);
            for (word, panel) in panel.chunks_exact(PANEL).enumerate() {
                for (row, &value) in panel.iter().enumerate() {
                    assert_eq!(value as usize, row * ROW + word, "{words}");
                }
            }
        }
    }
}
