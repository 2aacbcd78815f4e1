//! Plan for programs.

use serde_json::{Value, json};

use super::{Plan, memory::MemoryStage};

impl Plan {
    /// The plan as a JSON object: sizes in pixels, counts, and memory in bytes, without the names of files and the time.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { geometry, sampling, memory, .. } = self;
        let stage = |stage: MemoryStage| stage.to_string().trim().to_owned();
        let stages =
            memory.stages.iter().map(|it| json!({"stage": stage(it.stage), "peak": it.peak()}));
        json!({
            "width": geometry.canvas.width,
            "height": geometry.canvas.height,
            "regions": geometry.grid.len(),
            "regions_run": self.running(),
            "steps": sampling.steps_run,
            "sampler": sampling.sampler.name(),
            "calls": self.denoiser_calls(),
            "controls": self.controls,
            "vae_tiles": self.tiles(),
            "first": self.first.as_ref().map(|first| json!({
                "name": first.name,
                "scale": first.network.scale(),
                "passes": first.passes.len(),
            })),
            "computes_on": self.computes_on,
            "devices": self.devices,
            "work_bytes": self.work_bytes(),
            "memory": {
                "peak": memory.peak(),
                "budget": memory.budget,
                "batch": memory.batch,
                "tile": memory.tile,
                "stages": stages.collect::<Vec<_>>(),
            },
        })
    }
}
