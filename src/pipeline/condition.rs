//! The text side of a job (METHOD §5): every region's caption, turned into what the UNet is
//! conditioned on.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use crate::{canvas::Region, model::unet::Conditioning};

use super::{Engine, Error};

/// Text conditions of the whole picture and of every region.
pub(super) struct Conditions {
    /// `[texts, M, D]`, one row per distinct text
    context: Tensor,
    /// `[texts, P]`
    pooled: Option<Tensor>,
    /// original_size, crop (0, 0), target_size of one region: "a photo of its own"
    time_ids: Option<[f32; 6]>,
    /// For each region, the row of its text.
    rows: Vec<usize>,
}

/// The row of the global prompt.
const GLOBAL: usize = 0;

impl Conditions {
    /// Encodes the global prompt and every region's caption; equal texts are encoded once.
    ///
    /// `rsp` goes from 0 (every region is conditioned on the prompt) to 1 (on its caption); between
    /// them the two conditions are blended.
    pub fn new(
        engine: &Engine,
        prompt: &str,
        captions: &[String],
        rsp: f64,
    ) -> Result<Self, Error> {
        let mut texts = vec![prompt];
        let mut row_of = HashMap::from([(prompt, GLOBAL)]);
        let rows = captions
            .iter()
            .map(|caption| {
                if rsp == 0.0 {
                    return GLOBAL;
                }
                *row_of.entry(caption).or_insert_with(|| {
                    texts.push(caption);
                    texts.len() - 1
                })
            })
            .collect();
        let encoded = engine.text.encode(&texts)?;
        let blend = |of_texts: &Tensor| -> candle_core::Result<Tensor> {
            if rsp == 1.0 {
                return Ok(of_texts.clone());
            }
            // In row 0 both sides are the prompt, and stay it.
            (of_texts * rsp)?.broadcast_add(&(of_texts.narrow(0, GLOBAL, 1)? * (1.0 - rsp))?)
        };
        let side = (engine.shape().region * engine.shape().factor) as f32;
        Ok(Self {
            context: blend(&encoded.context)?,
            pooled: encoded.pooled.as_ref().map(blend).transpose()?,
            time_ids: (engine.unet.config().added.as_ref())
                .map(|_| [side, side, 0.0, 0.0, side, side]),
            rows,
        })
    }

    /// What a batch of regions is conditioned on.
    pub fn of_regions(&self, regions: &[Region]) -> Result<Conditioning, Error> {
        let rows: Vec<u32> = regions.iter().map(|region| self.rows[region.index] as u32).collect();
        self.rows(&rows)
    }

    /// What the whole picture is conditioned on.
    pub fn global(&self) -> Result<Conditioning, Error> {
        self.rows(&[GLOBAL as u32])
    }

    fn rows(&self, rows: &[u32]) -> Result<Conditioning, Error> {
        let device = self.context.device();
        let index = Tensor::from_slice(rows, rows.len(), device)?;
        let time_ids = self
            .time_ids
            .map(|ids| Tensor::from_vec(ids.repeat(rows.len()), (rows.len(), ids.len()), device))
            .transpose()?;
        Ok(Conditioning {
            context: self.context.index_select(&index, 0)?,
            pooled: self
                .pooled
                .as_ref()
                .map(|pooled| pooled.index_select(&index, 0))
                .transpose()?,
            time_ids: time_ids.map(|ids| ids.to_dtype(DType::F32)).transpose()?,
        })
    }
}
