//! Regions of a job's steps: the job's grid, or, with tile jitter, one that is moved anew for each step; and of it those that
//! run, which are all but for what a mask keeps.

use std::sync::Arc;

use super::{geometry::Geometry, mask::MaskPlan, sampling::SamplingPlan};
use crate::{
    canvas::{NoiseField, Region, RegionGrid},
    pipeline::settings::Settings,
};

/// The regions of a step.
#[derive(Debug)]
pub(crate) struct StepRegions {
    /// All regions of the step.
    pub grid: RegionGrid,
    /// Those that run, in the grid's order.
    pub running: Vec<Region>,
    /// For each of them the region of the job's grid whose caption it has.
    pub captions: Vec<usize>,
}

impl StepRegions {
    /// Number of the regions that run.
    pub fn len(&self) -> usize {
        self.running.len()
    }
}

/// The regions of every step of a job: those that touch anything that the mask repaints.
pub(crate) fn of_steps(
    settings: &Settings,
    geometry: &Geometry,
    sampling: &SamplingPlan,
    mask: Option<&MaskPlan>,
) -> Vec<Arc<StepRegions>> {
    let fixed = &geometry.grid;
    let of_grid = |grid: RegionGrid| {
        let running = match mask {
            Some(mask) => mask.touched(&grid),
            None => grid.regions().collect(),
        };
        let captions = running.iter().map(|region| fixed.nearest(region)).collect();
        Arc::new(StepRegions { grid, running, captions })
    };
    if !settings.tile_jitter {
        return vec![of_grid(fixed.clone()); sampling.steps.len()];
    }
    let (noise, (up, left)) = (NoiseField::new(settings.seed), fixed.reach());
    let moved = sampling.steps.iter().map(|step| {
        let distance = |axis: u32, reach: usize| match reach / 2 {
            0 => 0,
            count => 2 + 2 * noise.choice(step.index as u32, axis, count as u32) as usize,
        };
        of_grid(fixed.moved(distance(0, up), distance(1, left)))
    });
    moved.collect()
}

/// The most regions of any step.
pub(crate) fn most(steps: &[Arc<StepRegions>]) -> usize {
    steps.iter().map(|step| step.len()).max().unwrap_or(0)
}

/// The regions of all steps together.
pub(crate) fn in_all(steps: &[Arc<StepRegions>]) -> usize {
    steps.iter().map(|step| step.len()).sum()
}

/// The regions of the job's grid whose captions any step asks for, in the grid's order.
pub(crate) fn captioned(steps: &[Arc<StepRegions>]) -> Vec<usize> {
    let mut indices: Vec<usize> = steps.iter().flat_map(|step| step.captions.clone()).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}
