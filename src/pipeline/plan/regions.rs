//! Regions of a job's steps: those that run, which are all of the canvas's but for what a mask keeps.

use std::sync::Arc;

use super::{geometry::Geometry, mask::MaskPlan, sampling::SamplingPlan};
use crate::canvas::{Region, RegionGrid};

/// The regions of a step.
#[derive(Debug)]
pub(crate) struct StepRegions {
    /// All regions of the canvas.
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
    geometry: &Geometry,
    sampling: &SamplingPlan,
    mask: Option<&MaskPlan>,
) -> Vec<Arc<StepRegions>> {
    let grid = geometry.grid.clone();
    let running = match mask {
        Some(mask) => mask.touched(&grid),
        None => grid.regions().collect(),
    };
    let captions = running.iter().map(|region| region.index).collect();
    vec![Arc::new(StepRegions { grid, running, captions }); sampling.steps.len()]
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
