//! Pairs of files of ncnn, in which Real-ESRGAN's own program has its networks: a text with the graph (`.param`) and the
//! numbers in the graph's order, without names (`.bin`). The graph is read to know which network it is, because nothing else
//! says; numbers of another graph would fit by chance.
//!
//! Sources: ncnn `src/net.cpp` (`load_param`), `src/modelbin.cpp` (tags and padding), `src/layer/{convolution,prelu,eltwise,
//! binaryop,interp,pixelshuffle,concat}.cpp` (numbers and defaults of parameters).

mod bin;
mod graph;
mod param;

use std::path::PathBuf;

use super::super::{WeightsError, small_file::read_small, source::Bytes, tensors::TensorMap};
use crate::model::enlarger::EnlargerConfig;

/// Longest graph in bytes; the longest known has some hundred thousand.
const LONGEST_GRAPH: u64 = 4 << 20;

/// The architecture of a graph, and the places of its arrays among these numbers.
#[cfg(fuzzing)]
pub(super) fn places(
    param: &[u8],
    bin: &[u8],
) -> Result<(EnlargerConfig, Vec<super::super::tensors::TensorInfo>), String> {
    let network = graph::recognise(param)?;
    Ok((network.config, bin::places(&network.arrays, bin)?))
}

/// The architecture and the tensors of the network in a `.param` and a `.bin` file.
///
/// # Errors
/// A file that cannot be read, a graph that is damaged or another network's, numbers that it does not have.
pub(super) fn open(
    [param, bin]: &[PathBuf; 2],
) -> Result<(EnlargerConfig, TensorMap), WeightsError> {
    let refuse = |path: &PathBuf| {
        let file = path.display().to_string();
        move |reason: String| WeightsError::Contents { file, reason }
    };
    let read = |path: &PathBuf| {
        let file = path.display().to_string();
        move |source| WeightsError::Read { file, source }
    };
    let text = read_small(param, LONGEST_GRAPH).map_err(read(param))?;
    let network = graph::recognise(&text).map_err(refuse(param))?;
    let bytes = Bytes::map(bin).map_err(read(bin))?;
    let tensors = bin::places(&network.arrays, &bytes).map_err(refuse(bin))?;
    let mut map = TensorMap::default();
    let named = tensors.iter().map(|tensor| (tensor.name.clone(), tensor));
    map.add_ncnn(bin.display().to_string(), bytes, named);
    Ok((network.config, map))
}
