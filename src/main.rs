//! `cupscale-fast`: parse, run, and turn the result into an exit code.

#[cfg(target_os = "linux")]
mod allocator;
mod cli;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    allocator::install();
    cli::run()
}
