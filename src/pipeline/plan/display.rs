//! Display of plans, as `plan` prints them.

use std::fmt;

use super::{
    Plan,
    geometry::Geometry,
    memory::{MemoryPlan, MemoryStage},
};
use crate::{caption::CaptionBatch, units};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { geometry, sampling, .. } = self;
        let Geometry { input, canvas, grid, shape, .. } = geometry;
        let (region_height, region_width) = grid.region_size();
        let factor = shape.factor;
        match geometry.generated {
            true => writeln!(f, "input         none: made from noise")?,
            false => writeln!(f, "input         {} × {} px", input.width, input.height)?,
        }
        writeln!(f, "output        {} × {} px", canvas.width, canvas.height)?;
        if let Some(first) = &self.first {
            writeln!(f, "first         {first}")?;
        }
        writeln!(
            f,
            "canvas        {} × {} latent px, {} channels",
            canvas.latent_width, canvas.latent_height, shape.channels
        )?;
        writeln!(
            f,
            "regions       {} ({} × {}) of {} px, overlap {} px",
            grid.len(),
            grid.xs().len(),
            grid.ys().len(),
            match region_width == region_height {
                true => (region_width * factor).to_string(),
                false => format!("{} × {}", region_width * factor, region_height * factor),
            },
            grid.overlap() * factor
        )?;
        if self.text_chunks > 1 {
            writeln!(f, "prompt        up to {} chunks of tokens", self.text_chunks)?;
        }
        if let Some(first) = self.regions.first().filter(|it| it.grid.len() != grid.len()) {
            let (columns, rows) = (first.grid.xs().len(), first.grid.ys().len());
            let regions = units::count(first.grid.len(), "region");
            writeln!(f, "jitter        {regions} ({columns} × {rows}) in each step, moved anew")?;
        }
        if let Some(mask) = &self.mask {
            let (running, cells) = (self.running(), mask.cells.as_slice().len());
            let share = 100.0 * mask.repainted() as f64 / cells as f64;
            let regions = units::count(running, "region");
            writeln!(f, "mask          repaints {share:.0} % of the canvas, in {regions}")?;
        }
        if let Some(row) = &self.profile {
            writeln!(f, "profile       {row}")?;
        }
        write!(f, "sampler       {}", sampling.sampler)?;
        if let Some(spacing) = sampling.spacing {
            write!(f, ", {} timesteps", spacing.name())?;
        }
        if let Some(sigmas) = sampling.sigmas {
            write!(f, ", {} sigmas", sigmas.name())?;
        }
        if let Some(eta) = sampling.eta {
            write!(f, ", eta {eta}")?;
        }
        writeln!(f)?;
        let timesteps: Vec<String> = (sampling.steps.iter())
            .map(|step| format!("{:.*}", usize::from(step.t.fract() != 0.0), step.t))
            .collect();
        let (run, predictions) = (sampling.steps_run, sampling.steps.len());
        write!(f, "steps         {run} of {}", sampling.schedule_steps)?;
        if predictions > run {
            write!(f, " in {predictions} predictions")?;
        }
        match timesteps.is_empty() {
            true => writeln!(f)?,
            false => writeln!(f, ", at t = {}", timesteps.join(", "))?,
        }
        let batch = self.memory.batch.min(self.running().max(1));
        let calls = units::count(self.denoiser_calls(), "region");
        match sampling.guidance {
            Some(guidance) => {
                writeln!(f, "guidance      {guidance}")?;
                writeln!(f, "calls         {calls} in batches of 2 × {batch}")?;
            }
            None => {
                match sampling.embedded_guidance {
                    Some(guidance) => writeln!(f, "guidance      {guidance}, given to the model")?,
                    None => writeln!(f, "guidance      none")?,
                }
                writeln!(f, "calls         {calls} in batches of {batch}")?;
            }
        }
        for control in &self.controls {
            writeln!(f, "control       {control}")?;
        }
        for note in &sampling.notes {
            writeln!(f, "note          {note}")?;
        }
        write!(
            f,
            "VAE tiles     {} ({} × {}) of {} px",
            self.tiles(),
            self.tile_columns.len(),
            self.tile_rows.len(),
            self.memory.tile
        )?;
        match (self.map_bytes(), self.measured_share()) {
            (0, None) => writeln!(f)?,
            (0, Some(share)) => writeln!(
                f,
                ", norms and attention from samples of {:.0} % of the canvas",
                100.0 * share
            )?,
            (bytes, _) => writeln!(f, ", layer by layer, with {} of disk", units::bytes(bytes))?,
        }
        writeln!(f, "computes on   {}", self.computes_on)?;
        if let devices @ 2.. = self.devices.len() {
            let names = self.devices.join(", ");
            writeln!(f, "devices       {devices}: {names}; memory is that of each")?;
        }
        writeln!(f, "disk          {} while it works", units::bytes(self.work_bytes()))?;
        self.memory.fmt(f)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory        {}", units::bytes(self.peak()))?;
        match self.budget {
            Some(budget) => writeln!(f, " of {}", units::bytes(budget))?,
            None => writeln!(f)?,
        }
        writeln!(
            f,
            "parts         {}",
            if self.keeps_parts { "stay loaded" } else { "loaded for each stage, then freed" }
        )?;
        if let Some(CaptionBatch { rows, prefill_rows, stays }) = self.captions {
            let stays = if stays { "stays loaded" } else { "freed before the denoiser is loaded" };
            writeln!(
                f,
                "captioner     {stays}; {} at once, {prefill_rows} read at once",
                units::count(rows, "caption")
            )?;
        }
        write!(f, "stage               resident        working           peak")?;
        for stage in &self.stages {
            let [resident, working, peak] =
                [stage.resident, stage.working, stage.peak()].map(units::bytes);
            write!(f, "\n{:<14}{resident:>14} {working:>14} {peak:>14}", stage.stage)?;
        }
        Ok(())
    }
}

impl fmt::Display for MemoryStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Caption => "caption",
            Self::Text => "text",
            Self::Enlarge => "enlarge",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        })
    }
}
