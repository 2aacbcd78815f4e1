//! Logarithm and cosine from additions, products and quotients only.
//!
//! The noise field and the fusion weights promise the same bits on every machine. IEEE 754 pins down
//! `+ - * / sqrt`, but the system's `ln` and `cos` differ in their last bits from one C library to the
//! next, so these two are our own. The crate `libm` is portable too, but its last bits are others for a third of all
//! arguments: with it every picture would change. Rust never contracts a product and a sum into one rounding, so
//! every machine computes the same bits.

use std::f64::consts::{FRAC_PI_2, LN_2, SQRT_2};

/// Natural logarithm of a positive normal number; error below 4e-16 relative to `max(1, |ln x|)`.
///
/// `x = m·2^e` with `m` in [√½, √2], and `ln m = 2·artanh((m − 1)/(m + 1))` by its series.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | (1023 << 52));
    if mantissa > SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    // |s| <= 0.172, so the first omitted term, s^22/23, is below 1e-18.
    let mut series = 1.0 / 21.0;
    for odd in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * s2 + 1.0 / odd;
    }
    exponent as f64 * LN_2 + 2.0 * s * series
}

/// `cos(r·π/2)` for `r` in [0, 1], by its Taylor series; absolute error below 1e-15.
pub(super) fn cos_quarter(r: f64) -> f64 {
    let a = r * FRAC_PI_2;
    let a2 = a * a;
    // Nested form: 1 − a²/(1·2)·(1 − a²/(3·4)·(…)); the first omitted term, a^24/24!, is below 1e-19.
    let mut value = 1.0;
    let mut k = 22.0;
    while k > 0.0 {
        value = 1.0 - value * a2 / ((k - 1.0) * k);
        k -= 2.0;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_agrees_with_the_system_library_over_the_whole_uniform_range() {
        for i in 0..200_000u64 {
            // From 2^-33 (the smallest uniform drawn) up to 1.
            let x = ((i * 21_474) as f64 + 0.5) / 4_294_967_296.0;
            let error = (ln(x) - x.ln()).abs() / x.ln().abs().max(1.0);
            assert!(error < 1e-15, "ln({x}): {} against {}", ln(x), x.ln());
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn cosine_of_a_quarter_turn_agrees_with_the_system_library() {
        for i in 0..=100_000 {
            let r = f64::from(i) / 100_000.0;
            let expected = (r * FRAC_PI_2).cos();
            assert!((cos_quarter(r) - expected).abs() < 1e-15, "r = {r}");
        }
        assert_eq!(cos_quarter(0.0), 1.0);
    }
}
