//! Plans for Python, as JSON: the fields of the program's `plan --json`, without those of files.

use cupscale::pipeline::{MemoryStage, Plan};
use serde_json::{Value, json};

/// The plan as JSON, with the text that the program prints.
pub fn to_json(plan: &Plan) -> Value {
    let Plan { geometry, sampling, memory, .. } = plan;
    let stage = |stage: MemoryStage| stage.to_string().trim().to_owned();
    let stages =
        memory.stages.iter().map(|it| json!({"stage": stage(it.stage), "peak": it.peak()}));
    json!({
        "width": geometry.canvas.width,
        "height": geometry.canvas.height,
        "regions": geometry.grid.len(),
        "regions_run": plan.running(),
        "steps": sampling.steps_run,
        "sampler": sampling.sampler.name(),
        "calls": plan.denoiser_calls(),
        "controls": plan.controls,
        "vae_tiles": plan.tiles(),
        "first": plan.first.as_ref().map(|first| first.name.as_str()),
        "computes_on": plan.computes_on,
        "devices": plan.devices,
        "work_bytes": plan.work_bytes(),
        "memory": {
            "peak": memory.peak(),
            "budget": memory.budget,
            "batch": memory.batch,
            "tile": memory.tile,
            "stages": stages.collect::<Vec<_>>(),
        },
        "text": plan.to_string(),
    })
}
