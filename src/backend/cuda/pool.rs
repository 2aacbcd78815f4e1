//! The driver's pool of device memory: what is freed stays with the process, so that the next allocation is no call to the
//! operating system, and counts as free in a plan.

use std::ptr::from_mut;

use candle_core::cuda::cudarc::driver::{
    CudaContext, DriverError,
    result::{device::get_default_mem_pool, mem_get_info, mem_pool},
    sys::{
        CUmemPool_attribute,
        CUmemPool_attribute::{
            CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
            CU_MEMPOOL_ATTR_USED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_HIGH,
        },
        CUmemoryPool,
    },
};

/// The pool that a GPU allocates from. Of a GPU that is opened twice it is one.
struct Pool(CUmemoryPool);

impl Pool {
    /// `None` for GPUs without pools, as some virtual ones are.
    fn of(gpu: &CudaContext) -> Result<Option<Self>, DriverError> {
        if !gpu.has_async_alloc() {
            return Ok(None);
        }
        // SAFETY: the driver has named this GPU.
        Ok(Some(Self(unsafe { get_default_mem_pool(gpu.cu_device()) }?)))
    }

    fn set(&self, attribute: CUmemPool_attribute, mut value: u64) -> Result<(), DriverError> {
        // SAFETY: the pool lives as long as its GPU, and what is set here has 64 bits.
        unsafe { mem_pool::set_attribute(self.0, attribute, from_mut(&mut value).cast()) }
    }

    fn get(&self, attribute: CUmemPool_attribute) -> Result<usize, DriverError> {
        let mut value = 0u64;
        // SAFETY: as above.
        unsafe { mem_pool::get_attribute(self.0, attribute, from_mut(&mut value).cast()) }?;
        Ok(value as usize)
    }
}

/// Has a GPU's pool keep what is freed. The driver's default is to give all of it back whenever the host waits for the
/// GPU, which is after every call of the denoiser.
///
/// # Errors
/// Those of the driver.
pub(super) fn keep_freed(gpu: &CudaContext) -> Result<(), DriverError> {
    match Pool::of(gpu)? {
        Some(pool) => pool.set(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX),
        None => Ok(()),
    }
}

/// Bytes that this process could allocate: what the driver has left, and what the pool keeps of freed memory.
///
/// # Errors
/// Those of the driver.
pub(in crate::backend) fn free_bytes(gpu: &CudaContext) -> Result<usize, DriverError> {
    gpu.bind_to_thread()?;
    let (free, _) = mem_get_info()?;
    let Some(pool) = Pool::of(gpu)? else { return Ok(free) };
    let reserved = pool.get(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Ok(free + reserved.saturating_sub(pool.get(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
}

/// The most bytes that were allocated at once; `None` for a GPU without a pool.
///
/// # Errors
/// Those of the driver.
pub(in crate::backend) fn peak_bytes(gpu: &CudaContext) -> Result<Option<usize>, DriverError> {
    Pool::of(gpu)?.map(|pool| pool.get(CU_MEMPOOL_ATTR_USED_MEM_HIGH)).transpose()
}

/// Gives back what the pool keeps of freed memory: another process is to have it. It waits for the GPU.
///
/// # Errors
/// Those of the driver.
pub(in crate::backend) fn give_back(gpu: &CudaContext) -> Result<(), DriverError> {
    // What is freed on a stream is free when the stream comes to it.
    gpu.synchronize()?;
    let Some(pool) = Pool::of(gpu)? else { return Ok(()) };
    // SAFETY: the pool lives as long as its GPU; what is in use stays.
    unsafe { mem_pool::trim_to(pool.0, 0) }
}
