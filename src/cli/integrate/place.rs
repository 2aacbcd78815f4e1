//! Where other programs look for files of the user's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;

/// System that a place belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Linux, and what else follows freedesktop's folders.
    Linux,
    Mac,
    Windows,
}

impl System {
    /// The system that this program is for.
    pub const OWN: Self = if cfg!(target_os = "macos") {
        Self::Mac
    } else if cfg!(windows) {
        Self::Windows
    } else {
        Self::Linux
    };
}

/// Folder of the user's that a place lies in.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// `$XDG_CONFIG_HOME`, else `~/.config`.
    Config,
    /// `$XDG_DATA_HOME`, else `~/.local/share`.
    Data,
    /// `~/.config`, also where that is not the system's way.
    DotConfig,
    /// What a Flatpak of this name sees as its own: `~/.var/app/NAME`.
    Flatpak(&'static str),
    /// `~/Library/Application Support`.
    Support,
    /// `~/Library/Services`.
    Services,
    /// `%APPDATA%`.
    Roaming,
    /// `%LOCALAPPDATA%`.
    Local,
}

/// A place of one program on one system.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    pub system: System,
    pub base: Base,
    /// Path below the base; `3.*` at its end stands for every folder there that begins so, and for `3.0` if there is none.
    pub path: &'static str,
}

impl Root {
    /// The base folder, if there is one on this system.
    fn base(&self) -> Option<PathBuf> {
        if self.system != System::OWN {
            return None;
        }
        let folders = etcetera::base_strategy::choose_native_strategy().ok()?;
        let home = folders.home_dir();
        Some(match self.base {
            Base::Config | Base::Roaming => folders.config_dir(),
            Base::Data => folders.data_dir(),
            Base::DotConfig => home.join(".config"),
            Base::Flatpak(name) => home.join(".var/app").join(name),
            Base::Support => home.join("Library/Application Support"),
            Base::Services => home.join("Library/Services"),
            Base::Local => folders.cache_dir(),
        })
    }

    /// The folders of this place, and whether the other program has been there.
    fn folders(&self) -> Option<(Vec<PathBuf>, bool)> {
        let base = self.base()?;
        let has_flatpak = matches!(self.base, Base::Flatpak(_)) && base.is_dir();
        let folder = base.join(self.path);
        let Some(start) = self.path.strip_suffix('*') else {
            let is_there = has_flatpak || folder.is_dir();
            return Some((vec![folder], is_there));
        };
        let found = beginning_with(&base.join(start));
        Some(match found.is_empty() {
            true => (vec![base.join(format!("{start}0"))], has_flatpak),
            false => (found, true),
        })
    }
}

/// Folders whose path begins so, in order.
fn beginning_with(start: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (start.parent(), start.file_name()) else { return Vec::new() };
    let name = name.as_encoded_bytes();
    let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(name))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Folders that files are written to: those where the other program has been; the first one if it has been nowhere.
/// Empty on a system that none of the places is for.
pub fn to_write(roots: &[Root]) -> Vec<PathBuf> {
    let places: Vec<_> = roots.iter().filter_map(Root::folders).collect();
    let mut chosen: Vec<_> = places
        .iter()
        .filter(|(_, is_there)| *is_there)
        .flat_map(|(folders, _)| folders.clone())
        .collect();
    if chosen.is_empty() {
        chosen = places.into_iter().next().map(|(folders, _)| folders).unwrap_or_default();
    }
    chosen
}

/// Folders in which files may have been written.
pub fn to_search(roots: &[Root]) -> Vec<PathBuf> {
    roots.iter().filter_map(Root::folders).flat_map(|(folders, _)| folders).collect()
}
