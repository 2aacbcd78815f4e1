//! Options for the device, its memory, and the threads.

use std::error::Error as _;

use clap::{Args, ValueEnum};
use cupscale::backend::{DeviceList, KernelChoice, MatmulPrecision};

use crate::cli::{error::CliError, threads, values};

/// Kernels selectable with `--kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelsArg {
    /// Those of this program, where there are some that pass their test
    Own,
    /// Composed of a tensor library's
    Composed,
}

impl KernelsArg {
    /// The backend's choice.
    pub fn choice(self) -> KernelChoice {
        match self {
            Self::Own => KernelChoice::Own,
            Self::Composed => KernelChoice::Composed,
        }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Device to compute on; several NVIDIA GPUs share a job: cuda:0,cuda:1 or cuda:all
    #[arg(short = 'g', long, value_name = "auto|cpu|cuda:N|metal", default_value_t)]
    pub device: DeviceList,
    /// Matmul precision of the UNet on the CPU: f32, bf16 (faster, with a small error), or auto: bf16
    /// where the processor has instructions for it [default: f32]
    #[arg(long, value_name = "f32|bf16|auto", value_parser = values::products)]
    pub dtype: Option<MatmulPrecision>,
    /// Kernels that a GPU computes with; the CPU always has its own
    #[arg(long, value_enum, default_value_t = KernelsArg::Own)]
    pub kernels: KernelsArg,
    /// Limit of the job's memory on each device: 8GiB, 512MiB, 6G, or bytes [default: what is free,
    /// less a margin]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub max_memory: Option<usize>,
    /// Regions computed at once [default: 4 on the CPU, 8 on a GPU, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Option<u32>,
    /// Side of a VAE tile, in pixels [default: 512, of an AutoencoderKL 1024, or what fits]
    #[arg(short = 't', long, visible_alias = "vae-tile", value_name = "PIXELS",
          value_parser = clap::value_parser!(u32).range(32..=16384))]
    pub tile: Option<u32>,
    /// Disk that SDXL's VAE may use to compute a large picture exactly; where it would take more, tiles share statistics
    /// measured on samples. 0 always samples [default: 8GiB on the CPU, 0 on a GPU, where the disk costs more time than
    /// the picture]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes_or_none)]
    pub vae_disk: Option<u64>,
    /// Threads on the CPU, up to four for each core, for all devices together [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
}

impl MachineArgs {
    /// Sets the size of the thread pool, once, before any work. Returns a note if it is smaller than asked for.
    ///
    /// # Errors
    /// Threads that the system does not give.
    pub fn set_threads(&self) -> Result<Option<String>, CliError> {
        let (threads, note) = threads::chosen(self.threads.map(|threads| threads as usize));
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|error| {
            let error = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            CliError::Threads { threads, error }
        })?;
        Ok(note)
    }
}
