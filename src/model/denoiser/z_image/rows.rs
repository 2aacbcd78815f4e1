//! Samples of one call whose texts have different lengths. A text is filled up to a whole number of [`UNIT`] tokens, and what
//! it is filled up with is seen by all others (it is learned, not masked), so samples with the same number of tokens are
//! computed together and no others: each gets what it gets alone.

use candle_core::Result;

use crate::backend::Activation;
use crate::model::denoiser::prior::Prior;

/// Number of which the tokens of a text and of a picture are each made a multiple.
pub(super) const UNIT: usize = 32;

/// Calls `run` with the rows of each number of tokens, and puts the results, one for each row, into the order of the rows.
///
/// # Errors
/// Those of `run`, or of the backend.
pub(super) fn by_tokens(
    tokens: &[usize],
    prior: Prior<'_>,
    run: impl Fn(&[u32], Prior<'_>) -> Result<Activation>,
) -> Result<Activation> {
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let mut kinds = tokens.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() == 1 {
        return run(&rows, prior);
    }
    let groups: Vec<Vec<u32>> = (kinds.iter())
        .map(|kind| rows.iter().copied().filter(|&row| tokens[row as usize] == *kind).collect())
        .collect();
    let order = groups.concat();
    let places: Vec<u32> = (rows.iter())
        .filter_map(|row| order.iter().position(|other| other == row))
        .map(|place| place as u32)
        .collect();
    let joined = |parts: &[Activation]| Activation::cat(parts, 0)?.index_select(&places, 0);
    let outputs = match prior {
        Prior::None => {
            groups.iter().map(|rows| run(rows, Prior::None)).collect::<Result<Vec<_>>>()?
        }
        Prior::Record(list) => {
            let mut lists = Vec::with_capacity(groups.len());
            let mut outputs = Vec::with_capacity(groups.len());
            for rows in &groups {
                let mut own = Vec::new();
                outputs.push(run(rows, Prior::Record(&mut own))?);
                lists.push(own.into_iter());
            }
            loop {
                let layer: Vec<_> = lists.iter_mut().filter_map(Iterator::next).collect();
                if layer.is_empty() {
                    break outputs;
                }
                list.push(joined(&layer)?);
            }
        }
        Prior::Blend { layers, weight } => {
            let with_own = |rows: &Vec<u32>| {
                let of_rows = |layer: &Activation| {
                    let is_shared = layer.dim(0)? == 1;
                    if is_shared { Ok(layer.clone()) } else { layer.index_select(rows, 0) }
                };
                let layers: Vec<_> = layers.iter().map(of_rows).collect::<Result<_>>()?;
                run(rows, Prior::Blend { layers: &layers, weight })
            };
            groups.iter().map(with_own).collect::<Result<_>>()?
        }
    };
    joined(&outputs)
}
