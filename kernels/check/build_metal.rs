//! Translates the Metal kernels to C++ for the shim: attributes become a table of where parameters come from,
//! arrays of a threadgroup become places in its memory. `shim/metal` does the rest.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The file that the program compiles in front of every other one.
const COMMON: &str = "common.metal";

/// Kernels for tests of the shim.
const PROBES: &str = "probes.metal";

/// Translates every kernel file of the folder, and the probes, into one C++ file each in `out`; returns their paths.
///
/// # Errors
/// What is not written as these kernels are written, or those of the files.
pub fn translate(kernels: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let common = fs::read_to_string(kernels.join(COMMON))?;
    let mut files: Vec<PathBuf> =
        fs::read_dir(kernels)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "metal") && !path.ends_with(COMMON));
    files.sort();
    files.push(PROBES.into());
    println!("cargo:rerun-if-changed={PROBES}");
    let mut translated = Vec::new();
    for path in files {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let target = out.join(format!("metal_{stem}.cpp"));
        let source = Source { common: &common, own: &fs::read_to_string(&path)?, stem: &stem };
        let text = source.translated().map_err(|error| format!("{}: {error}", path.display()))?;
        fs::write(&target, text)?;
        translated.push(target);
    }
    Ok(translated)
}

struct Source<'a> {
    common: &'a str,
    own: &'a str,
    stem: &'a str,
}

/// A kernel's function: its name, and where each of its parameters comes from.
struct Function {
    name: String,
    sources: Vec<String>,
}

/// A kernel as the host asks for it: an instance of a function.
struct Instance {
    host_name: String,
    function: String,
}

impl Source<'_> {
    fn translated(&self) -> Result<String> {
        let Self { common, own, stem } = self;
        let (own, instances) = without_instances(&without_comments(own))?;
        let mut kernels = String::new();
        let mut explicit = String::new();
        for Function { name, sources } in functions(&own)? {
            let of_function = |instance: &&Instance| {
                instance.function.split('<').next().is_some_and(|base| base == name)
            };
            let mut count = 0;
            for Instance { host_name, function } in instances.iter().filter(of_function) {
                // The instance's name stands for it, so that a macro takes it as one argument.
                kernels += &format!(
                    "static constexpr auto& instance_{host_name} = {function};\n\
                     METAL_KERNEL({host_name}, instance_{host_name}, {})\n",
                    sources.join(", ")
                );
                explicit += &format!("template decltype({function}) {function};\n");
                count += 1;
            }
            if count == 0 {
                kernels += &format!("METAL_KERNEL({name}, {name}, {})\n", sources.join(", "));
            }
        }
        let body = |text: &str| -> Result<String> { Ok(without_attributes(&with_arrays(text)?)) };
        Ok(format!(
            "#include \"shim/metal/metal.h\"\n\
             namespace metal_{stem} {{\n\
             #line 1 \"{COMMON}\"\n{}\n\
             #line 1 \"{stem}.metal\"\n{}\n\
             #ifdef METAL_CHECK\n{explicit}#else\nusing namespace shim;\n{kernels}#endif\n}}\n",
            body(&without_comments(common))?,
            body(&own)?,
        ))
    }
}

/// The text with blanks in place of comments and of lines that include a header.
fn without_comments(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        if !line.starts_with("#include") {
            lines += line.split("//").next().unwrap_or_default();
        }
        lines.push('\n');
    }
    lines
}

/// Takes out `template [[host_name("NAME")]] [[kernel]] decltype(F<…>) F<…>;`.
fn without_instances(text: &str) -> Result<(String, Vec<Instance>)> {
    const HEAD: &str = "template [[host_name(\"";
    let mut kept = String::new();
    let mut instances = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(HEAD) {
            let parts = rest.strip_suffix(';').and_then(|rest| {
                let (host_name, rest) = rest.split_once("\")]] [[kernel]] decltype(")?;
                Some((host_name, rest.split_once(") ")?))
            });
            let Some((host_name, (first, second))) = parts else {
                return Err(format!("an instance in another form: {line}").into());
            };
            if first != second {
                return Err(format!("{host_name}: {first} is not {second}").into());
            }
            instances
                .push(Instance { host_name: host_name.to_owned(), function: first.to_owned() });
        } else {
            kept += line;
        }
        kept.push('\n');
    }
    Ok((kept, instances))
}

/// The kernels, `[[kernel]] void NAME(…)`.
fn functions(text: &str) -> Result<Vec<Function>> {
    const HEAD: &str = "[[kernel]] void ";
    text.split(HEAD)
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once('(').ok_or("a kernel without parameters")?;
            let parameters =
                &rest[..closing(rest).ok_or("a kernel without an end of its parameters")?];
            let sources = parts(parameters)
                .iter()
                .map(|parameter| {
                    let attribute =
                        (parameter.split_once("[[")).and_then(|(_, rest)| rest.split_once("]]"));
                    let (attribute, _) =
                        attribute.ok_or_else(|| format!("{name}: no attribute: {parameter}"))?;
                    let index =
                        attribute.strip_prefix("buffer(").and_then(|rest| rest.strip_suffix(')'));
                    Ok(index.unwrap_or(attribute).to_owned())
                })
                .collect::<Result<_>>()?;
            Ok(Function { name: name.to_owned(), sources })
        })
        .collect()
}

/// Position of the parenthesis that closes one that is open before the text.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        (open == 0).then_some(at)
    })
}

/// The text between commas that are in no brackets.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        match c {
            '(' | '<' | '[' => depth += 1,
            ')' | '>' | ']' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

/// `threadgroup T name[count];`, on a line of its own, as the shim's arrays.
fn with_arrays(text: &str) -> Result<String> {
    let mut lines = String::new();
    for line in text.lines() {
        let declaration =
            (line.trim().strip_prefix("threadgroup ")).and_then(|rest| rest.strip_suffix("];"));
        match declaration {
            Some(declaration) if !declaration.contains('=') => {
                let array = (declaration.split_once('['))
                    .and_then(|(head, count)| Some((head.rsplit_once(' ')?, count)));
                let ((element, name), count) =
                    array.ok_or_else(|| format!("an array in another form: {line}"))?;
                lines += &format!("METAL_ARRAY({name}, ({count}), {element});");
            }
            _ => lines += line,
        }
        lines.push('\n');
    }
    Ok(lines)
}

/// The text without `[[…]]`.
fn without_attributes(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once("[[") {
        kept += before;
        rest = after.split_once("]]").map_or("", |(_, after)| after);
    }
    kept + rest
}
