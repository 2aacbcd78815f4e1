//! Architecture of an enlarging network: few numbers, which its file does not state but its tensors show.

/// Architecture of an enlarging network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnlargerConfig {
    /// ESRGAN and Real-ESRGAN.
    Rrdb(RrdbConfig),
    /// Real-ESRGAN's small networks.
    Compact(CompactConfig),
}

/// `RRDBNet` (basicsr `archs/rrdbnet_arch.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RrdbConfig {
    /// side of the square of pixels that the first convolution sees as one place: 1, 2 or 4 (`pixel_unshuffle`)
    pub unit: usize,
    /// channels between the blocks (`num_feat`)
    pub features: usize,
    /// channels that a layer of a dense block adds (`num_grow_ch`)
    pub growth: usize,
    /// blocks of three dense blocks each (`num_block`)
    pub blocks: usize,
    /// doublings of the picture behind the blocks
    pub doublings: usize,
}

/// `SRVGGNetCompact` (Real-ESRGAN `archs/srvgg_arch.py`) with PReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactConfig {
    /// channels of the layers (`num_feat`)
    pub features: usize,
    /// layers between the first and the last convolution (`num_conv`)
    pub layers: usize,
    /// enlargement (`upscale`)
    pub scale: usize,
}

/// The most channels, blocks and layers that are believed: some four times those of the largest networks there are.
const MOST_CHANNELS: usize = 512;
const MOST_BLOCKS: usize = 128;

impl EnlargerConfig {
    /// Checks that the numbers are those of a network that could be.
    ///
    /// # Errors
    /// What is not believed, in one line.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, value: usize, most: usize| match value {
            value if (1..=most).contains(&value) => Ok(()),
            value => Err(format!("{what} of {value}, where 1 to {most} are believed")),
        };
        match *self {
            Self::Rrdb(RrdbConfig { unit, features, growth, blocks, doublings }) => {
                if ![1, 2, 4].contains(&unit) {
                    return Err(format!("a first convolution over {unit} × {unit} pixels"));
                }
                within("channels", features, MOST_CHANNELS)?;
                within("growth", growth, MOST_CHANNELS)?;
                within("blocks", blocks, MOST_BLOCKS)?;
                if doublings > 3 || (1 << doublings) < unit {
                    return Err(format!("{doublings} doublings behind {unit} × {unit} pixels"));
                }
                Ok(())
            }
            Self::Compact(CompactConfig { features, layers, scale }) => {
                within("channels", features, MOST_CHANNELS)?;
                within("layers", layers, MOST_BLOCKS)?;
                within("a scale", scale, 8)
            }
        }
    }

    /// Pixels of the input along the side of a place of the network's maps.
    #[must_use]
    pub fn unit(&self) -> usize {
        match self {
            Self::Rrdb(config) => config.unit,
            Self::Compact(_) => 1,
        }
    }

    /// Pixels of the output along the side of a place of the network's maps.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Self::Rrdb(config) => 1 << config.doublings,
            Self::Compact(config) => config.scale,
        }
    }

    /// Enlargement: pixels of the output for one of the input, along a side.
    #[must_use]
    pub fn scale(&self) -> usize {
        self.outputs() / self.unit()
    }

    /// Channels of the maps between the steps.
    #[must_use]
    pub fn features(&self) -> usize {
        match self {
            Self::Rrdb(config) => config.features,
            Self::Compact(config) => config.features,
        }
    }

    /// The architecture's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rrdb(_) => "RRDBNet",
            Self::Compact(_) => "SRVGGNetCompact",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_from_units_and_doublings_and_absurd_numbers_are_refused() {
        let rrdb = RrdbConfig { unit: 1, features: 64, growth: 32, blocks: 23, doublings: 2 };
        for (unit, doublings, scale) in [(1, 2, 4), (2, 2, 2), (4, 2, 1), (1, 0, 1), (1, 3, 8)] {
            let config = EnlargerConfig::Rrdb(RrdbConfig { unit, doublings, ..rrdb });
            config.check().unwrap();
            assert_eq!(config.scale(), scale);
        }
        for wrong in [
            RrdbConfig { unit: 3, ..rrdb },
            RrdbConfig { unit: 4, doublings: 1, ..rrdb },
            RrdbConfig { blocks: 0, ..rrdb },
            RrdbConfig { features: 1 << 20, ..rrdb },
            RrdbConfig { doublings: 9, ..rrdb },
        ] {
            assert!(EnlargerConfig::Rrdb(wrong).check().is_err(), "{wrong:?}");
        }
        let compact = CompactConfig { features: 64, layers: 16, scale: 3 };
        EnlargerConfig::Compact(compact).check().unwrap();
        for wrong in
            [CompactConfig { scale: 0, ..compact }, CompactConfig { layers: 999, ..compact }]
        {
            assert!(EnlargerConfig::Compact(wrong).check().is_err(), "{wrong:?}");
        }
    }
}
