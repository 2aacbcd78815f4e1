//! Errors: which class of `cupscale._errors` a failure is, and what helps in terms of keywords. Code that runs without the
//! interpreter fails with a [`Failure`], which becomes an exception when it comes back.

use cupscale::{
    canvas::CanvasError,
    caption::CaptionError,
    image::ImageError,
    pipeline::Error,
    weights::{ChoiceError, WeightsError, registry::ModelError},
};
use pyo3::{exceptions::PyTypeError, prelude::*, types::PyType};

/// A class of exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Error,
    Input,
    NotFound,
    Settings,
    /// Python's own `TypeError`.
    Type,
    Model,
    Device,
    Memory,
    Output,
    Work,
    Interrupted,
}

impl Class {
    /// Its name in `cupscale._errors`; `None` for a class of Python's.
    fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Error => "Error",
            Self::Input => "InputError",
            Self::NotFound => "InputNotFoundError",
            Self::Settings => "SettingsError",
            Self::Model => "ModelError",
            Self::Device => "DeviceError",
            Self::Memory => "OutOfMemoryError",
            Self::Output => "OutputError",
            Self::Work => "WorkError",
            Self::Interrupted => "Interrupted",
            Self::Type => return None,
        })
    }
}

/// What went wrong, in one line.
#[derive(Debug)]
pub struct Failure {
    pub class: Class,
    message: String,
}

impl Failure {
    pub fn new(class: Class, message: String) -> Self {
        Self { class, message }
    }

    pub fn settings(message: String) -> Self {
        Self::new(Class::Settings, message)
    }
}

impl From<Failure> for PyErr {
    fn from(Failure { class, message }: Failure) -> Self {
        let Some(name) = class.name() else { return PyTypeError::new_err(message) };
        Python::attach(|py| {
            let class = py.import("cupscale._errors").and_then(|errors| errors.getattr(name));
            match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
                Ok(class) => Self::from_type(class, message),
                Err(error) => error,
            }
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let class = class_of(&error);
        let message = match &error {
            Error::Interrupted(Some(folder)) => format!(
                "interrupted; the same call goes on from here (what is done is in {}), fresh=True begins anew",
                folder.display()
            ),
            Error::Image(inner) => return inner_message(class, inner, &error),
            _ => format!("{error}{}", advice(&error)),
        };
        Self { class, message }
    }
}

fn inner_message(class: Class, inner: &ImageError, error: &Error) -> Failure {
    let advice = match inner {
        ImageError::MetadataTooLarge { .. } => "; a larger max_metadata lets it in",
        ImageError::Scratch { .. } => "; TMPDIR, or work_dir for files, names another place",
        _ => "",
    };
    Failure { class, message: format!("{error}{advice}") }
}

/// What helps, by keyword, where the library's message does not say it.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::Memory { captioner: true, .. } => {
            "; try caption_quantize=\"q4_k\", a smaller caption_model, or a larger max_memory"
        }
        Error::Memory { .. } => {
            "; try quantize=\"q8_0\", a smaller picture, or a larger max_memory"
        }
        Error::PictureMemory { .. } => "; try a larger max_memory",
        Error::OutOfMemory => "; close what else uses it, or try device=\"cpu\"",
        Error::OtherJob { .. } => {
            "; the earlier settings go on with it, fresh=True drops it and begins anew"
        }
        Error::DamagedWork { .. } => "; fresh=True begins anew",
        Error::NoRoom { .. } | Error::NotOwn { .. } => " with work_dir",
        _ => "",
    }
}

fn class_of(error: &Error) -> Class {
    match error {
        Error::Image(error) => class_of_image(error),
        Error::Device(_) | Error::Thread { .. } => Class::Device,
        Error::Weights(_) | Error::Model { .. } | Error::Text(_) | Error::Structure(_) => {
            Class::Model
        }
        Error::Sampler(error) if !error.is_wrong_choice() => Class::Model,
        Error::Canvas(CanvasError::File { .. } | CanvasError::Map { .. })
        | Error::Work { .. }
        | Error::Temporary(_)
        | Error::NotOwn { .. }
        | Error::NoRoom { .. }
        | Error::NoRoomForOutput { .. } => Class::Output,
        Error::Sampler(_)
        | Error::Prompt(_)
        | Error::Canvas(_)
        | Error::Control { .. }
        | Error::OutputTooLarge { .. }
        | Error::NoFirstStep { .. } => Class::Settings,
        Error::Memory { .. } | Error::PictureMemory { .. } | Error::OutOfMemory => Class::Memory,
        Error::Interrupted(_) => Class::Interrupted,
        Error::Busy { .. }
        | Error::OtherJob { .. }
        | Error::DamagedWork { .. }
        | Error::NothingToResume { .. } => Class::Work,
        _ => Class::Error,
    }
}

fn class_of_image(error: &ImageError) -> Class {
    match error {
        ImageError::NotFound { .. } => Class::NotFound,
        ImageError::FormatLimit { .. } => Class::Settings,
        ImageError::Unwritable { .. }
        | ImageError::Write { .. }
        | ImageError::Encode { .. }
        | ImageError::Scratch { .. } => Class::Output,
        _ => Class::Input,
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Error::from(error).into()
    }
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        Error::from(error).into()
    }
}

impl From<CaptionError> for Failure {
    fn from(error: CaptionError) -> Self {
        Error::from(error).into()
    }
}

impl From<ChoiceError> for Failure {
    fn from(error: ChoiceError) -> Self {
        let message = match error {
            ChoiceError::Model(error) => return error.into(),
            ChoiceError::Weights(error) => return error.into(),
            ChoiceError::NoModel => format!("{error}: name one with model="),
            ChoiceError::NoCaptioner => "captioner=\"llava\": no such model is installed: cupscale-fast models pull llava-1.5-7b, \
                 or name one with caption_model="
                .to_owned(),
            ChoiceError::Captioners(names) => {
                format!("captioner=\"llava\": choose one of {} with caption_model=", names.join(", "))
            }
            error => error.to_string(),
        };
        Self::new(Class::Model, message)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let advice = match &error {
            ModelError::NotInstalled { name, .. }
            | ModelError::Incomplete { name, own: false, .. } => {
                format!(": cupscale-fast models pull {name}")
            }
            ModelError::Unknown { close, .. } if close.is_empty() => {
                " (cupscale.models() lists all)".to_owned()
            }
            _ => String::new(),
        };
        Self::new(Class::Model, format!("{error}{advice}"))
    }
}
