//! Weights of a LoRA's blocks: how strongly it works in each part of a UNet, as people know it from the extension LoRA
//! Block Weight of AUTOMATIC1111's program. Its blocks are those of the code that trained the UNets.
//!
//! Source: hako-mikan/sd-webui-lora-block-weight `scripts/lora_block_weight.py` (`BLOCKID12`, `BLOCKID17`, `BLOCKID20`,
//! `BLOCKID26`; `to26`: blocks that a short list leaves out have the weight 0).

use std::collections::BTreeMap;

/// How strongly a LoRA works.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraScale {
    /// 1 as it was trained, 0 not at all
    pub scale: f64,
    /// What the scale is multiplied with in each block, in the order BASE (the text encoders), IN, M00, OUT; empty for 1
    /// everywhere. There are as many as the UNet has blocks, or blocks with attention: 26 or 17 of Stable Diffusion 1.x
    /// and 2.x, 20 or 12 of SDXL.
    pub blocks: Vec<f64>,
}

impl From<f64> for LoraScale {
    fn from(scale: f64) -> Self {
        Self { scale, blocks: Vec::new() }
    }
}

impl LoraScale {
    /// Numbers that tell this from every other, for a digest.
    pub(in crate::weights) fn numbers(&self) -> impl Iterator<Item = f64> {
        [self.scale, self.blocks.len() as f64].into_iter().chain(self.blocks.iter().copied())
    }
}

/// Block of a UNet, in the order of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Block {
    Input(usize),
    Middle,
    Output(usize),
}

impl Block {
    /// Block of a module by its name in the code that trained the UNet.
    pub(super) fn of(name: &str) -> Option<Self> {
        let number = |rest: &str| rest.split('.').next()?.parse().ok();
        if let Some(rest) = name.strip_prefix("input_blocks.") {
            return number(rest).map(Self::Input);
        }
        if let Some(rest) = name.strip_prefix("output_blocks.") {
            return number(rest).map(Self::Output);
        }
        name.starts_with("middle_block.").then_some(Self::Middle)
    }
}

/// Blocks of a model, and whether they have attention.
#[derive(Debug, Default)]
pub(super) struct BlockLayout(BTreeMap<Block, bool>);

impl BlockLayout {
    /// Adds the block of a module.
    pub(super) fn add(&mut self, block: Block, has_attention: bool) {
        // A short list always has the middle.
        *self.0.entry(block).or_default() |= has_attention || block == Block::Middle;
    }

    /// Weights by block.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub(super) fn weights(&self, list: &[f64]) -> Result<BlockWeights, String> {
        if list.is_empty() {
            return Ok(BlockWeights::default());
        }
        if self.0.is_empty() {
            return Err("weights of blocks are for UNets, which this model has not".to_owned());
        }
        if let Some(wrong) = list.iter().find(|weight| !weight.is_finite()) {
            return Err(format!("the weight {wrong} of a block is not a number"));
        }
        let with_attention = self.0.values().filter(|has| **has).count();
        let is_whole = list.len() == self.0.len() + 1;
        if !is_whole && list.len() != with_attention + 1 {
            return Err(format!(
                "{} weights of blocks: this model takes {} or {} (BASE, the input blocks, M00, the output blocks; all, or \
                 those with attention)",
                list.len(),
                self.0.len() + 1,
                with_attention + 1,
            ));
        }
        let mut given = list[1..].iter().copied();
        let weight = |(&block, &has): (&Block, &bool)| {
            let listed = is_whole || has;
            (block, if listed { given.next().unwrap_or_default() } else { 0.0 })
        };
        Ok(BlockWeights(Some((list[0], self.0.iter().map(weight).collect()))))
    }
}

/// Weights of the blocks of a model: that of the text encoders, and those of the UNet's.
#[derive(Debug, Default)]
pub(super) struct BlockWeights(Option<(f64, BTreeMap<Block, f64>)>);

impl BlockWeights {
    /// Weight of a block of the denoiser; layers outside of all have 1.
    pub(super) fn of_denoiser(&self, block: Option<Block>) -> f64 {
        let own = |(_, blocks): &(f64, BTreeMap<_, _>)| blocks.get(&block?).copied();
        self.0.as_ref().and_then(own).unwrap_or(1.0)
    }

    /// Weight of the text encoders.
    pub(super) fn of_text(&self) -> f64 {
        self.0.as_ref().map_or(1.0, |&(base, _)| base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of a UNet with so many on either side, those with attention by their numbers.
    fn layout(count: usize, inputs: &[usize], outputs: &[usize]) -> BlockLayout {
        let mut layout = BlockLayout::default();
        for index in 0..count {
            layout.add(Block::Input(index), inputs.contains(&index));
            layout.add(Block::Output(index), outputs.contains(&index));
            layout.add(Block::Input(index), false);
        }
        layout.add(Block::Middle, false);
        layout
    }

    #[test]
    fn a_list_has_the_numbers_of_the_extension() {
        let sd15 = layout(12, &[1, 2, 4, 5, 7, 8], &[3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let sdxl = layout(9, &[4, 5, 7, 8], &[0, 1, 2, 3, 4, 5]);
        for (layout, counts) in [(&sd15, [26, 17]), (&sdxl, [20, 12])] {
            for count in 1..30 {
                let weights = layout.weights(&vec![1.0; count]);
                assert_eq!(weights.is_ok(), counts.contains(&count), "{count}");
            }
            let error = layout.weights(&[1.0, 2.0]).unwrap_err();
            let expected =
                format!("2 weights of blocks: this model takes {} or {} ", counts[0], counts[1]);
            assert!(error.starts_with(&expected), "{error}");
        }
        let numbers: Vec<f64> = (0..17).map(f64::from).collect();
        let weights = sd15.weights(&numbers).unwrap();
        for (block, expected) in [
            (Block::Input(0), 0.0),
            (Block::Input(1), 1.0),
            (Block::Input(8), 6.0),
            (Block::Input(11), 0.0),
            (Block::Middle, 7.0),
            (Block::Output(2), 0.0),
            (Block::Output(3), 8.0),
            (Block::Output(11), 16.0),
        ] {
            assert_eq!(weights.of_denoiser(Some(block)), expected, "{block:?}");
        }
        assert_eq!((weights.of_denoiser(None), weights.of_text()), (1.0, 0.0));
        let numbers: Vec<f64> = (0..20).map(f64::from).collect();
        let weights = sdxl.weights(&numbers).unwrap();
        for (block, expected) in
            [(Block::Input(0), 1.0), (Block::Middle, 10.0), (Block::Output(8), 19.0)]
        {
            assert_eq!(weights.of_denoiser(Some(block)), expected, "{block:?}");
        }
        assert!(sdxl.weights(&[f64::NAN; 20]).unwrap_err().contains("NaN"));
        assert!(BlockLayout::default().weights(&[1.0; 20]).unwrap_err().contains("UNets"));
        let none = BlockLayout::default().weights(&[]).unwrap();
        assert_eq!((none.of_denoiser(Some(Block::Middle)), none.of_text()), (1.0, 1.0));
    }

    #[test]
    fn the_names_of_the_training_code_tell_the_block() {
        for (name, block) in [
            ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", Some(Block::Input(4))),
            ("middle_block.1.proj_in", Some(Block::Middle)),
            ("output_blocks.11.0.skip_connection", Some(Block::Output(11))),
            ("time_embed.0", None),
            ("out.2", None),
            ("input_blocks.x.1", None),
        ] {
            assert_eq!(Block::of(name), block, "{name}");
        }
    }
}
