//! What verbs take of a job's options: which verbs do, and what each of them refuses and hides in its help.

/// Options for the output picture, its mask, unfinished work and shares, which `caption` does not have. All other options of a job
/// apply to it.
pub const NOT_OF_CAPTION: [&str; 15] = [
    "format",
    "quality",
    "bit_depth",
    "skip_existing",
    "preview",
    "report",
    "dry_run",
    "work_dir",
    "resume",
    "fresh",
    "shard",
    "skip_locked",
    "mask",
    "invert_mask",
    "mask_feather",
];

/// Verbs that take the options of a job.
pub const JOBS: &[&str] = &[
    "plan",
    "caption",
    "generate",
    "edit",
    "raw",
    "pipe",
    #[cfg(feature = "serve")]
    "serve",
];

/// Hides these options in the help of a verb that refuses them.
pub fn hide(
    command: clap::Command,
    ids: impl IntoIterator<Item = impl AsRef<str>>,
) -> clap::Command {
    ids.into_iter().fold(command, |command, id| command.mut_arg(id, |option| option.hide(true)))
}

/// Options for another output than the picture itself, which `edit` does not have.
pub const NOT_OF_EDIT: [&str; 7] =
    ["output", "format", "skip_existing", "shard", "dry_run", "page", "frames"];

/// Options for pictures that are read, and for many of them, which `generate` does not have.
pub const NOT_OF_GENERATE: [&str; 8] = [
    "inputs",
    "input_option",
    "skip_existing",
    "shard",
    "allow_truncated",
    "page",
    "frames",
    "max_metadata",
];

/// Options of the enlargement, which a base picture alone does not have.
pub const OF_ENLARGING: [&str; 24] = [
    "control",
    "control_kind",
    "control_image",
    "first",
    "first_share",
    "profile",
    "strength",
    "denoise_steps",
    "gsp",
    "rap",
    "rsp",
    "captioner",
    "captions",
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
];
