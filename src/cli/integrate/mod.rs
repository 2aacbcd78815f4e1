//! `integrate`: puts this program behind editors, file managers and other tools. Their plug-ins and scripts are part of
//! the program; this writes them where the other program looks for the user's own, and removes them again.

pub mod error;
mod file;
mod place;
mod quote;
pub mod table;

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use error::IntegrateError;
use file::State;
use table::{INTEGRATIONS, Integration, Template};

use super::{args::IntegrateArgs, error::CliError, print::print};

/// A file in its place.
struct Placed {
    root: PathBuf,
    path: PathBuf,
    template: &'static Template,
    text: String,
    state: State,
}

pub fn run(args: &IntegrateArgs) -> Result<(), CliError> {
    let program = env::current_exe().map_err(IntegrateError::Lost)?;
    let integration = INTEGRATIONS.iter().find(|each| args.name.as_deref() == Some(each.name));
    let Some(integration) = integration else {
        return print(&list(&program)?);
    };
    if !integration.roots.iter().any(|root| root.system == place::System::OWN) {
        return Err(IntegrateError::System { name: integration.name }.into());
    }
    match args.remove {
        true => remove(integration, &program, args),
        false => install(integration, &program, args),
    }
}

/// The integration's files below these folders, and what is there.
fn placed(
    integration: &'static Integration,
    roots: &[PathBuf],
    program: &Path,
) -> Result<Vec<Placed>, IntegrateError> {
    let all = roots.iter().flat_map(|root| integration.files.iter().map(move |file| (root, file)));
    all.map(|(root, template)| {
        let path = root.join(template.path);
        let text = file::text(integration, template, root, program)?;
        let state = file::state(&path, &text)?;
        Ok(Placed { root: root.clone(), path, template, text, state })
    })
    .collect()
}

fn install(
    integration: &'static Integration,
    program: &Path,
    args: &IntegrateArgs,
) -> Result<(), CliError> {
    let files = placed(integration, &place::to_write(integration.roots), program)?;
    // All or nothing: what stands in the way is told before anything is written.
    for file in &files {
        match (file.state, file.template.to_add) {
            (State::Foreign, None) => return Err(IntegrateError::Foreign(file.path.clone()).into()),
            (State::Changed, _) if !args.force => {
                let path = file.path.clone();
                return Err(IntegrateError::Changed { path, remove: false }.into());
            }
            _ => {}
        }
    }
    let mut told = String::new();
    let mut to_add = String::new();
    for Placed { path, template, text, state, .. } in &files {
        let (done, would) = match (state, template.to_add) {
            (State::Foreign, Some(line)) => {
                let _ =
                    writeln!(to_add, "{} is yours and stays; add to it:\n  {line}", path.display());
                continue;
            }
            (State::Same, _) => ("is there", "is there"),
            (State::Absent, _) => ("wrote", "would write"),
            _ => ("renewed", "would renew"),
        };
        if !args.dry_run && *state != State::Same {
            file::write(path, text, template.is_executable)?;
        }
        let word = if args.dry_run { would } else { done };
        let _ = writeln!(told, "{word}: {}", path.display());
    }
    print(&format!("{told}{to_add}{}; then: {}\n", integration.adds, integration.then))
}

fn remove(
    integration: &'static Integration,
    program: &Path,
    args: &IntegrateArgs,
) -> Result<(), CliError> {
    let files = placed(integration, &place::to_search(integration.roots), program)?;
    let (mut told, mut kept) = (String::new(), None);
    for Placed { root, path, state, .. } in files {
        match state {
            State::Absent | State::Foreign => continue,
            State::Changed if !args.force => {
                let _ = writeln!(told, "kept, it was changed: {}", path.display());
                kept = Some(path);
                continue;
            }
            _ => {}
        }
        if !args.dry_run {
            file::remove(&path, &root)?;
        }
        let word = if args.dry_run { "would remove" } else { "removed" };
        let _ = writeln!(told, "{word}: {}", path.display());
    }
    if told.is_empty() {
        told = format!("{}: nothing to remove\n", integration.name);
    }
    print(&told)?;
    match kept {
        Some(path) => Err(IntegrateError::Changed { path, remove: true }.into()),
        None => Ok(()),
    }
}

/// The integrations for this system, a line each, and whether they are installed.
fn list(program: &Path) -> Result<String, IntegrateError> {
    let mut text = String::new();
    for integration in INTEGRATIONS {
        let roots = place::to_search(integration.roots);
        if roots.is_empty() {
            continue;
        }
        let files = placed(integration, &roots, program)?;
        let own: Vec<_> = files
            .iter()
            .map(|file| file.state)
            .filter(|state| !matches!(state, State::Absent | State::Foreign))
            .collect();
        let state = match own.as_slice() {
            [] => "",
            states if states.contains(&State::Changed) => "changed",
            states if states.contains(&State::Other) => "to renew",
            _ => "installed",
        };
        let line = format!("{:<12} {state:<10} {}", integration.name, integration.adds);
        let _ = writeln!(text, "{line}");
    }
    Ok(text)
}
