//! Nearest-neighbour enlargement.

mod cpu;
mod cuda;
mod launch;
mod launch_metal;
mod metal;

use candle_core::Result;

use super::{OpForm, form, plain_cost};
use crate::backend::{Activation, Operation};

/// Every pixel twice in both directions: `[B, H, W, C]` → `[B, 2H, 2W, C]`
/// (`torch.nn.functional.interpolate(scale_factor=2, mode="nearest")`).
///
/// # Errors
/// Those of the backend.
pub fn upsample_nearest_2x(x: &Activation) -> Result<Activation> {
    let (batch, height, width, channels) = x.dims4()?;
    let doubled = (batch, 2 * height, 2 * width, channels);
    let form = form(Operation::Upsample, [x]);
    let own = match form {
        OpForm::Cuda => cuda::upsample_nearest_2x(x)?,
        OpForm::Metal => metal::upsample_nearest_2x(x)?,
        _ => None,
    };
    if let Some(y) = own {
        return Ok(y);
    }
    match form {
        OpForm::Cpu => cpu::upsample_nearest_2x(x.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], doubled),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => x
            .contiguous()?
            .reshape((batch, height, 1, width, 1, channels))?
            .broadcast_as((batch, height, 2, width, 2, channels))?
            .contiguous()?
            .reshape(doubled),
    }
}
