//! Launches by candle's command encoder: pipelines that are compiled once for each device, and arguments as Metal
//! takes them.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Deref,
    sync::{LazyLock, Mutex, PoisonError},
};

use candle_core::{Device, Error, MetalDevice, Result, Storage, metal_backend::DeviceId};
use candle_metal_kernels::metal::{Buffer, ComputeCommandEncoder, ComputePipeline, Library};
use objc2_metal::{
    MTLCompileOptions, MTLComputePipelineState as _, MTLDevice as _, MTLGPUFamily,
    MTLLanguageVersion, MTLSize,
};

use super::{KernelValue, sources};
use crate::backend::{Activation, launch::Launch};

/// Threads of a SIMD group, as `LANES` of `kernels/common.metal`.
const LANES: usize = 32;
/// Kernels that count on them, but for the plain forms.
const OF_LANES: [&str; 4] = ["attention", "conv2d", "layer_norm", "rms_norm"];

/// `true` if a kernel counts on a SIMD group's threads.
fn counts_on_lanes(kernel: &str) -> bool {
    OF_LANES.iter().any(|name| kernel.starts_with(name)) && !kernel.contains("_plain_")
}

/// What has been compiled for a device.
#[derive(Default)]
struct Compiled {
    /// Of each file of sources that was needed.
    libraries: HashMap<usize, Library>,
    pipelines: HashMap<&'static str, ComputePipeline>,
}

impl Compiled {
    /// The pipeline of a kernel, which is compiled the first time.
    fn pipeline(&mut self, device: &MetalDevice, launch: &Launch) -> Result<ComputePipeline> {
        match self.pipelines.entry(launch.kernel) {
            Entry::Occupied(pipeline) => Ok(pipeline.get().clone()),
            Entry::Vacant(place) => {
                let pipeline = compile(&mut self.libraries, device, launch)?;
                Ok(place.insert(pipeline).clone())
            }
        }
    }
}

/// Of every device that launched something; candle gives each a number of its own.
static COMPILED: LazyLock<Mutex<HashMap<DeviceId, Compiled>>> = LazyLock::new(Mutex::default);

fn compile(
    libraries: &mut HashMap<usize, Library>,
    device: &MetalDevice,
    &Launch { kernel, block, .. }: &Launch,
) -> Result<ComputePipeline> {
    let Some(file) = sources::file_of(kernel) else {
        candle_core::bail!("{kernel}: no such kernel in this build")
    };
    let gpu = device.metal_device();
    let library = match libraries.entry(file) {
        Entry::Occupied(library) => library.into_mut(),
        Entry::Vacant(place) => {
            let text = sources::text(file);
            let library = gpu.new_library_with_source(&text, Some(&options()));
            place.insert(library.map_err(Error::wrap)?)
        }
    };
    let function = library.get_function(kernel, None).map_err(Error::wrap)?;
    let pipeline = gpu.new_compute_pipeline_state_with_function(&function).map_err(Error::wrap)?;
    // Registers may leave room for fewer threads than a group has, and a launch would not say so.
    let most = pipeline.max_total_threads_per_threadgroup();
    if most < block as usize {
        candle_core::bail!(
            "{kernel}: this GPU has room for {most} of its threads, not for {block}"
        );
    }
    let lanes = pipeline.as_ref().threadExecutionWidth();
    if lanes != LANES && counts_on_lanes(kernel) {
        candle_core::bail!("{kernel}: SIMD groups have {lanes} threads, not {LANES}");
    }
    Ok(pipeline)
}

/// The language that the sources are written in, and its arithmetic as it stands there: a number that is none must come
/// out where one went in, and the norms take differences in their order.
fn options() -> impl Deref<Target = MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_0);
    #[expect(deprecated, reason = "what took its place is not there before macOS 15")]
    options.setFastMathEnabled(false);
    options
}

/// `true` if the GPU multiplies matrices of a SIMD group.
pub(super) fn has_matrices(device: &Device) -> bool {
    match device {
        Device::Metal(device) => {
            device.metal_device().as_ref().supportsFamily(MTLGPUFamily::Apple7)
        }
        _ => false,
    }
}

/// Name of the GPU.
pub(in crate::backend) fn gpu_name(device: &MetalDevice) -> String {
    device.metal_device().as_ref().name().to_string()
}

/// Buffer of an activation, and the byte in it where its first value is.
fn place(x: &Activation) -> Result<(Buffer, usize)> {
    let (storage, layout) = x.tensor()?.storage_and_layout();
    match &*storage {
        Storage::Metal(storage) => {
            let offset = layout.start_offset() * x.dtype().size_in_bytes();
            Ok((storage.buffer().clone(), offset))
        }
        _ => candle_core::bail!("a kernel for Apple GPUs, and values that are not on one"),
    }
}

/// Puts a kernel behind whatever candle has encoded: buffers of inputs, of what it writes, and its sizes.
///
/// candle's buffers are not tracked by Metal, and its encoder runs kernels side by side unless it is told what they
/// read and what they write: then it puts a barrier where one needs what another writes, and a fence between encoders.
/// A buffer whose values are dropped meanwhile may serve others, but only behind this launch.
///
/// # Safety
/// As of [`compute`](super::compute).
///
/// # Errors
/// Values that are not on an Apple GPU, a kernel that cannot be compiled, or those of candle's encoder.
pub(super) unsafe fn run(
    launch: &Launch,
    inputs: &[&Activation],
    output: &Activation,
    sizes: &dyn KernelValue,
) -> Result<()> {
    let Device::Metal(device) = output.tensor()?.device() else {
        candle_core::bail!("{}: an output that is not on an Apple GPU", launch.kernel)
    };
    let read: Vec<_> = inputs.iter().map(|x| place(x)).collect::<Result<_>>()?;
    let (written, written_offset) = place(output)?;

    let pipeline = {
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.entry(device.id()).or_default().pipeline(device, launch)?
    };
    let commands = device.command_encoder()?;
    let encoder: &ComputeCommandEncoder = commands.as_ref();
    encoder.set_compute_pipeline_state(&pipeline);
    for (index, (buffer, offset)) in read.iter().enumerate() {
        encoder.set_input_buffer(index, Some(buffer), *offset);
    }
    encoder.set_output_buffer(read.len(), Some(&written), written_offset);
    encoder.set_bytes_directly(read.len() + 1, size_of_val(sizes), sizes.address());
    let size = |[width, height, depth]: [u32; 3]| MTLSize {
        width: width as usize,
        height: height as usize,
        depth: depth as usize,
    };
    encoder.dispatch_thread_groups(size(launch.grid), size([launch.block, 1, 1]));
    Ok(())
}
