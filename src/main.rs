//! `cupscale-fast`: parse, run, and turn the result into an exit code.

mod cli;

#[global_allocator]
static ALLOCATOR: cupscale::backend::Allocator = cupscale::backend::Allocator;

fn main() -> std::process::ExitCode {
    cli::run()
}
