//! `plan` and `--dry-run`: prints the plan of the job on standard output.

use cupscale::pipeline;

use super::{
    error::CliError,
    job::Job,
    picture,
    print::{complain, print},
};

pub fn run(job: &Job) -> Result<(), CliError> {
    let input = job.only_input("plan")?;
    let picture = picture::open(job, input)?;
    let (output, format) = job.output(input, picture.format())?;
    picture::check_output(job, &picture, &output, format)?;
    let note = |note: &str| {
        if !job.show.quiet {
            complain(note);
        }
    };
    let shape = picture.shape();
    let of_size = picture::size_notes((shape.width, shape.height), job)?;
    job.notes.iter().chain(&of_size).for_each(|text| note(text));
    let (engine, settings) = job.load(note)?;
    print(&format!("{}\n", pipeline::plan(&engine, shape, &settings)?))
}
