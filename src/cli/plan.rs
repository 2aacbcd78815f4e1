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
    let (bytes, source) = picture::read(input)?;
    let (output, format) = job.output(input, source)?;
    let picture = picture::open(job, input, &bytes, &output, format)?;
    let size = (picture.width, picture.height);
    let note = |note: &str| {
        if !job.show.quiet {
            complain(note);
        }
    };
    job.notes.iter().chain(&picture::size_notes(&picture, job)?).for_each(|text| note(text));
    let (engine, settings) = job.load(note)?;
    print(&format!("{}\n", pipeline::plan(&engine, size, &settings)?))
}
