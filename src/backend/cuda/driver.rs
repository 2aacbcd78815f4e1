//! Launches through candle's driver: the modules of the build's PTX, arguments as the driver takes them.

use std::{
    collections::HashMap,
    ffi::c_void,
    ptr::from_ref,
    sync::{Mutex, OnceLock, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Layout, Result, Storage, StorageRef,
    cuda::{
        DeviceId, WrapErr as _,
        cudarc::driver::{
            CudaContext, CudaFunction, CudaStream, DevicePtr as _, SyncOnDrop,
            result::{device, launch_kernel},
            sys,
            sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        },
    },
};
use half::{bf16, f16};

use super::{Arg, pool, sizes};
use crate::backend::launch::Launch;

// `const MODULES: &[(&str, &str)]`: name and PTX of every file of kernels; and `const TOOLKIT: (i32, i32)`, the release of
// CUDA whose compiler wrote them.
include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Shared memory that every block may have without being asked for.
const SHARED_UNASKED: u32 = 48 << 10;

/// A kernel of the build.
#[derive(Debug)]
struct Entry {
    /// Name of its module.
    module: &'static str,
    /// PTX of the module.
    ptx: &'static str,
    /// Bytes of its parameters.
    parameters: Vec<usize>,
}

/// The kernel of this name.
fn entry(kernel: &str) -> Option<&'static Entry> {
    static ENTRIES: OnceLock<HashMap<&'static str, Entry>> = OnceLock::new();
    let all = || {
        let of_module = |&(module, ptx): &(&'static str, &'static str)| {
            ptx.split(".entry ").skip(1).filter_map(move |entry| {
                let (name, rest) = entry.split_once('(')?;
                let (parameters, _) = rest.split_once("\n)")?;
                let parameters = parameters.lines().filter_map(parameter).collect();
                Some((name.trim(), Entry { module, ptx, parameters }))
            })
        };
        MODULES.iter().flat_map(of_module).collect()
    };
    ENTRIES.get_or_init(all).get(kernel)
}

/// Bytes of the parameter that a line of PTX declares: `.param .u64 name` or `.param .align 8 .b8 name[56]`.
fn parameter(line: &str) -> Option<usize> {
    let declared = line.trim().trim_end_matches(',').strip_prefix(".param ")?;
    if let Some((_, length)) = declared.split_once('[') {
        return length.strip_suffix(']')?.parse().ok();
    }
    let bits =
        declared.split_whitespace().next()?.trim_start_matches(|c: char| !c.is_ascii_digit());
    bits.parse::<usize>().ok().map(|bits| bits / 8)
}

/// Launches a kernel on candle's stream, behind whatever is there.
///
/// # Safety
/// As of [`run`](super::run).
///
/// # Errors
/// Values that are not on a GPU, a kernel that the build does not have, or those of the driver.
pub(super) unsafe fn run(launch: &Launch, args: &[Arg]) -> Result<()> {
    let Some(entry) = entry(launch.kernel) else {
        candle_core::bail!("{}: no such kernel in this build", launch.kernel)
    };
    let sizes = sizes(args);
    if sizes != entry.parameters {
        candle_core::bail!(
            "{}: arguments of {sizes:?} bytes for {:?}",
            launch.kernel,
            entry.parameters
        );
    }
    // The lock of each storage is held until the launch is on the stream.
    let storages: Vec<Option<(StorageRef<'_>, &Layout)>> = args
        .iter()
        .map(|arg| match arg {
            Arg::Values(values) => values.tensor().map(|values| Some(values.storage_and_layout())),
            Arg::Null | Arg::Value(_) => Ok(None),
        })
        .collect::<Result<_>>()?;
    let Some((first, _)) = storages.iter().flatten().next() else {
        candle_core::bail!("{}: no values", launch.kernel)
    };
    let gpu: &CudaDevice = &on_cuda(first)?.device;
    let stream = gpu.cuda_stream();

    // Addresses stay where they are while the driver reads them, and what tells other streams of their use until
    // the launch is on its own.
    let mut addresses = Vec::with_capacity(args.len());
    let mut uses = Vec::with_capacity(args.len());
    for storage in &storages {
        let address = match storage {
            Some((storage, layout)) => {
                let (address, in_use) = address(on_cuda(storage)?, layout, &stream)?;
                uses.push(in_use);
                address
            }
            None => 0,
        };
        addresses.push(address);
    }
    let mut parameters: Vec<*mut c_void> = args
        .iter()
        .zip(&addresses)
        .map(|(arg, address)| match arg {
            Arg::Value(value) => value.address().cast_mut(),
            Arg::Values(_) | Arg::Null => from_ref(address).cast::<c_void>().cast_mut(),
        })
        .collect();

    stream.context().bind_to_thread().w()?;
    let function = function(gpu, launch, entry)?;
    let [x, y, z] = launch.grid;
    // SAFETY: parameters point to as many values as the kernel has parameters, of their types (the caller's); they
    // are read before this returns. Storages outlive the launch: their memory is freed on this stream, behind it.
    unsafe {
        launch_kernel(
            function.cu_function(),
            (x, y, z),
            (launch.block, 1, 1),
            launch.shared,
            stream.cu_stream(),
            &mut parameters,
        )
    }
    .w()
}

/// The function of a kernel on this GPU, with leave for the shared memory of the launch.
///
/// The driver is asked once for each: it would look the name up in its module for every launch.
fn function(gpu: &CudaDevice, launch: &Launch, entry: &Entry) -> Result<CudaFunction> {
    type Loaded = HashMap<(DeviceId, &'static str), (CudaFunction, u32)>;
    static LOADED: OnceLock<Mutex<Loaded>> = OnceLock::new();
    let loaded = LOADED.get_or_init(Mutex::default);
    let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    let place = (gpu.id(), launch.kernel);
    if let Some((function, shared)) = loaded.get(&place)
        && launch.shared <= *shared
    {
        return Ok(function.clone());
    }
    let function = gpu.get_or_load_custom_func(launch.kernel, entry.module, entry.ptx)?;
    if launch.shared > SHARED_UNASKED {
        // It holds for the function from then on.
        let shared = launch.shared as i32;
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared).w()?;
    }
    let function = CudaFunction::clone(&function);
    loaded.insert(place, (function.clone(), launch.shared.max(SHARED_UNASKED)));
    Ok(function)
}

/// The storage of values on a GPU.
fn on_cuda(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("values that are not on an NVIDIA GPU"),
    }
}

/// Address of a tensor's first value.
fn address<'a>(
    storage: &'a CudaStorage,
    layout: &Layout,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    use candle_core::backend::BackendStorage as _;
    let dtype = storage.dtype();
    let (base, in_use) = match dtype {
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(stream),
        DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(stream),
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(stream),
        DType::F64 => storage.as_cuda_slice::<f64>()?.device_ptr(stream),
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(stream),
        other => candle_core::bail!("no kernel takes values of {other:?}"),
    };
    Ok((base + (layout.start_offset() * dtype.size_in_bytes()) as u64, in_use))
}

/// Opens a GPU with one stream for all threads of the process.
///
/// candle's default is a stream for each thread, and nothing orders those: what one thread gathers while another
/// computes would be read before it is there.
///
/// A GPU may be opened more than once. Each time it is a device of its own, whose tensors another one never sees but
/// through the host.
///
/// # Errors
/// A driver that is older than the kernels, or those of the driver.
pub(in crate::backend) fn open(ordinal: usize) -> Result<Device> {
    // Without a driver or a GPU, opening says so.
    if let Ok(version) = driver_version() {
        check_driver(version)?;
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    let gpu = device.as_cuda_device()?;
    // SAFETY: no tensor exists yet, and all work is on the one stream, so that no event has to order it.
    unsafe { gpu.disable_event_tracking() };
    pool::keep_freed(gpu.cuda_stream().context()).w()?;
    Ok(device)
}

/// The release of CUDA that the driver is for.
fn driver_version() -> Result<(i32, i32)> {
    let mut version = 0;
    // SAFETY: it writes the number that it is given the address of.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().w()?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Refuses a driver that is older than the compiler of the kernels, candle's included: it cannot read their PTX.
fn check_driver(driver: (i32, i32)) -> Result<()> {
    if driver < TOOLKIT {
        let ((major, minor), (needs_major, needs_minor)) = (driver, TOOLKIT);
        candle_core::bail!(
            "the driver is for CUDA {major}.{minor}, and this build needs one for {needs_major}.{needs_minor} or later"
        );
    }
    Ok(())
}

/// Every NVIDIA GPU in the driver's order: name with generation and driver, and bytes of memory. No context is made.
///
/// # Errors
/// Those of the driver, of which there may be none.
pub(in crate::backend) fn list_gpus() -> Result<Vec<(String, usize)>> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let count = CudaContext::device_count().w()?;
    let (major, minor) = driver_version()?;
    let driver = format!("{major}.{minor}");
    (0..count)
        .map(|ordinal| {
            let gpu = device::get(ordinal).w()?;
            // SAFETY: the driver has just named this GPU.
            let [major, minor] =
                [MAJOR, MINOR].map(|which| unsafe { device::get_attribute(gpu, which) });
            let name = device::get_name(gpu).w()?;
            // SAFETY: as above.
            let memory = unsafe { device::total_mem(gpu) }.w()?;
            let generation = format!("{}.{}", major.w()?, minor.w()?);
            Ok((format!("{name}, generation {generation}, driver for CUDA {driver}"), memory))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Placement, self_test};

    #[test]
    fn every_module_is_for_the_oldest_generation() {
        assert!(MODULES.len() >= 8);
        for (name, ptx) in MODULES {
            assert!(ptx.contains(".target sm_80"), "{name}");
        }
    }

    #[test]
    fn a_driver_that_is_older_than_the_kernels_is_refused_by_both_numbers() {
        let (major, minor) = TOOLKIT;
        assert!(major >= 11);
        assert!(check_driver(TOOLKIT).is_ok() && check_driver((major + 1, 0)).is_ok());
        let error = check_driver((major - 1, 9)).unwrap_err().to_string();
        let expected =
            format!("for CUDA {}.9, and this build needs one for {major}.{minor}", major - 1);
        assert!(error.contains(&expected), "{error}");
    }

    #[test]
    fn parameters_are_read_as_they_are_declared() {
        assert_eq!(entry("conv2d_large_bf16").unwrap().parameters, [8, 8, 8, 8, 8, 8, 68]);
        assert_eq!(entry("silu_f32").unwrap().parameters, [8; 3]);
        assert!(entry("conv2d").is_none());
        assert_eq!(parameter("\t.param .align 8 .b8 a_param_5[104]"), Some(104));
        assert_eq!(parameter(".param .f32 a_param_1,"), Some(4));
        assert_eq!(parameter(".maxntid 128, 1, 1"), None);
    }

    /// Of the cases of the self-test, traced: what is wrong here would be read beyond an argument's end.
    #[test]
    fn every_launch_has_the_arguments_that_its_kernel_declares() {
        let launches = self_test::traced_launches(Placement::Cuda);
        assert!(launches.len() > 60);
        for (kernel, sizes) in launches {
            assert_eq!(sizes, entry(kernel).unwrap().parameters, "{kernel}");
        }
    }
}
