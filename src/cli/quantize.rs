//! `models quantize`: a model of any form into one GGUF file.

use std::ops::ControlFlow;

use cupscale::{
    pipeline::Error,
    units,
    weights::{ModelChoice, Summary, WeightsError},
};

use super::{
    args::QuantizeArgs,
    error::CliError,
    print::print,
    progress::{Reporter, Transfer},
};

pub fn run(args: &QuantizeArgs) -> Result<(), CliError> {
    let mut reporter = Reporter::new(&args.progress.show(false)?);
    let loras = args.lora.iter().cloned().map(Into::into).collect();
    let files = ModelChoice { loras, ..ModelChoice::of(args.input.clone()) }.open()?.files;
    files.notes().iter().for_each(|note| reporter.tell(note));
    let name = args.output.display().to_string();
    let mut has_begun = false;
    let mut progress = |done: u64, total: u64| {
        if !has_begun {
            reporter.begin_bytes(Transfer::Quantize, &name, 0, Some(total));
            has_begun = true;
        }
        reporter.advance_bytes(done.saturating_sub(reporter.bytes_done()));
        if reporter.is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let summary = files.quantize(args.quant, &args.output, &mut progress);
    reporter.clear();
    let summary = summary.map_err(|error| match error {
        WeightsError::Interrupted => Error::Interrupted(None),
        error => error.into(),
    })?;
    if let Some(first) = files.first_enlarger().map_err(Error::from)? {
        let file = first.paths().first().map_or("its file".into(), |path| path.to_string_lossy());
        reporter.tell(&format!(
            "the network that enlarges before the repaint is not in the output: name {file} with --first"
        ));
    }
    print(&table(args, &summary))
}

/// Summary of the written file, one line per weight format.
fn table(args: &QuantizeArgs, summary: &Summary) -> String {
    let mut text = format!("{}: {}\n", args.output.display(), units::bytes(summary.bytes));
    for (format, (tensors, bytes)) in &summary.formats {
        text += &format!("  {format:<5} {tensors:>5} tensors  {}\n", units::bytes(*bytes));
    }
    text
}
