//! `plan` and `--dry-run`: prints the plan of the job on standard output.

use cupscale::pipeline;

use super::{
    error::CliError,
    job::Job,
    picture,
    print::{complain, print},
};

pub fn run(job: &Job) -> Result<(), CliError> {
    job.refuse_folder("plan")?;
    let (bytes, source) = picture::read(&job.input)?;
    let (output, format) = job.output(source)?;
    let picture = picture::open(job, &job.input, &bytes, &output, format)?;
    let size = (picture.width, picture.height);
    let (engine, settings) = job.load(|note| {
        if !job.show.quiet {
            complain(note);
        }
    })?;
    print(&format!("{}\n", pipeline::plan(&engine, size, &settings)?))
}
