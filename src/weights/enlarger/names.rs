//! Names of an enlarging network's tensors in safetensors, and the architecture that their shapes imply.
//!
//! Sources: basicsr `archs/rrdbnet_arch.py` and Real-ESRGAN `archs/srvgg_arch.py` (the names that are used here), ESRGAN
//! `RRDBNet_arch.py` (`RRDB_trunk`), and BasicSR's first `architecture.py` (`model.1.sub`), whose positions in a sequence
//! spell out how many doublings there are.

use std::collections::HashSet;

use super::Recognised;
use crate::model::enlarger::{CompactConfig, EnlargerConfig, RrdbConfig};
use crate::weights::part_file::Shapes;
use crate::weights::tensors::{Take, TensorMap};

/// What stands before all names in exports of training code; the smoothed weights of a training go first.
const PREFIXES: [&str; 5] = ["params_ema.", "params.", "", "module.", "netG."];

/// What is wrong where no network is found.
const UNKNOWN: &str = "no enlarging network that is known: ESRGAN's and Real-ESRGAN's RRDBNet, and Real-ESRGAN's \
                       SRVGGNetCompact are read";

/// Convention by which an `RRDBNet` is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// basicsr's, which is ours
    New,
    /// ESRGAN's
    Trunk,
    /// that of the code before, places in sequences
    Sequence,
}

impl Naming {
    /// The name of the first convolution.
    fn first(self) -> &'static str {
        match self {
            Self::New | Self::Trunk => "conv_first",
            Self::Sequence => "model.0",
        }
    }

    /// The name of a convolution of a dense block.
    fn dense(self, block: usize, dense: usize, conv: usize) -> String {
        match self {
            Self::New => format!("body.{block}.rdb{dense}.conv{conv}"),
            Self::Trunk => format!("RRDB_trunk.{block}.RDB{dense}.conv{conv}"),
            Self::Sequence => format!("model.1.sub.{block}.RDB{dense}.conv{conv}.0"),
        }
    }

    /// The names of what follows the blocks: the convolution behind them, those behind each doubling, and the last two.
    fn tail(self, blocks: usize, doublings: usize) -> Vec<String> {
        let ups = 1..=doublings;
        let (body, ups, hr, last) = match self {
            Self::New => (
                "conv_body".to_owned(),
                ups.map(|up| format!("conv_up{up}")).collect(),
                "conv_hr".to_owned(),
                "conv_last".to_owned(),
            ),
            Self::Trunk => (
                "trunk_conv".to_owned(),
                ups.map(|up| format!("upconv{up}")).collect(),
                "HRconv".to_owned(),
                "conv_last".to_owned(),
            ),
            Self::Sequence => (
                format!("model.1.sub.{blocks}"),
                ups.map(|up| format!("model.{}", 3 * up)).collect::<Vec<_>>(),
                format!("model.{}", 3 * doublings + 2),
                format!("model.{}", 3 * doublings + 4),
            ),
        };
        [vec![body], ups, vec![hr, last]].concat()
    }

    /// Doublings of the picture.
    fn doublings(self, shapes: &Shapes<'_>) -> usize {
        match self {
            Self::New => shapes.count(|up| format!("conv_up{}.weight", up + 1)),
            Self::Trunk => shapes.count(|up| format!("upconv{}.weight", up + 1)),
            Self::Sequence => shapes.count(|up| format!("model.{}.weight", 3 * (up + 1))),
        }
    }
}

/// The names of all convolutions of an `RRDBNet`, in the order in which it computes.
pub(super) fn rrdb_convs(blocks: usize, doublings: usize) -> Vec<String> {
    convs(Naming::New, blocks, doublings)
}

fn convs(naming: Naming, blocks: usize, doublings: usize) -> Vec<String> {
    let mut names = vec![naming.first().to_owned()];
    for block in 0..blocks {
        for dense in 1..=3 {
            names.extend((1..=5).map(|conv| naming.dense(block, dense, conv)));
        }
    }
    names.extend(naming.tail(blocks, doublings));
    names
}

/// The architecture and the names of the network in these tensors.
///
/// # Errors
/// Another network, in one line without the file's name.
pub(super) fn recognise(tensors: &TensorMap) -> Result<Recognised, String> {
    for prefix in PREFIXES {
        let shapes = Shapes { tensors, prefix };
        let found = if shapes.has("body.0.weight") {
            compact(&shapes)
        } else {
            let naming =
                [Naming::New, Naming::Trunk, Naming::Sequence].into_iter().find(|naming| {
                    shapes.has(&format!("{}.weight", naming.first()))
                        && shapes.has(&format!("{}.weight", naming.dense(0, 1, 1)))
                });
            let Some(naming) = naming else { continue };
            rrdb(&shapes, naming)
        };
        let (config, names) = found?;
        config.check()?;
        let known: HashSet<String> =
            names.iter().map(|(_, stored)| format!("{prefix}{stored}")).collect();
        let others = tensors.names().filter(|name| name.starts_with(prefix));
        if let Some(other) = others.filter(|name| !known.contains(*name)).min() {
            return Err(format!(
                "tensor `{other}` has no place in {}: another network",
                config.name()
            ));
        }
        let names = names.into_iter();
        let names = names.map(|(name, stored)| (name, format!("{prefix}{stored}"), Take::Whole));
        return Ok((config, names.collect()));
    }
    Err(UNKNOWN.to_owned())
}

/// Each tensor's name here and in the file.
type Names = Vec<(String, String)>;

fn rrdb(shapes: &Shapes<'_>, naming: Naming) -> Result<(EnlargerConfig, Names), String> {
    let first = format!("{}.weight", naming.first());
    let blocks = shapes.count(|block| format!("{}.weight", naming.dense(block, 1, 1)));
    let doublings = naming.doublings(shapes);
    let inputs = shapes.size(&first, 1)?;
    let config = RrdbConfig {
        unit: [1, 2, 4].into_iter().find(|unit| 3 * unit * unit == inputs).unwrap_or(0),
        features: shapes.size(&first, 0)?,
        growth: shapes.size(&format!("{}.weight", naming.dense(0, 1, 1)), 0)?,
        blocks,
        doublings,
    };
    if config.unit == 0 {
        return Err(format!("its first convolution sees {inputs} channels, not 3, 12 or 48"));
    }
    let ours = rrdb_convs(blocks, doublings).into_iter();
    let names = ours.zip(convs(naming, blocks, doublings)).flat_map(|(ours, stored)| {
        ["weight", "bias"].map(|kind| (format!("{ours}.{kind}"), format!("{stored}.{kind}")))
    });
    Ok((EnlargerConfig::Rrdb(config), names.collect()))
}

/// The names of a `SRVGGNetCompact`'s tensors, layers and last convolution, in the order in which it computes.
pub(super) fn compact_tensors(layers: usize) -> Vec<String> {
    let conv = |index: usize| [format!("body.{index}.weight"), format!("body.{index}.bias")];
    let layer = |index: usize| {
        let [weight, bias] = conv(2 * index);
        [weight, bias, format!("body.{}.weight", 2 * index + 1)]
    };
    (0..=layers).flat_map(layer).chain(conv(2 * layers + 2)).collect()
}

fn compact(shapes: &Shapes<'_>) -> Result<(EnlargerConfig, Names), String> {
    let places = shapes.count(|index| format!("body.{index}.weight"));
    if places < 5 || places.is_multiple_of(2) {
        return Err("its activations have no slopes: a SRVGGNetCompact without PReLU".to_owned());
    }
    let layers = (places - 3) / 2;
    let outputs = shapes.size(&format!("body.{}.weight", places - 1), 0)?;
    let config = CompactConfig {
        features: shapes.size("body.0.weight", 0)?,
        layers,
        scale: scale_of(outputs)?,
    };
    let names = compact_tensors(layers).into_iter().map(|name| (name.clone(), name));
    Ok((EnlargerConfig::Compact(config), names.collect()))
}

/// The enlargement of a last convolution with so many outputs, three for each pixel.
pub(super) fn scale_of(outputs: usize) -> Result<usize, String> {
    let scale = (1..=8).find(|scale| 3 * scale * scale == outputs);
    scale.ok_or_else(|| format!("its last convolution has {outputs} channels, not 3·scale²"))
}
