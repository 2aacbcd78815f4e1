//! Arithmetic that the compiler turns into vector instructions: the exponential and the normal
//! distribution as straight-line code, and one macro that compiles a loop for AVX-512 and AVX2 as well
//! as for the baseline.

/// Defines a function whose body is compiled for every tier and chosen at run time. Within the body
/// `FUSED` says whether the tier has instructions for [`multiply_add`].
macro_rules! vectorized {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        pub(in crate::backend) fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    body::<true>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has the instructions, as just checked.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has the instructions, as just checked.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(in crate::backend) use vectorized;

/// `a·b + c`, with one rounding if `FUSED`: to be asked for only where that is an instruction.
#[inline(always)]
pub(in crate::backend) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// eˣ within 2 units in the last place (Cephes `expf`). Underflows to the smallest normal number
/// and overflows to the largest power of two in range instead of 0 and ∞; NaN stays NaN.
#[inline(always)]
pub(in crate::backend) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // ln 2 in two parts, the first with few digits, so that n·LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding this leaves the nearest whole number in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.0);
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FUSED>(n, -LN2_HIGH, x);
    let r = multiply_add::<FUSED>(n, -LN2_LOW, r);
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = multiply_add::<FUSED>(p, r, c);
    }
    let mantissa = multiply_add::<FUSED>(p * r, r, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    mantissa * f32::from_bits((exponent.wrapping_add(127) as u32) << 23)
}

/// `x·Φ(x)`, Φ by Abramowitz & Stegun 7.1.26 (error below 1.5e-7); the tail is computed as such,
/// so nothing cancels for large negative x.
#[inline(always)]
pub(in crate::backend) fn gelu<const FUSED: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1, z, 1.0);
    let mut p = 1.061_405_4_f32;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = multiply_add::<FUSED>(p, t, c);
    }
    let tail = 0.5 * p * t * exp::<FUSED>(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `x·σ(slope·x)`.
#[inline(always)]
pub(in crate::backend) fn swish<const FUSED: bool>(x: f32, slope: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-slope * x))
}

/// `x·½(1 + tanh(√(2/π)(x + 0.044715·x³)))`, as `x·σ` of twice that argument.
#[inline(always)]
pub(in crate::backend) fn gelu_tanh<const FUSED: bool>(x: f32) -> f32 {
    // 2·√(2/π), and 0.044715 times that.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    let z = x * multiply_add::<FUSED>(CUBIC * x, x, LINEAR);
    x / (1.0 + exp::<FUSED>(-z))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_the_last_places_over_its_whole_range() {
        for step in -8_700..8_800 {
            let x = step as f32 / 100.0;
            let expected = f64::from(x).exp();
            for value in [exp::<false>(x), exp::<true>(x)] {
                let error = (f64::from(value) - expected).abs() / expected;
                assert!(error < 3e-7, "exp({x}): {error:e}");
            }
        }
        for exp in [exp::<false>, exp::<true>] {
            assert!(exp(f32::NAN).is_nan());
            assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(f32::INFINITY) > 1e38);
        }
    }

    #[test]
    fn gelu_of_a_huge_or_undefined_value_is_what_it_must_be() {
        for (gelu, swish) in [
            (gelu::<false> as fn(f32) -> f32, swish::<false> as fn(f32, f32) -> f32),
            (gelu::<true>, swish::<true>),
        ] {
            assert_eq!(gelu(1e20), 1e20);
            assert!(gelu(-40.0).abs() < 1e-30);
            assert!(gelu(f32::NAN).is_nan() && swish(f32::NAN, 1.0).is_nan());
            assert!(swish(-200.0, 1.0).abs() < 1e-30);
        }
        for gelu in [gelu_tanh::<false>, gelu_tanh::<true>] {
            assert_eq!(gelu(1e20), 1e20);
            assert!(gelu(-40.0).abs() < 1e-30 && gelu(f32::NAN).is_nan());
        }
    }
}
