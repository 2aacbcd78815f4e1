//! Reading a device's values while it computes on: what is read is fixed by when the reading began, and waited for later.

use candle_core::{DType, Result, Tensor};

/// Values on their way to the host.
pub struct Reading(Form);

enum Form {
    /// They are there.
    Here(Vec<f32>),
    /// A GPU may still be computing them.
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Copy),
    /// As if a device were computing them.
    #[cfg(test)]
    Later(Vec<f32>),
}

impl Reading {
    /// Begins to read all values of a tensor, as f32, in their order. An NVIDIA GPU is not waited for, and may be given further
    /// work meanwhile, which the reading does not wait for either; of other devices the values are there at once.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn begin(values: &Tensor) -> Result<Self> {
        let values = values.to_dtype(DType::F32)?.flatten_all()?;
        #[cfg(feature = "cuda")]
        if values.device().is_cuda() {
            return Ok(Self(Form::Cuda(super::cuda::Copy::begin(values)?)));
        }
        Ok(Self(Form::Here(values.to_vec1()?)))
    }

    /// `true` if nothing has to be waited for.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(self.0, Form::Here(_))
    }

    /// The values, once they are there.
    ///
    /// # Errors
    /// Those of the backend, of the computation as well.
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.0 {
            Form::Here(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Form::Cuda(copy) => copy.wait(),
            #[cfg(test)]
            Form::Later(values) => Ok(values),
        }
    }

    /// Values that are not there until they are waited for.
    #[cfg(test)]
    pub fn later(values: Vec<f32>) -> Self {
        Self(Form::Later(values))
    }
}

impl From<Vec<f32>> for Reading {
    fn from(values: Vec<f32>) -> Self {
        Self(Form::Here(values))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn values_of_the_host_are_here_at_once_in_their_order_as_f32() {
        let values =
            Tensor::from_vec(vec![1f64, 2., 3., 4., 5., 6.], (2, 3), &Device::Cpu).unwrap();
        let reading = Reading::begin(&values.t().unwrap()).unwrap();
        assert!(reading.is_here());
        assert_eq!(reading.wait().unwrap(), [1., 4., 2., 5., 3., 6.]);
        assert!(!Reading::later(vec![1.0]).is_here());
    }
}
