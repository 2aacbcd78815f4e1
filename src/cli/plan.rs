//! `plan` and `--dry-run`: prints the plan of the job on standard output, and how long it would take here.

use std::time::Duration;

use cupscale::{
    pipeline::{self, Engine, Error, Plan, Settings, Stage},
    units,
};
use serde_json::{Value, json};

use super::{
    error::CliError,
    job::Job,
    picture,
    print::{complain, print, print_json},
    progress::words,
    speeds::{self, SpeedKey},
};

/// Prints the plan, as text or as JSON.
pub fn run(job: &Job, as_json: bool) -> Result<(), CliError> {
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
    let settings = job.masked(&settings, input)?;
    let plan = pipeline::plan(&engine, shape, &settings)?;
    let time = PlannedTime::of(&engine, &settings, &plan)?;
    if as_json {
        let json = to_json(&input.name(), &output.name(), &plan, &time);
        return print_json(&format!("{json:#}\n"));
    }
    print_text(&plan, &time)
}

/// Prints a plan as text, with the time that it would take.
pub fn print_plan(engine: &Engine, settings: &Settings, plan: &Plan) -> Result<(), CliError> {
    print_text(plan, &PlannedTime::of(engine, settings, plan)?)
}

fn print_text(plan: &Plan, time: &PlannedTime) -> Result<(), CliError> {
    print(&format!("{plan}\ntime          {}\n", time.words()))
}

/// How long a job would take.
struct PlannedTime {
    /// Seconds before the first stage, and of each stage whose time is known.
    preparation: f64,
    stages: Vec<(Stage, f64)>,
    /// Jobs that tell it; 0 where it was measured.
    jobs: u32,
    /// Name of a captioner whose time nobody knows.
    without: Option<String>,
}

impl PlannedTime {
    /// By what earlier jobs took, else by a measurement.
    fn of(engine: &Engine, settings: &Settings, plan: &Plan) -> Result<Self, Error> {
        let outline = plan.outline();
        let earlier = speeds::expect(&SpeedKey::new(engine, settings), &outline);
        let (jobs, preparation, seconds) = match earlier {
            Some(earlier) if earlier.stages.iter().skip(1).all(Option::is_some) => {
                (earlier.jobs, earlier.preparation, earlier.stages)
            }
            _ => (0, 0.0, engine.measure_speed()?.seconds(&outline)),
        };
        let captions = settings.captioner.as_ref();
        let is_unknown = seconds[0].is_none() && captions.is_costly();
        let stages = outline.work.into_iter().zip(seconds);
        Ok(Self {
            preparation,
            stages: stages.filter_map(|((stage, _), it)| Some((stage, it?))).collect(),
            jobs,
            without: is_unknown.then(|| captions.name().to_owned()),
        })
    }

    fn seconds(&self) -> f64 {
        self.preparation + self.stages.iter().map(|(_, seconds)| seconds).sum::<f64>()
    }

    /// `about 40 s, by 3 earlier jobs with this model here`.
    fn words(&self) -> String {
        let by = match self.jobs {
            0 => "a short measurement".to_owned(),
            jobs => {
                format!("{} with this model here", units::count(jobs as usize, "earlier job"))
            }
        };
        let without = self.without.as_ref().map(|name| format!(", besides captions by {name}"));
        let time = words(Duration::from_secs_f64(self.seconds()));
        format!("about {time}, by {by}{}", without.unwrap_or_default())
    }
}

/// The plan for programs.
fn to_json(input: &str, output: &str, plan: &Plan, time: &PlannedTime) -> Value {
    let stages = time.stages.iter();
    let stages = stages.map(|(stage, seconds)| json!({"stage": stage, "seconds": seconds}));
    let mut json = plan.to_json();
    json["input"] = input.into();
    json["output"] = output.into();
    json["time"] = json!({
        "seconds": time.seconds(),
        "earlier_jobs": time.jobs,
        "stages": stages.collect::<Vec<_>>(),
        "without": time.without,
    });
    json
}
