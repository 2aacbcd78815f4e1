//! Help: `-h` is one screen, what most people need, and `--help` is everything, by headings.

use clap::Command;

use super::{
    raw::NOT_OF_RAW,
    verbs::{NOT_OF_CAPTION, NOT_OF_EDIT, NOT_OF_GENERATE, hide},
};

/// Examples that the short help opens with.
const FIRST_EXAMPLES: &str = "\
Examples:
  cupscale-fast photo.jpg                          write photo_4x.jpg
  cupscale-fast photo.jpg -o big.png --long-edge 8000 --prompt \"an old harbour at dusk\"
  cupscale-fast -i shots -o big --skip-existing    every picture below the folder
  cupscale-fast plan photo.jpg                     what would run, and how long it would take";

/// Examples that the long help opens with.
const EXAMPLES: &str = "\
Examples:
  cupscale-fast photo.jpg                                  write photo_4x.jpg
  cupscale-fast photo.jpg -o big.png --long-edge 8000 --prompt \"an old harbour at dusk\"
  cupscale-fast -i in.png -o out.tif --scale 2
  cat in.png | cupscale-fast -i - -o - --format png > out.png
  cupscale-fast *.png                                      several pictures
  cupscale-fast -i shots -o big --skip-existing            every picture below the folder
  cupscale-fast caption photo.jpg > captions.json          edit it, then:
  cupscale-fast photo.jpg --captions captions.json
  cupscale-fast edit photo.jpg --backup                    in place; the original is photo.jpg~
  cupscale-fast info photo_4x.jpg                          the settings that made a picture; then:
  cupscale-fast other.jpg --reuse photo_4x.jpg
  cupscale-fast shots -o big --shard 3/50                  a share of them; `status big` sums all up
  cupscale-fast plan photo.jpg --long-edge 8000            what would run, without running it
  cupscale-fast generate \"a red fox\" -o fox.png --size 4096x4096 --model sdxl-base
  ffmpeg … -f rawvideo -pix_fmt rgb24 - | cupscale-fast raw 640x360 --pix rgb24 -s 2 | ffmpeg …
  cupscale-fast models list                                which models there are
  cupscale-fast doctor                                     devices, and whether they compute right
";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 an input failed, 2 wrong usage, 3 everything was skipped, 130 interrupted.";

/// The inputs have no line of their own in the short help.
const USAGE: &str = "cupscale-fast [OPTIONS] INPUT...   or   cupscale-fast VERB ...";

const MORE: &str = "--help shows all options; VERB --help those of a verb.";

/// Options of a job in the short help, each in one line: name, value, text.
const BRIEF: [(&str, &str, &str); 15] = [
    ("words", "PROMPT", "Content of the picture, in words"),
    ("frame", "SIZE", "Width and height of the frames that come: WxH, in pixels"),
    ("pix", "PIXELS", "Format of the pixels: rgb24, rgba, rgb48le or rgbaf32le"),
    ("output", "OUTPUT", "File or folder; `-` is standard output [default: INPUT_4x]"),
    ("keep_base", "FILE", "Write the base picture, before it is enlarged, to this file as well"),
    ("format", "FORMAT", "Format of the output [default: by its name, else the input's]"),
    ("scale", "FACTOR", "Enlarge by this factor"),
    ("size", "WxH", "Enlarge to exactly this size, in pixels"),
    ("prompt", "TEXT", "Content of the whole picture"),
    ("strength", "0-1", "How much is repainted [default: the model's, or 0.45]"),
    ("seed", "N", "Another seed gives another picture"),
    ("model", "NAME|PATH", "Name, folder or file of the model [default: embedded]"),
    ("device", "DEVICE", "Device to compute on, as cuda:0"),
    ("preview", "FILE", "Rewrite a small picture of the output after every step"),
    ("json", "", "Print JSON, for programs"),
];

/// The whole help of the program.
pub fn whole(command: Command) -> Command {
    command.before_help(EXAMPLES).after_help(EXIT_CODES)
}

/// The short help of the program, whose verbs in `jobs` take its options.
pub fn short(command: Command, jobs: &[&str]) -> Command {
    let command = brief(command).override_usage(USAGE);
    let command = command.before_help(FIRST_EXAMPLES).after_help(MORE);
    jobs.iter().fold(command, |command, job| command.mut_subcommand(job, brief))
}

/// The command with no more than the brief options in its help, all under one heading.
fn brief(command: Command) -> Command {
    command.mut_args(|option| {
        let brief = BRIEF.iter().find(|(id, ..)| option.get_id() == id);
        let option = option.help_heading(None::<&str>);
        match brief {
            Some((_, value, text)) if option.get_action().takes_values() => {
                option.help(*text).value_name(*value).hide_possible_values(true)
            }
            Some((.., text)) => option.help(*text),
            None => option.hide(true),
        }
    })
}

/// The command, whose verbs say of the options that they share with enlarging what is theirs, and hide the others.
pub fn of_verbs(command: Command) -> Command {
    command
        .mut_subcommand("plan", |plan| {
            let help = "Picture to plan for; `-` reads standard input";
            inputs(plan, "cupscale-fast plan [OPTIONS] INPUT", help)
        })
        .mut_subcommand("caption", |caption| {
            let help = "Picture to describe; `-` reads standard input";
            let caption = inputs(caption, "cupscale-fast caption [OPTIONS] INPUT", help);
            let output = "Where to write the JSON [default: standard output]";
            hide(caption, NOT_OF_CAPTION).mut_arg("output", |option| option.help(output))
        })
        .mut_subcommand("edit", |edit| {
            let help = "Picture files to enlarge, each in its place";
            hide(inputs(edit, "cupscale-fast edit [OPTIONS] INPUT...", help), NOT_OF_EDIT)
        })
        .mut_subcommand("raw", |raw| {
            let input = "Where the frames come from [default: standard input]";
            let output = "Where the frames go [default: standard output]";
            hide(raw, NOT_OF_RAW)
                .mut_arg("input_option", |option| option.help(input).hide(false))
                .mut_arg("output", |option| option.help(output))
        })
        .mut_subcommand("generate", |generate| {
            let texts = [
                ("output", "File of the picture; `-` writes standard output"),
                ("format", "Format of the picture [default: by its name, else PNG]"),
                (
                    "bit_depth",
                    "Bits of the picture's samples; 32 are floats, which TIFF and OpenEXR hold [default: 8]",
                ),
                ("prompt", "The same as PROMPT"),
                (
                    "model",
                    "A text-to-image model that `models list` shows, a folder in diffusers layout, a .safetensors or .gguf file; \
                     needed, because the embedded model makes no picture from words",
                ),
            ];
            texts.into_iter().fold(hide(generate, NOT_OF_GENERATE), |generate, (id, text)| {
                generate.mut_arg(id, |option| option.help(text))
            })
        })
}

/// A verb whose inputs stand in its short help, too.
fn inputs(verb: Command, usage: &'static str, help: &'static str) -> Command {
    verb.override_usage(usage).mut_arg("inputs", |option| option.help(help).hide(false))
}
