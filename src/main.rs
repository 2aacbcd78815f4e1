//! `cupscale-fast`: parse, run, and turn the result into an exit code.

#[cfg(target_os = "linux")]
mod allocator;
#[cfg(target_os = "linux")]
mod bus_fault;
mod cli;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    {
        bus_fault::install();
        allocator::install();
    }
    cli::run()
}
