//! `models quantize`: a model of any form into one GGUF file.

use std::io::IsTerminal as _;
use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use cupscale::{
    pipeline::Error,
    weights::{QuantType, Summary},
};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{
    CliError, complain, engine, print,
    values::{self, Lora},
};

#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// The model: a name, a folder in diffusers layout, a .safetensors or .gguf file
    #[arg(value_name = "NAME|PATH")]
    input: OsString,
    /// The file to write
    #[arg(short, long, value_name = "OUT.gguf")]
    output: PathBuf,
    /// Type of the dense layers; what is sensitive stays in f16 or f32
    #[arg(short, long = "type", value_name = "q8_0|q6_k|q5_k|q4_k|f16")]
    quant: QuantType,
    /// A LoRA to merge first; may be given several times
    #[arg(long, value_name = "NAME|FILE[:SCALE]",
          value_parser = OsStringValueParser::new().try_map(values::lora))]
    lora: Vec<Lora>,
}

pub fn run(args: &QuantizeArgs) -> Result<(), CliError> {
    let (files, _) = engine::files(Some(&args.input), None, None, &args.lora)?;
    files.notes().iter().for_each(|note| complain(note));
    let bar = bar();
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let summary = files.quantize(args.quant, &args.output, &mut progress);
    bar.finish_and_clear();
    print(&table(args, &summary.map_err(Error::from)?))
}

/// A bar on stderr where that is a terminal.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} ETA {eta}")
        .expect("the template is a constant that parses");
    ProgressBar::new(0).with_style(style)
}

/// What was written, a line for each format.
fn table(args: &QuantizeArgs, summary: &Summary) -> String {
    let mut text = format!("{}: {}\n", args.output.display(), HumanBytes(summary.bytes));
    for (format, (tensors, bytes)) in &summary.formats {
        text += &format!("  {format:<5} {tensors:>5} tensors  {}\n", HumanBytes(*bytes));
    }
    text
}
