//! Self-test of kernels: each operation of ours on small odd shapes against its composed form in f32, on the device
//! itself. A GPU's driver compiles the kernels for a chip that nobody may have tried them on; one that fails is left
//! unused.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use candle_core::{DType, Device, DeviceLocation, Result, Tensor};

use super::{
    Activation, KernelChoice, MatmulPrecision, Operation, Params, Placement, Trace, first_line,
    kernels::forced,
    ops::{
        Conv2d, CropRect, GroupMoments, GroupNorm, LayerNorm, Linear, Mask, RmsNorm, add,
        attention, attention_parts, biased_attention, blend, crop_resize, geglu, gelu, gelu_tanh,
        join, leaky_relu, prelu, quick_gelu, silu, swiglu, upsample_nearest_2x,
    },
};

/// Test of an operation's kernels for one type of values.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KernelTest {
    /// The operation.
    pub operation: Operation,
    /// The type of the values.
    pub dtype: DType,
    /// The largest difference from the composed form, as a share of the largest value; or the error of a kernel.
    pub outcome: std::result::Result<f32, String>,
}

impl KernelTest {
    /// The largest difference that values of a type may have: their own rounding, and a margin.
    #[must_use]
    pub fn tolerance(&self) -> f32 {
        if self.dtype == DType::F32 { 1e-4 } else { 4e-3 }
    }

    /// `true` if the kernels compute what they should.
    #[must_use]
    pub fn passed(&self) -> bool {
        // A difference that is no number is none that is small.
        self.outcome.as_ref().is_ok_and(|&difference| difference <= self.tolerance())
    }
}

/// Tests of the GPUs that were opened.
static TESTED: Mutex<Vec<(DeviceLocation, Vec<KernelTest>)>> = Mutex::new(Vec::new());

/// Tests the kernels of a GPU, once in a process; operations whose kernels fail are composed from then on. The CPU's
/// and those of a device without kernels are not tested.
pub(super) fn test_once(device: &Device) {
    if device.is_cpu() {
        return;
    }
    let mut tested = TESTED.lock().unwrap_or_else(PoisonError::into_inner);
    if tested.iter().all(|(location, _)| *location != device.location()) {
        let tests = self_test(device);
        for test in tests.iter().filter(|test| !test.passed()) {
            test.operation.leave_unused(test.dtype);
        }
        tested.push((device.location(), tests));
    }
}

/// The tests of a GPU's kernels that were made when it was opened; none of the CPU's.
#[must_use]
pub fn kernel_tests(device: &Device) -> Vec<KernelTest> {
    let tested = TESTED.lock().unwrap_or_else(PoisonError::into_inner);
    let of_device = tested.iter().find(|(location, _)| *location == device.location());
    of_device.map(|(_, tests)| tests.clone()).unwrap_or_default()
}

/// Tests every kernel that there is for this device, for each type of values. It takes well under a second once a
/// driver has compiled the kernels.
#[must_use]
pub fn self_test(device: &Device) -> Vec<KernelTest> {
    let placement = Placement::from(device);
    let mut tests = Vec::new();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for operation in Operation::ALL {
            if operation.has_kernel(placement, dtype) {
                let outcome = largest_difference(operation, dtype, device)
                    .map_err(|error| first_line(&error));
                tests.push(KernelTest { operation, dtype, outcome });
            }
        }
    }
    tests
}

/// The largest difference of all of an operation's cases.
fn largest_difference(operation: Operation, dtype: DType, device: &Device) -> Result<f32> {
    let ours = Inputs { rounded: dtype, dtype, device, trace: None };
    let reference = Inputs { rounded: dtype, dtype: DType::F32, device, trace: None };
    let mut largest = 0f32;
    for case in cases(operation) {
        let own = forced(KernelChoice::Own, || values(&case(&ours)?))?;
        let composed = forced(KernelChoice::Composed, || values(&case(&reference)?))?;
        if own.len() != composed.len() {
            candle_core::bail!("{} values, not {}", own.len(), composed.len());
        }
        let scale = composed.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        for (own, composed) in own.iter().zip(&composed) {
            let difference = (own - composed).abs() / scale;
            // `max` would hide a NaN.
            if difference.is_nan() {
                return Ok(f32::NAN);
            }
            largest = largest.max(difference);
        }
    }
    Ok(largest)
}

/// The values on the host.
fn values(x: &Activation) -> Result<Vec<f32>> {
    x.tensor()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Inputs of cases: the same numbers, rounded to one type, in any type.
struct Inputs<'a> {
    rounded: DType,
    dtype: DType,
    device: &'a Device,
    /// where the inputs of operations are shapes alone
    trace: Option<&'a Trace>,
}

impl Inputs<'_> {
    /// Numbers from −1 to 1 that follow from `seed`.
    fn tensor(&self, seed: u32, shape: &[usize]) -> Result<Tensor> {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let number = |_| {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / (u32::MAX / 2) as f32 - 1.0
        };
        let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
        self.placed(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    }

    fn placed(&self, numbers: Tensor) -> Result<Tensor> {
        numbers.to_dtype(self.rounded)?.to_dtype(self.dtype)?.to_device(self.device)
    }

    fn activation(&self, seed: u32, shape: &[usize]) -> Result<Activation> {
        Activation::make(self.trace, shape, self.dtype, || self.tensor(seed, shape))
    }

    /// A layer's weight and bias.
    fn params(&self, channels: usize) -> Result<Params> {
        let tensors = HashMap::from([
            ("weight".to_owned(), self.tensor(11, &[channels])?),
            ("bias".to_owned(), self.tensor(12, &[channels])?),
        ]);
        Ok(Params::from_tensors(tensors, self.dtype, self.device))
    }

    fn conv(&self, input: usize, output: usize, kernel: usize, stride: usize) -> Result<Conv2d> {
        let weight = self.tensor(13, &[output, input, kernel, kernel])?;
        let bias = self.tensor(14, &[output])?;
        self.built(|| Conv2d::new(&weight, Some(bias), stride, kernel / 2))
    }

    fn linear(&self, weight: &Tensor) -> Result<Linear> {
        let bias = self.tensor(14, &[weight.dim(0)?])?;
        self.built(|| Linear::new(weight, Some(bias)))
    }

    /// A layer with a weight. Of one that is traced for a GPU it lies as there, wherever it is.
    fn built<T>(&self, build: impl FnOnce() -> T) -> T {
        match self.trace {
            Some(_) => forced(KernelChoice::Composed, build),
            None => build(),
        }
    }

    /// Attention of 2 samples: `(heads, heads of keys, width)`.
    fn attention(
        &self,
        (queries, keys): (usize, usize),
        (heads, key_heads, width): (usize, usize, usize),
        mask: Mask,
    ) -> Result<Activation> {
        let q = self.activation(1, &[2, queries, heads * width])?;
        let k = self.activation(2, &[2, keys, key_heads * width])?;
        let v = self.activation(3, &[2, keys, key_heads * width])?;
        attention(&q, &k, &v, heads, mask, MatmulPrecision::F32)
    }

    /// Attention of 2 samples with a bias: `(heads, width)`.
    fn biased_attention(
        &self,
        (queries, keys): (usize, usize),
        (heads, width): (usize, usize),
    ) -> Result<Activation> {
        let q = self.activation(1, &[2, queries, heads * width])?;
        let k = self.activation(2, &[2, keys, heads * width])?;
        let v = self.activation(3, &[2, keys, heads * width])?;
        let bias = self.activation(4, &[heads, queries, keys])?.to_dtype(DType::F32)?;
        biased_attention(&q, &k, &v, heads, &bias)
    }
}

type Case = fn(&Inputs) -> Result<Activation>;

/// Small odd shapes of an operation, such that each of its kernels runs.
fn cases(operation: Operation) -> &'static [Case] {
    match operation {
        Operation::Conv2d => &[
            // Large tiles, small ones, and sums in parts.
            |i| i.conv(8, 136, 3, 1)?.forward(&i.activation(1, &[1, 93, 89, 8])?),
            |i| i.conv(24, 40, 3, 2)?.forward(&i.activation(1, &[3, 13, 11, 24])?),
            |i| i.conv(136, 72, 3, 1)?.forward(&i.activation(1, &[2, 7, 9, 136])?),
            // Channels that are no whole chunks.
            |i| i.conv(3, 16, 3, 1)?.forward(&i.activation(1, &[1, 9, 7, 3])?),
            |i| i.conv(16, 4, 3, 1)?.forward(&i.activation(1, &[2, 9, 7, 16])?),
            |i| i.conv(5, 9, 3, 1)?.forward(&i.activation(1, &[1, 6, 5, 5])?),
            // What is fused with it.
            |i| i.conv(16, 24, 3, 1)?.forward_doubled(&i.activation(1, &[1, 5, 6, 16])?, 9, 12),
            |i| {
                let shift = i.activation(2, &[2, 24])?;
                i.conv(16, 24, 3, 1)?.forward_shift(&i.activation(1, &[2, 5, 6, 16])?, &shift)
            },
            |i| {
                let other = i.activation(2, &[2, 5, 6, 24])?;
                i.conv(16, 24, 3, 1)?.forward_add(&i.activation(1, &[2, 5, 6, 16])?, &other)
            },
        ],
        Operation::Linear => &[|i| {
            let linear = i.linear(&i.tensor(1, &[37, 65])?)?;
            linear.forward_add(&i.activation(3, &[3, 7, 65])?, &i.activation(4, &[3, 7, 37])?)
        }],
        Operation::AddBias => &[
            // A product that is exact, so that the sums alone are tested.
            |i| {
                let identity = i.placed(Tensor::eye(37, DType::F32, &Device::Cpu)?)?;
                let linear = i.linear(&identity)?;
                linear.forward_add(&i.activation(3, &[3, 7, 37])?, &i.activation(4, &[3, 7, 37])?)
            },
            |i| {
                let identity = i.placed(Tensor::eye(64, DType::F32, &Device::Cpu)?)?;
                i.linear(&identity)?.forward(&i.activation(3, &[3, 64])?)
            },
        ],
        Operation::Attention => &[
            |i| i.attention((131, 77), (3, 3, 40), Mask::None),
            |i| i.attention((131, 131), (2, 2, 64), Mask::Causal),
            |i| i.attention((65, 70), (2, 1, 72), Mask::None),
            |i| i.attention((65, 70), (2, 2, 80), Mask::None),
            |i| i.attention((35, 35), (2, 2, 72), Mask::Causal),
            |i| i.attention((35, 35), (2, 2, 80), Mask::Causal),
            |i| i.attention((40, 90), (4, 2, 128), Mask::Cached { past: 43, window: Some(50) }),
            |i| i.attention((67, 77), (2, 2, 160), Mask::None),
            |i| i.attention((67, 67), (1, 1, 512), Mask::None),
            // The parts of two sets of keys.
            |i| {
                let q = i.activation(1, &[2, 67, 2 * 64])?;
                let of = |seed, keys| i.activation(seed, &[2, keys, 2 * 64]);
                let sets = [[&of(2, 67)?, &of(3, 67)?], [&of(4, 13)?, &of(5, 13)?]];
                let [first, second] = attention_parts(&q, sets, 2, MatmulPrecision::F32)?;
                join(&first, &second)
            },
            // Few queries.
            |i| i.attention((3, 77), (2, 2, 64), Mask::None),
            |i| i.attention((2, 900), (4, 1, 80), Mask::None),
            |i| i.attention((1, 700), (8, 2, 128), Mask::Cached { past: 650, window: None }),
            // Views with strides of their own.
            |i| {
                let all = i.activation(1, &[2, 33, 3 * 128])?;
                let [q, k, v] = [0, 1, 2].map(|part| all.narrow(2, part * 128, 128));
                attention(&q?, &k?, &v?, 2, Mask::None, MatmulPrecision::F32)
            },
        ],
        Operation::BiasedAttention => {
            &[|i| i.biased_attention((67, 35), (3, 40)), |i| i.biased_attention((1, 9), (2, 64))]
        }
        Operation::GroupNorm => &[
            |i| {
                let norm = GroupNorm::load(3, 21, 1e-5, &i.params(21)?)?;
                norm.forward(&i.activation(1, &[2, 7, 5, 21])?)
            },
            |i| {
                let norm = GroupNorm::load(32, 320, 1e-5, &i.params(320)?)?;
                norm.forward_silu(&i.activation(1, &[2, 13, 11, 320])?)
            },
            |i| {
                let norm = GroupNorm::load(4, 24, 1e-6, &i.params(24)?)?;
                let moments = norm.moments(&i.activation(2, &[1, 70, 61, 24])?)?;
                norm.forward_with(&i.activation(1, &[2, 7, 9, 24])?, &moments, true)
            },
            |i| {
                let norm = GroupNorm::load(4, 24, 1e-6, &i.params(24)?)?;
                let x = i.activation(1, &[2, 7, 9, 24])?;
                norm.forward_with(&x, &GroupMoments::of(&x, 4)?, false)
            },
        ],
        Operation::LayerNorm => &[
            |i| LayerNorm::load(77, 1e-5, &i.params(77)?)?.forward(&i.activation(1, &[2, 5, 77])?),
            |i| LayerNorm::load(320, 1e-5, &i.params(320)?)?.forward(&i.activation(1, &[9, 320])?),
            |i| {
                LayerNorm::load(2048, 1e-5, &i.params(2048)?)?
                    .forward(&i.activation(1, &[3, 2048])?)
            },
        ],
        Operation::RmsNorm => &[
            |i| RmsNorm::load(77, 1e-5, &i.params(77)?)?.forward(&i.activation(1, &[2, 5, 77])?),
            |i| RmsNorm::load(4096, 1e-5, &i.params(4096)?)?.forward(&i.activation(1, &[3, 4096])?),
        ],
        Operation::Silu => &[|i| silu(&i.activation(1, &[3, 5, 77])?)],
        Operation::Gelu => &[|i| gelu(&i.activation(1, &[3, 5, 77])?)],
        Operation::GeluTanh => &[|i| gelu_tanh(&i.activation(1, &[3, 5, 77])?)],
        Operation::QuickGelu => &[|i| quick_gelu(&i.activation(1, &[3, 5, 77])?)],
        Operation::Geglu => &[
            |i| geglu(&i.activation(1, &[3, 5, 2 * 77])?),
            |i| geglu(&i.activation(1, &[9, 2 * 320])?),
        ],
        Operation::Swiglu => {
            &[|i| swiglu(&i.activation(1, &[3, 5, 77])?, &i.activation(2, &[3, 5, 77])?)]
        }
        Operation::LeakyRelu => &[
            |i| leaky_relu(&i.activation(1, &[3, 5, 77])?, 0.2),
            |i| prelu(&i.activation(1, &[3, 5, 77])?, &i.params(77)?.get(77, "weight")?),
        ],
        Operation::Add => {
            &[|i| add(&i.activation(1, &[3, 5, 77])?, &i.activation(2, &[3, 5, 77])?)]
        }
        Operation::Join => {
            &[|i| join(&i.activation(1, &[3, 5, 7])?, &i.activation(2, &[3, 5, 12])?)]
        }
        Operation::Upsample => &[
            |i| upsample_nearest_2x(&i.activation(1, &[2, 5, 7, 3])?),
            |i| upsample_nearest_2x(&i.activation(1, &[2, 5, 7, 16])?),
        ],
        Operation::CropResize => &[|i| {
            let rect = CropRect { top: 0.2, left: -0.1, height: 0.5, width: 0.7 };
            crop_resize(&i.activation(1, &[1, 9, 7, 24])?, rect, 11, 13)
        }],
        Operation::Blend => &[
            |i| blend(i.activation(1, &[3, 5, 7, 24])?, i.activation(2, &[3, 5, 7, 24])?, 0.3),
            |i| blend(i.activation(1, &[3, 5, 7, 9])?, i.activation(2, &[1, 5, 7, 9])?, 0.3),
        ],
    }
}

/// The launches of all cases on a GPU, in a memory trace: kernels, and bytes of their arguments.
#[cfg(test)]
pub(super) fn traced_launches(placement: Placement) -> Vec<(&'static str, Vec<usize>)> {
    super::gpu::recorded::take();
    let trace = Trace::new(placement);
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let device = &Device::Cpu;
        let traced = Inputs { rounded: dtype, dtype, device, trace: Some(&trace) };
        let real = Inputs { trace: None, ..traced };
        for operation in Operation::ALL {
            for case in cases(operation) {
                let y = forced(KernelChoice::Own, || case(&traced)).unwrap();
                let composed = forced(KernelChoice::Composed, || case(&real)).unwrap();
                assert_eq!((y.dims(), y.dtype()), (composed.dims(), dtype), "{operation:?}");
            }
        }
    }
    assert_eq!(trace.live(), 0, "a case leaves something behind");
    super::gpu::recorded::take()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kernel_of_the_cpu_passes() {
        let tests = self_test(&Device::Cpu);
        for test in &tests {
            println!("{:<12} {:?} {:?}", test.operation.name(), test.dtype, test.outcome);
            assert!(test.passed(), "{test:?}");
        }
        let is_tested = |operation| tests.iter().any(|test| test.operation == operation);
        assert!(is_tested(Operation::Conv2d) && is_tested(Operation::Attention));
        // Two forms that round otherwise: were one compared with itself, nothing would differ.
        let differ = tests.iter().filter(|test| test.outcome.as_ref().is_ok_and(|&d| d > 0.0));
        assert!(differ.count() >= 8, "{tests:?}");
    }

    #[test]
    fn a_composed_form_in_half_precision_lies_within_the_tolerance_of_f32() {
        // What an operation rounds once; so does a kernel.
        for operation in [Operation::Silu, Operation::Add, Operation::LayerNorm, Operation::Blend] {
            let outcome = largest_difference(operation, DType::F16, &Device::Cpu);
            let outcome = outcome.map_err(|error| error.to_string());
            let test = KernelTest { operation, dtype: DType::F16, outcome };
            assert!(test.passed(), "{test:?}");
        }
    }

    /// The kernels that some source of `kernels/check/register` names.
    fn registered(sources: &[&str]) -> BTreeSet<String> {
        let names = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
            Some(line.strip_prefix("KERNEL(")?.split(')').next()?.trim().to_owned())
        });
        names.collect()
    }

    #[test]
    fn the_cases_reach_every_kernel_of_cuda() {
        let launched: BTreeSet<String> = traced_launches(Placement::Cuda)
            .into_iter()
            .map(|(kernel, _)| kernel.to_owned())
            .collect();
        macro_rules! sources {
            ($($name:literal),*) => {
                [$(include_str!(concat!("../../kernels/check/register/", $name, ".cpp"))),*]
            };
        }
        let all = registered(&sources![
            "attention",
            "attention_split",
            "attention_wide",
            "conv2d",
            "crop_resize",
            "norm",
            "pointwise"
        ]);
        assert!(all.len() > 60, "{all:?}");
        let missing: Vec<_> = all.difference(&launched).collect();
        assert!(missing.is_empty() && launched.is_subset(&all), "{missing:?} of {all:?}");
    }

    #[test]
    fn what_is_wrong_or_no_number_does_not_pass() {
        let of = |outcome| KernelTest { operation: Operation::Add, dtype: DType::F32, outcome };
        assert!(of(Ok(1e-5)).passed());
        for outcome in [Ok(1e-3), Ok(f32::NAN), Err("no kernel".to_owned())] {
            assert!(!of(outcome).passed());
        }
    }
}
