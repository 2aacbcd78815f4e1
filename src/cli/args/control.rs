//! Options for ControlNets: which, how strong, in which steps, and what they see.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, builder::TypedValueParser as _};
use cupscale::model::denoiser::ControlKind;

use crate::cli::{
    error::CliError,
    values::{self, ControlArg},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ControlKindArg {
    /// The input itself, at the output's size
    Tile,
    /// Its edges
    Canny,
    /// The input, blurred
    Blur,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "ControlNet")]
pub struct ControlArgs {
    /// ControlNet beside the model's UNet: a name, a folder or a file, with its scale and the share of the steps in which
    /// it works [default: 1, and 0-1]; may be given several times
    #[arg(long, value_name = "NAME|PATH[:SCALE[:START-END]]",
          value_parser = clap::builder::OsStringValueParser::new().try_map(values::control))]
    pub control: Vec<ControlArg>,
    /// What a ControlNet sees of the input; once for all, or once for each --control [default: tile]
    #[arg(long, value_enum, value_name = "KIND")]
    control_kind: Vec<ControlKindArg>,
    /// Picture that a ControlNet sees in place of the input, used as it is, at the output's size; once for all, or once for
    /// each --control (--control-kind then says what it shows)
    #[arg(long, value_name = "FILE")]
    control_image: Vec<PathBuf>,
}

/// One use of a ControlNet as the options have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlChoice<'a> {
    pub arg: &'a ControlArg,
    pub kind: ControlKind,
    pub image: Option<&'a Path>,
}

#[cfg(feature = "serve")]
impl ControlArgs {
    /// No ControlNet.
    pub fn none() -> Self {
        Self { control: Vec::new(), control_kind: Vec::new(), control_image: Vec::new() }
    }
}

impl ControlArgs {
    /// The uses, in their order.
    ///
    /// # Errors
    /// Kinds or pictures that are neither one for all nor one for each.
    pub fn choices(&self) -> Result<Vec<ControlChoice<'_>>, CliError> {
        let kinds = self.each("control-kind", &self.control_kind)?;
        let images = self.each("control-image", &self.control_image)?;
        let mut choices = Vec::with_capacity(self.control.len());
        for (arg, (kind, image)) in self.control.iter().zip(kinds.into_iter().zip(images)) {
            choices.push(ControlChoice {
                arg,
                kind: match kind.unwrap_or(&ControlKindArg::Tile) {
                    ControlKindArg::Tile => ControlKind::Tile,
                    ControlKindArg::Canny => ControlKind::Canny,
                    ControlKindArg::Blur => ControlKind::Blur,
                },
                image: image.map(PathBuf::as_path),
            });
        }
        Ok(choices)
    }

    /// The value of an option for each ControlNet.
    fn each<'a, T>(&self, option: &str, values: &'a [T]) -> Result<Vec<Option<&'a T>>, CliError> {
        let controls = self.control.len();
        match values {
            [] => Ok(vec![None; controls]),
            _ if controls == 0 => {
                Err(CliError::Usage(format!("--{option} is for --control, which is not given")))
            }
            [one] => Ok(vec![Some(one); controls]),
            all if all.len() == controls => Ok(all.iter().map(Some).collect()),
            all => Err(CliError::Usage(format!(
                "--{option} is given {} times for {controls} --control: once for all of them, or once for each",
                all.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use cupscale::model::denoiser::ControlKind::{Blur, Canny, Tile};

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn a_control_has_a_scale_and_a_range_if_numbers_follow_its_last_colons() {
        let arg =
            |name: &str, scale, start, end| ControlArg { name: name.into(), scale, start, end };
        for (text, expected) in [
            ("tile", arg("tile", 1.0, 0.0, 1.0)),
            ("tile:0.6", arg("tile", 0.6, 0.0, 1.0)),
            ("tile:0.6:0.1-0.8", arg("tile", 0.6, 0.1, 0.8)),
            ("C:\\nets\\a.safetensors", arg("C:\\nets\\a.safetensors", 1.0, 0.0, 1.0)),
            ("C:\\nets\\a.safetensors:1:0-.5", arg("C:\\nets\\a.safetensors", 1.0, 0.0, 0.5)),
            ("a-1:2", arg("a-1", 2.0, 0.0, 1.0)),
        ] {
            let args = Cli::from_command_line(["x", "in.png", "--control", text]).unwrap().job;
            assert_eq!(args.control.control, [expected], "{text}");
        }
        for (text, said) in [
            ("tile:-1", "scale"),
            ("tile:nan", "scale"),
            ("tile:11", "scale"),
            (":1", "no name"),
            ("tile:0.5-1", "behind a scale"),
            ("tile:1:0.5-0.5", "START below END"),
            ("tile:1:0-2", "START below END"),
            ("tile:1:0-x", "START below END"),
        ] {
            let words = ["x", "in.png", "--control", text];
            let error = Cli::from_command_line(words).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn kinds_and_pictures_of_controls_are_one_for_all_or_one_for_each() {
        let kinds = |line: &str| {
            let args = Cli::from_command_line(line.split(' ')).unwrap().job;
            let choices = args.control.choices().map_err(|error| error.to_string())?;
            Ok::<_, String>(
                choices.iter().map(|one| (one.kind, one.image.is_some())).collect::<Vec<_>>(),
            )
        };
        assert_eq!(kinds("x in.png"), Ok(vec![]));
        assert_eq!(kinds("x in.png --control a --control b"), Ok(vec![(Tile, false); 2]));
        let both = "x in.png --control a --control b --control-kind canny";
        assert_eq!(kinds(both), Ok(vec![(Canny, false); 2]));
        let each = format!("{both} --control-kind blur --control-image e.png");
        assert_eq!(kinds(&each), Ok(vec![(Canny, true), (Blur, true)]));
        let three = format!("{each} --control-kind tile");
        assert!(kinds(&three).unwrap_err().contains("3 times for 2"));
        assert!(kinds("x in.png --control-image e.png").unwrap_err().contains("for --control"));
    }
}
