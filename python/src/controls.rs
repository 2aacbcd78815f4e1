//! ControlNets of an engine: which, how strong, in which steps, and what they see.

use std::{
    ffi::{OsStr, OsString},
    sync::Arc,
};

use cupscale::{
    model::denoiser::ControlKind,
    pipeline::{ControlUse, OwnControlPicture},
};
use pyo3::prelude::*;

use crate::{
    keywords::{Fault, Keywords, each, number, path, text},
    picture::Picture,
    values::{self, ControlArg},
};

/// The ControlNets, each named once, and their uses.
#[derive(Debug, Default)]
pub struct Controls {
    models: Vec<OsString>,
    uses: Vec<ControlUse>,
}

/// A use as it is given.
struct Given {
    arg: ControlArg,
    kind: ControlKind,
    picture: Option<OwnControlPicture>,
}

impl Controls {
    /// Reads the keyword.
    ///
    /// # Errors
    /// A value of another type, or out of its range.
    pub fn read(keywords: &Keywords<'_>) -> PyResult<Self> {
        let mut controls = Self::default();
        for Given { arg, kind, picture } in
            keywords.get("controls", |value| each(value, given))?.unwrap_or_default()
        {
            // One that is named twice is loaded once.
            let known = controls.models.iter().position(|known| *known == arg.name);
            let mut of = ControlUse::of(known.unwrap_or(controls.models.len()));
            if known.is_none() {
                controls.models.push(arg.name);
            }
            (of.scale, of.start, of.end, of.kind) = (arg.scale, arg.start, arg.end, kind);
            of.picture = picture;
            controls.uses.push(of);
        }
        Ok(controls)
    }

    /// Names or paths of the ControlNets.
    pub fn models(&self) -> impl Iterator<Item = &OsStr> {
        self.models.iter().map(OsString::as_os_str)
    }

    /// Their uses in every job.
    pub fn into_uses(self) -> Vec<ControlUse> {
        self.uses
    }
}

/// A name as the option takes it (`NAME:0.6:0-0.8`), or `cupscale.Control`.
fn given(value: &Bound<'_, PyAny>) -> Result<Given, Fault> {
    if let Ok(name) = path(value) {
        let arg = values::control(name.into_os_string()).map_err(Fault::Value)?;
        return Ok(Given { arg, kind: ControlKind::Tile, picture: None });
    }
    let field =
        |name: &str| value.getattr(name).map_err(|_| Fault::Type("a name, or a cupscale.Control,"));
    let share = |name| number(&field(name)?, values::weight);
    let arg = ControlArg {
        name: path(&field("name")?)?.into_os_string(),
        // The library holds it to its range.
        scale: number(&field("scale")?, |text| {
            text.parse().map_err(|_| "not a number".to_owned())
        })?,
        start: share("start")?,
        end: share("end")?,
    };
    let name = text(&field("kind")?)?;
    let kind = ControlKind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.ok_or_else(|| Fault::Value("the kind is tile, canny or blur".to_owned()))?;
    let image = field("image")?;
    let picture = match image.is_none() {
        true => None,
        false => {
            let picture = image.cast::<Picture>().map_err(|_| Fault::Type("a picture"))?.get();
            let (name, picture) = (picture.name.clone(), Arc::clone(&picture.picture));
            Some(OwnControlPicture { name, picture })
        }
    };
    Ok(Given { arg, kind, picture })
}
