//! `cupscale-fast`: parse, run, and turn the result into an exit code.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
