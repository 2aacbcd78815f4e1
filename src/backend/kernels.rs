//! Which operations have kernels of our own, on which devices and for which types of values, and whether
//! they are used. Where an operation has none, it is composed of candle's functions.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use candle_core::DType;

use super::Placement;

/// Kernels that operations run on GPUs (`--kernels`). The CPU always has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// Our own, where there are some that passed their test; elsewhere composed.
    #[default]
    Own,
    /// Composed of candle's functions.
    Composed,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An operation of [`ops`](super::ops) for which there are kernels of our own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Operation { $($(#[$doc])* $variant,)* }

        impl Operation {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name, as messages have it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

operations! {
    /// Convolution with a kernel of more than one pixel, or with a stride.
    Conv2d = "conv2d",
    /// Matrix product with a weight.
    Linear = "linear",
    /// Bias and residual behind a product that is not our own.
    AddBias = "add_bias",
    /// Attention.
    Attention = "attention",
    /// Attention with a bias for each pair of positions.
    BiasedAttention = "biased_attention",
    /// Group normalization, and its moments.
    GroupNorm = "group_norm",
    /// Layer normalization.
    LayerNorm = "layer_norm",
    /// Root-mean-square normalization.
    RmsNorm = "rms_norm",
    /// SiLU.
    Silu = "silu",
    /// GELU.
    Gelu = "gelu",
    /// GELU's tanh form.
    GeluTanh = "gelu_tanh",
    /// CLIP's GELU.
    QuickGelu = "quick_gelu",
    /// GEGLU.
    Geglu = "geglu",
    /// SwiGLU.
    Swiglu = "swiglu",
    /// Leaky ReLU, with one slope or one for each channel.
    LeakyRelu = "leaky_relu",
    /// Sum of two.
    Add = "add",
    /// Channels side by side.
    Join = "join",
    /// Doubling of a picture.
    Upsample = "upsample",
    /// Samples of a map.
    CropResize = "crop_resize",
    /// Weighted mean with what another pass recorded.
    Blend = "blend",
}

/// The types that kernels on GPUs may be for.
const TYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

/// `true` if kernels on GPUs are to be composed.
static COMPOSED: AtomicBool = AtomicBool::new(false);
/// A bit for each operation and type of which a GPU's kernel is not used.
static UNUSED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What operations run that this thread calls, whatever holds elsewhere.
    static FORCED: Cell<Option<KernelChoice>> = const { Cell::new(None) };
}

/// Chooses the kernels that GPUs run in this process. It is to be called before a model is loaded.
pub fn choose_kernels(choice: KernelChoice) {
    COMPOSED.store(choice == KernelChoice::Composed, Ordering::Relaxed);
}

/// The kernels that GPUs run in this process.
#[must_use]
pub fn chosen_kernels() -> KernelChoice {
    if COMPOSED.load(Ordering::Relaxed) { KernelChoice::Composed } else { KernelChoice::Own }
}

/// Result of `f`, within which operations that this thread calls run kernels of this choice: on the CPU as
/// well, and those that failed their test.
pub(super) fn forced<T>(choice: KernelChoice, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<KernelChoice>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _restore = Restore(FORCED.replace(Some(choice)));
    f()
}

impl Operation {
    /// `true` if there is a kernel of our own for values of this type.
    #[must_use]
    pub fn has_kernel(self, placement: Placement, dtype: DType) -> bool {
        match placement {
            Placement::Cpu => {
                // candle's own normalizes rows of f32 as well as ours would.
                dtype == DType::F32 && !matches!(self, Self::RmsNorm | Self::AddBias | Self::Blend)
            }
            // Text encoders, feed-forward layers and enlargers, where other products take the time.
            _ if matches!(self, Self::BiasedAttention | Self::GeluTanh | Self::LeakyRelu) => false,
            Placement::Cuda => match self {
                // Products are cuBLAS's, and blocks are copied by the driver.
                Self::Linear | Self::Join => false,
                Self::Conv2d | Self::Attention => matches!(dtype, DType::BF16 | DType::F16),
                _ => TYPES.contains(&dtype),
            },
            Placement::Metal => match self {
                // Products are candle's, and so are copies of blocks.
                Self::Linear | Self::Join => false,
                _ => matches!(dtype, DType::F16 | DType::F32),
            },
        }
    }

    /// `true` if values of this type run in a kernel of our own.
    #[must_use]
    pub fn runs_own(self, placement: Placement, dtype: DType) -> bool {
        if !self.has_kernel(placement, dtype) {
            return false;
        }
        match FORCED.get() {
            Some(choice) => choice == KernelChoice::Own,
            None if placement == Placement::Cpu => true,
            None => chosen_kernels() == KernelChoice::Own && !self.is_unused(dtype),
        }
    }

    /// What computes it for values of this type, in words: `own`, `candle` (a kernel of candle's), one of both,
    /// `cuBLAS`, or `composed` of several.
    #[must_use]
    pub fn served_by(self, placement: Placement, dtype: DType) -> &'static str {
        match (self, placement) {
            (Self::Attention, Placement::Metal) if self.runs_own(placement, dtype) => {
                "candle or own"
            }
            _ if self.runs_own(placement, dtype) => "own",
            (Self::Linear, Placement::Cuda) => "cuBLAS",
            (
                Self::Linear
                | Self::RmsNorm
                | Self::Silu
                | Self::Gelu
                | Self::GeluTanh
                | Self::Add
                | Self::Join,
                _,
            ) => "candle",
            _ => "composed",
        }
    }

    /// Has GPUs compose it for values of this type from now on.
    pub(super) fn leave_unused(self, dtype: DType) {
        UNUSED.fetch_or(self.bit(dtype), Ordering::Relaxed);
    }

    fn is_unused(self, dtype: DType) -> bool {
        UNUSED.load(Ordering::Relaxed) & self.bit(dtype) != 0
    }

    fn bit(self, dtype: DType) -> u64 {
        let of_type = TYPES.iter().position(|&other| other == dtype).unwrap_or(0);
        1 << (self as usize * TYPES.len() + of_type)
    }
}

/// Which operations of a device run kernels of our own for values of this type, in words; empty for none.
pub(super) fn summary(placement: Placement, dtype: DType) -> String {
    let (own, composed): (Vec<_>, Vec<_>) = Operation::ALL
        .into_iter()
        .filter(|operation| operation.has_kernel(placement, dtype))
        .partition(|operation| operation.runs_own(placement, dtype));
    match composed.as_slice() {
        _ if own.is_empty() => String::new(),
        [] => "own kernels".to_owned(),
        composed => {
            let names: Vec<_> = composed.iter().map(|operation| operation.name()).collect();
            format!("own kernels but {}", names.join(", "))
        }
    }
}

const _: () = assert!(Operation::ALL.len() * TYPES.len() <= u64::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_forced_on_one_thread_and_for_a_while() {
        let own = || Operation::Silu.runs_own(Placement::Cpu, DType::F32);
        forced(KernelChoice::Composed, || {
            assert!(!own());
            assert!(forced(KernelChoice::Own, own));
            assert!(!own());
            assert!(std::thread::scope(|scope| scope.spawn(own).join().unwrap()));
        });
        assert!(own());
    }

    #[test]
    fn a_kernel_that_is_left_unused_is_composed_for_its_type_alone() {
        let (operation, cuda) = (Operation::Blend, Placement::Cuda);
        operation.leave_unused(DType::F16);
        assert!(!operation.runs_own(cuda, DType::F16));
        assert!(operation.runs_own(cuda, DType::BF16));
        assert!(Operation::CropResize.runs_own(cuda, DType::F16));
        assert!(forced(KernelChoice::Own, || operation.runs_own(cuda, DType::F16)));
        assert_eq!(summary(cuda, DType::F16), "own kernels but blend");
    }

    #[test]
    fn kernels_are_for_the_types_that_a_device_computes_in() {
        for operation in Operation::ALL {
            assert!(!operation.has_kernel(Placement::Metal, DType::BF16));
            for dtype in [DType::BF16, DType::F16] {
                assert!(!operation.has_kernel(Placement::Cpu, dtype));
            }
        }
        for dtype in [DType::F16, DType::F32] {
            assert!(Operation::Attention.has_kernel(Placement::Metal, dtype));
            assert!(!Operation::Linear.has_kernel(Placement::Metal, dtype));
        }
        assert!(Operation::Conv2d.has_kernel(Placement::Cuda, DType::BF16));
        assert!(!Operation::Conv2d.has_kernel(Placement::Cuda, DType::F32));
        assert!(Operation::GroupNorm.has_kernel(Placement::Cuda, DType::F32));
    }
}
