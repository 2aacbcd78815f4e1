//! Names of all keywords: those of an engine, and those of its jobs.

/// Keywords of every job.
pub const SETTINGS: [&str; 44] = [
    "scale",
    "size",
    "long_edge",
    "prompt",
    "negative_prompt",
    "prompt_syntax",
    "captioner",
    "captions",
    "profile",
    "seed",
    "steps",
    "strength",
    "denoise_steps",
    "sampler",
    "eta",
    "spacing",
    "sigmas",
    "timesteps",
    "guidance",
    "overlap",
    "fusion",
    "tile_jitter",
    "gsp",
    "rap",
    "rsp",
    "first_share",
    "sharpen",
    "grain",
    "fidelity",
    "coherence",
    "texture",
    "color_fix",
    "detail_only",
    "blend",
    "mask",
    "invert_mask",
    "mask_feather",
    "batch",
    "tile",
    "vae_disk",
    "max_memory",
    "page",
    "allow_truncated",
    "max_metadata",
];

/// Those of how a file is read.
pub const READ: [&str; 3] = ["page", "allow_truncated", "max_metadata"];

/// Those of a job that writes a file.
pub const FILE: [&str; 6] = ["format", "quality", "bit_depth", "work_dir", "resume", "fresh"];

/// All names of a job.
pub fn job() -> Vec<&'static str> {
    SETTINGS.iter().chain(&FILE).copied().collect()
}

/// Keywords of an engine.
pub const ENGINE: &[&str] = &[
    "model",
    "unet",
    "text_encoder",
    "vae",
    "quantize",
    "loras",
    "embeddings",
    "controls",
    "first",
    "device",
    "dtype",
    "kernels",
    "batch",
    "tile",
    "vae_disk",
    "max_memory",
    "captioner",
    "caption_model",
    "caption_mmproj",
    "caption_quantize",
    "caption_temperature",
    "caption_top_p",
    "caption_seed",
    "caption_batch",
    "no_caption_cache",
];
