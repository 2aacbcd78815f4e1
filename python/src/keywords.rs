//! Keywords of a call: taken by name, each with a type and a range. A name that nothing has is refused with the nearest one
//! that there is; the ranges are those of the program's options.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, str::FromStr};

use pyo3::{
    prelude::*,
    types::{PyBool, PyDict, PyString},
};

use crate::{
    errors::{Class, Failure},
    values,
};

/// How like two names must be for one to be meant by the other.
const LIKENESS: f64 = 0.75;

/// What is wrong with a value.
#[derive(Debug)]
pub enum Fault {
    /// Another type is wanted: which.
    Type(&'static str),
    /// It is out of its range, or names nothing.
    Value(String),
}

impl Fault {
    /// The error of the keyword that has this value.
    pub fn of(self, name: &str, value: &Bound<'_, PyAny>) -> Failure {
        match self {
            Self::Type(wanted) => {
                let found = value.get_type().name().map(|name| name.to_string());
                let found = found.unwrap_or_else(|_| "that".to_owned());
                Failure::new(Class::Type, format!("{name}: {wanted} is wanted, not {found}"))
            }
            Self::Value(reason) => {
                let shown = value.repr().map(|text| text.to_string()).unwrap_or_default();
                let shown: String = shown.chars().take(80).collect();
                Failure::settings(format!("{name}={shown}: {reason}"))
            }
        }
    }
}

/// Keywords of a call; a value of None is as good as none.
pub struct Keywords<'py>(Bound<'py, PyDict>);

impl<'py> Keywords<'py> {
    /// Refuses names that are not among `own`; those among `others` belong `elsewhere`.
    ///
    /// # Errors
    /// `TypeError` with the nearest name.
    pub fn new(
        given: &Bound<'py, PyDict>,
        own: &[&str],
        (others, elsewhere): (&[&str], &str),
    ) -> PyResult<Self> {
        for name in given.keys() {
            let name: String = name.extract()?;
            if own.contains(&name.as_str()) {
                continue;
            }
            let reason = if others.contains(&name.as_str()) {
                format!("`{name}` is a keyword of {elsewhere}")
            } else {
                let likeness = |known: &&&str| strsim::jaro_winkler(known, &name);
                let nearest =
                    own.iter().chain(others).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
                let nearest = nearest.filter(|nearest| likeness(nearest) > LIKENESS);
                let meant = nearest.map(|nearest| format!("; did you mean `{nearest}`?"));
                format!("there is no keyword `{name}`{}", meant.unwrap_or_default())
            };
            return Err(Failure::new(Class::Type, reason).into());
        }
        Ok(Self(given.clone()))
    }

    /// The value of a keyword, read by `read`; `None` where it is not given.
    ///
    /// # Errors
    /// A value of another type, or out of its range.
    pub fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Bound<'py, PyAny>) -> Result<T, Fault>,
    ) -> PyResult<Option<T>> {
        let value = self.0.get_item(name)?.filter(|value| !value.is_none());
        let Some(value) = value else { return Ok(None) };
        Ok(Some(read(&value).map_err(|fault| fault.of(name, &value))?))
    }

    /// `true` for a flag that is given and true.
    ///
    /// # Errors
    /// A value that is no bool.
    pub fn flag(&self, name: &str) -> PyResult<bool> {
        Ok(self.get(name, flag)?.unwrap_or(false))
    }

    /// Refuses two keywords that exclude each other.
    ///
    /// # Errors
    /// [`Class::Settings`] where both are given.
    pub fn refuse_both(&self, one: &str, other: &str) -> PyResult<()> {
        let is_given = |name: &str| -> PyResult<bool> {
            let value = self.0.get_item(name)?;
            Ok(value
                .is_some_and(|value| !value.is_none() && value.extract::<bool>().unwrap_or(true)))
        };
        if is_given(one)? && is_given(other)? {
            return Err(
                Failure::settings(format!("`{one}` and `{other}`: give one of them")).into()
            );
        }
        Ok(())
    }
}

pub fn flag(value: &Bound<'_, PyAny>) -> Result<bool, Fault> {
    value.extract().map_err(|_| Fault::Type("True or False"))
}

pub fn text(value: &Bound<'_, PyAny>) -> Result<String, Fault> {
    value.extract().map_err(|_| Fault::Type("a str"))
}

pub fn path(value: &Bound<'_, PyAny>) -> Result<PathBuf, Fault> {
    value.extract().map_err(|_| Fault::Type("a str or a path"))
}

/// A name of one of several things.
pub fn named<T: FromStr<Err: Display>>(value: &Bound<'_, PyAny>) -> Result<T, Fault> {
    text(value)?.parse().map_err(|error: T::Err| Fault::Value(error.to_string()))
}

/// A number, whose range is that of an option of the program.
pub fn number(
    value: &Bound<'_, PyAny>,
    range: fn(&str) -> Result<f64, String>,
) -> Result<f64, Fault> {
    let is_number = !value.is_instance_of::<PyBool>() && !value.is_instance_of::<PyString>();
    let number = is_number.then(|| value.extract::<f64>().ok()).flatten();
    let number = number.ok_or(Fault::Type("a number"))?;
    range(&number.to_string()).map_err(Fault::Value)
}

/// A whole number within a range.
pub fn integer(value: &Bound<'_, PyAny>, range: RangeInclusive<u64>) -> Result<u64, Fault> {
    if value.is_instance_of::<PyBool>() {
        return Err(Fault::Type("a whole number"));
    }
    let outside = || Fault::Value(format!("not from {} to {}", range.start(), range.end()));
    match value.extract::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) => Err(outside()),
        // Below 0 or beyond 64 bits.
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(value.py()) => {
            Err(outside())
        }
        Err(_) => Err(Fault::Type("a whole number")),
    }
}

/// A number of bytes: a whole number, or a text with a unit, as `8GiB`.
pub fn bytes<T>(value: &Bound<'_, PyAny>, read: fn(&str) -> Result<T, String>) -> Result<T, Fault> {
    let text = match integer(value, 0..=u64::MAX) {
        Ok(number) => number.to_string(),
        Err(fault @ Fault::Value(_)) => return Err(fault),
        Err(Fault::Type(_)) => {
            text(value).map_err(|_| Fault::Type("a number of bytes, or a str as \"8GiB\","))?
        }
    };
    read(&text).map_err(Fault::Value)
}

/// A width and a height: a pair of whole numbers, or a text, as `3840x2160`.
pub fn size(value: &Bound<'_, PyAny>) -> Result<(u32, u32), Fault> {
    if let Ok(text) = value.extract::<String>() {
        return values::size(&text).map_err(Fault::Value);
    }
    let wanted = || Fault::Type("a pair (width, height)");
    let (width, height): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
        value.extract().map_err(|_| wanted())?;
    let side = |side: &Bound<'_, PyAny>| Ok(integer(side, 1..=u32::MAX.into())? as u32);
    Ok((side(&width)?, side(&height)?))
}

/// The items of a list; one item alone is taken for a list of it.
pub fn each<'py, T>(
    value: &Bound<'py, PyAny>,
    read: fn(&Bound<'py, PyAny>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    if path(value).is_ok() {
        return Ok(vec![read(value)?]);
    }
    let items = value.try_iter().map_err(|_| Fault::Type("a list"))?;
    items.map(|item| read(&item.map_err(|_| Fault::Type("a list"))?)).collect()
}
