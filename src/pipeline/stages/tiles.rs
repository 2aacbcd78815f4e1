//! VAE tiles that the devices of a job share, if they are computed one by one.

use super::context::Context;
use crate::{
    model::vae::{GlobalState, Globals},
    pipeline::{
        error::Error,
        plan::{Plan, tiles::Span, vae_tiling::VaeTiling},
        progress::Progress,
        queue::share,
        retry::retry_halves,
    },
};

/// Row and column of a tile.
pub type TilePlace<'a> = (&'a Span, &'a Span);

/// The values of a tile; of one that was too large for its device, a part of it.
pub struct TilePart {
    pub row: Span,
    pub column: Span,
    pub values: Vec<f32>,
}

/// One device at work on tiles.
struct Coder<'a> {
    context: Context<'a>,
    /// The global state of all tiles, on this device.
    state: Option<GlobalState>,
}

impl<'a> Coder<'a> {
    /// The context's first device. The state was measured once and is copied: a device without memory for all samples
    /// would measure fewer, and its tiles would differ from their neighbours.
    fn new(context: Context<'a>, state: Option<&GlobalState>) -> Result<Self, Error> {
        let state = state.map(|state| state.to_device(context.runner.device())).transpose()?;
        Ok(Self { context, state })
    }
}

/// The tiles of a canvas, row by row.
pub fn places(plan: &Plan) -> Vec<TilePlace<'_>> {
    let rows = plan.tile_rows.iter();
    rows.flat_map(|row| plan.tile_columns.iter().map(move |column| (row, column))).collect()
}

/// True if the tiles of this canvas are computed one by one, so that devices can share them.
///
/// Of a canvas that goes through its layers as a whole, devices share the blocks of each layer
/// ([`layerwise`](super::layerwise)). A single tile may turn into such a canvas where the device has no memory for it.
pub fn are_shared(plan: &Plan) -> bool {
    plan.tiles() > 1 && !matches!(plan.vae_tiling, VaeTiling::Layerwise { .. })
}

/// Shares `tiles` among the devices: `compute` makes the values of one on a device, halved where it has no memory, and
/// `commit` gets them in order, with the tile's index. With `state`, every device computes with this global state.
///
/// # Errors
/// Errors of `compute` and `commit`; a device without memory for any tile; an interruption.
pub fn share_tiles(
    context: &Context<'_>,
    tiles: &[TilePlace<'_>],
    state: Option<&GlobalState>,
    progress: &mut dyn Progress,
    compute: impl Fn(&Context<'_>, Globals<'_>, TilePlace<'_>) -> Result<Vec<f32>, Error> + Sync,
    mut commit: impl FnMut(usize, Vec<TilePart>, &mut dyn Progress) -> Result<(), Error>,
) -> Result<(), Error> {
    let coders = context.on_each().map(|context| Coder::new(context, state));
    let mut coders = coders.collect::<Result<Vec<_>, _>>()?;
    share(
        &mut coders,
        (0..tiles.len(), 1),
        progress,
        |Coder { context, state }, queue, deliver| {
            while let Some(taken) = queue.take(1) {
                let (row, column) = tiles[taken.start];
                let mut parts = Vec::new();
                retry_halves(row, column, &mut |row, column| {
                    let globals = state.as_ref().map_or(Globals::Own, Globals::Shared);
                    let values = compute(context, globals, (row, column))?;
                    parts.push(TilePart { row: row.clone(), column: column.clone(), values });
                    Ok(())
                })?;
                deliver(taken, parts)?;
            }
            Ok(())
        },
        |range, parts, progress| commit(range.start, parts, progress),
    )
}
