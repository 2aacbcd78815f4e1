//! Copies from a GPU to the host on a stream of their own, beside the computation.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, Result, Storage, Tensor,
    cuda::{
        DeviceId, WrapErr as _,
        cudarc::driver::{CudaEvent, CudaStream},
    },
};

/// A copy that was asked for.
pub(in crate::backend) struct Copy {
    /// They stay where they are until they are copied: their memory is given back on the stream that computes.
    values: Tensor,
    /// The computation has come to the end of them.
    computed: CudaEvent,
    stream: Arc<CudaStream>,
}

impl Copy {
    /// Marks the place in the GPU's work where these values, f32 one after the other, are complete. Nothing waits.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn begin(values: Tensor) -> Result<Self> {
        let gpu = values.device().as_cuda_device()?;
        let computed = gpu.cuda_stream().record_event(None).w()?;
        let stream = stream_beside(gpu)?;
        Ok(Self { values, computed, stream })
    }

    /// The values, after what was asked for before them; what the GPU was given since then is not waited for.
    ///
    /// # Errors
    /// Those of the driver, of the computation as well.
    pub fn wait(self) -> Result<Vec<f32>> {
        let Self { values, computed, stream } = self;
        computed.synchronize().w()?;
        let (storage, layout) = values.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("values that are not on an NVIDIA GPU")
        };
        let all = storage.as_cuda_slice::<f32>()?;
        let first = layout.start_offset();
        let mut copied = vec![0f32; layout.shape().elem_count()];
        let from = all.slice(first..first + copied.len());
        // Of a stream that is not the values' own: events order nothing here (`driver::open`), and the one above has come.
        stream.memcpy_dtoh(&from, &mut copied).w()?;
        stream.synchronize().w()?;
        Ok(copied)
    }
}

/// The stream for copies of a GPU, made once.
fn stream_beside(gpu: &CudaDevice) -> Result<Arc<CudaStream>> {
    static STREAMS: Mutex<Option<HashMap<DeviceId, Arc<CudaStream>>>> = Mutex::new(None);
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let streams = streams.get_or_insert_default();
    if let Some(stream) = streams.get(&gpu.id()) {
        return Ok(Arc::clone(stream));
    }
    let stream = gpu.cuda_stream().context().new_stream().w()?;
    streams.insert(gpu.id(), Arc::clone(&stream));
    Ok(stream)
}
