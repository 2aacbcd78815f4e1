//! Values to compute with, and the bars that results are held to.

use crate::Element;

/// `len` numbers between −1 and 1, the same for the same seed, rounded to the type.
pub fn uniform<T: Element>(seed: u64, len: usize) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    (0..len)
        .map(|_| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            T::round((z >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
        })
        .collect()
}

/// Holds `computed` to `reference`: they differ by at most `bar` of the largest value, and by half a unit in
/// the last place of the type.
///
/// # Panics
/// If they do not, with the place of the largest difference.
#[track_caller]
pub fn assert_close<T: Element>(what: &str, computed: &[T], reference: &[f64], bar: f64) {
    assert_eq!(computed.len(), reference.len(), "{what}: lengths");
    let largest = reference.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let mut worst = (0.0, 0);
    for (index, (&computed, &reference)) in computed.iter().zip(reference).enumerate() {
        let own = reference.abs() * f64::powi(2.0, -T::BITS);
        let beyond = (computed.widen() - reference).abs() - own;
        assert!(beyond.is_finite(), "{what}: {computed:?} at {index}, not {reference}");
        if beyond > worst.0 {
            worst = (beyond, index);
        }
    }
    let (beyond, index) = worst;
    assert!(
        beyond <= bar * largest,
        "{what}: {:?} at {index}, not {}: {:.2e} of the largest value {largest}",
        computed[index],
        reference[index],
        beyond / largest
    );
}
