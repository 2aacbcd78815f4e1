//! Options of verbs that stay loaded (`pipe`, `serve`) and of their requests: the program itself takes what stays loaded, a
//! request takes the settings of its picture. Both are options of a job, so that names, ranges and defaults stand in one place.

use std::ffi::OsString;

use clap::{
    ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser,
    parser::ValueSource,
};

use cupscale::pipeline::LANCZOS;

use super::{
    ContentArgs, ControlArgs, JobArgs, LlavaArgs, ModelArgs, machine::MachineArgs, mask::MaskArgs,
    read::ReadArgs, repaint::RepaintArgs, size::SizeArgs,
};
use crate::cli::usage;

/// Options of a job that such a verb takes besides its model, machine and captioner.
const OWN: [&str; 4] = ["captioner", "work_dir", "grace", "quiet"];

/// The options of a request, unresolved.
#[derive(Debug)]
pub struct RequestArgs {
    pub job: JobArgs,
    /// It says which captioner it wants.
    pub names_captioner: bool,
}

/// A job's options as words without the program's name.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Words {
    #[command(flatten)]
    job: JobArgs,
}

impl RequestArgs {
    /// Parses `--name=value` words of a request to `verb`.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn parse(words: &[OsString], verb: &str) -> Result<Self, String> {
        let matches =
            Words::command().try_get_matches_from(words).map_err(|error| usage::line(&error))?;
        // What needs no network to be loaded may be chosen instead of one that is.
        let is_lanczos = |id: &str| {
            id == "first" && matches.get_one::<OsString>(id).is_some_and(|name| name == LANCZOS)
        };
        let is_free = |id: &str| is_setting(id) || is_lanczos(id);
        if let Some(id) =
            ids(Words::command()).iter().find(|id| typed(&matches, id) && !is_free(id))
        {
            let name = id.replace('_', "-");
            return Err(match id.as_str() {
                "format" | "quality" => format!("`{name}` stands in `output`, not in `settings`"),
                id if is_own(id) => {
                    format!("`{name}` is chosen when `{verb}` starts, for all requests")
                }
                _ => format!("`{name}` is no setting of a request"),
            });
        }
        let names_captioner = typed(&matches, "captioner");
        let words = Words::from_arg_matches(&matches).map_err(|error| usage::line(&error))?;
        if words.job.read.every().page {
            return Err("`page` is one number: a request has one result".to_owned());
        }
        Ok(Self { job: words.job, names_captioner })
    }
}

/// Names of all settings of a request.
pub fn setting_names() -> Vec<String> {
    ids(Words::command())
        .into_iter()
        .filter(|id| is_setting(id))
        .map(|id| id.replace('_', "-"))
        .collect()
}

/// Names of the settings whose value is a file.
#[cfg(all(test, feature = "serve"))]
pub fn path_settings() -> Vec<String> {
    let is_path = |option: &&clap::Arg| {
        let names = option.get_value_names().unwrap_or_default().iter();
        let is_file =
            |name: &str| ["FILE", "FOLDER", "DIR", "PATH"].iter().any(|it| name.contains(it));
        names.into_iter().any(|name| is_file(name.as_str()))
    };
    let command = Words::command();
    let options = command.get_arguments().filter(is_path).map(|option| option.get_id().as_str());
    options.filter(|id| is_setting(id)).map(|id| id.replace('_', "-")).collect()
}

/// Options of a job that such a verb refuses on its command line.
pub fn refused() -> Vec<String> {
    ids(Words::command()).into_iter().filter(|id| !is_own(id)).collect()
}

/// Why `verb`, whose pictures come and go as `what`, does not start with these options, if it does not.
pub fn refusal(matches: &ArgMatches, verb: &str, what: &str) -> Option<String> {
    let id = refused().into_iter().find(|id| typed(matches, id))?;
    let name = id.replace('_', "-");
    Some(if is_setting(&id) {
        format!(
            "--{name} is a setting of each request: `{verb}` itself takes model, captioner and machine"
        )
    } else {
        format!("--{name} is not for `{verb}`, whose pictures come and go as {what}")
    })
}

/// `true` for options that such a verb itself takes.
fn is_own(id: &str) -> bool {
    let is_of_model = has::<ModelArgs>(id) || has::<ControlArgs>(id);
    OWN.contains(&id) || is_of_model || has::<MachineArgs>(id) || has::<LlavaArgs>(id)
}

/// `true` for options that a request may set.
fn is_setting(id: &str) -> bool {
    let is_content = has::<ContentArgs>(id) && !has::<LlavaArgs>(id);
    // Every frame would be many results.
    let is_read = has::<ReadArgs>(id) && id != "frames";
    let is_repaint = has::<RepaintArgs>(id) || has::<MaskArgs>(id);
    is_content || is_read || has::<SizeArgs>(id) || is_repaint
}

fn has<A: Args>(id: &str) -> bool {
    ids(A::augment_args(Command::new("group"))).iter().any(|own| own == id)
}

fn ids(command: Command) -> Vec<String> {
    command.get_arguments().map(|option| option.get_id().to_string()).collect()
}

fn typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<RequestArgs, String> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        RequestArgs::parse(&words, "pipe")
    }

    #[test]
    fn a_request_takes_settings_of_its_picture_and_refuses_others_by_name() {
        assert!(parse("--scale=2 --prompt=dusk --rap=0 --timesteps=800 --timesteps=400").is_ok());
        assert!(parse("--page=2").is_ok());
        assert!(parse("--first=lanczos").is_ok());
        assert!(parse("--captioner=none").unwrap().names_captioner);
        assert!(!parse("").unwrap().names_captioner);
        for (words, said) in [
            ("--promt=dusk", "did you mean --prompt?"),
            ("--model=x", "`model` is chosen when `pipe` starts"),
            ("--first=x.safetensors", "`first` is chosen when `pipe` starts"),
            ("--threads=2", "`threads` is chosen when `pipe` starts"),
            ("--caption-model=x --captioner=llava", "`caption-model` is chosen when"),
            ("--resume", "`resume` is no setting"),
            ("--frames", "`frames` is no setting"),
            ("--page=all", "`page` is one number"),
            ("--input=x", "`input-option` is no setting"),
            ("--format=png", "`format` stands in `output`"),
            ("--scale=0", "not above 0"),
            ("--scale", "--scale"),
            ("--help", "--help"),
        ] {
            let reason = parse(words).unwrap_err();
            assert!(reason.contains(said), "{words}: {reason}");
            assert_eq!(reason.lines().count(), 1);
        }
    }

    #[test]
    fn every_option_of_a_job_is_of_one_kind() {
        for id in ids(Words::command()) {
            assert!(!(is_own(&id) && is_setting(&id)) || id == "captioner", "{id}");
        }
        let names = setting_names();
        assert!(names.iter().any(|name| name == "denoise-steps"), "{names:?}");
        assert!(!names.iter().any(|name| name == "model"), "{names:?}");
    }
}
