//! Fields of A1111's requests as clients send them: a number as a text from a text field, a flag as 0 or 1, `null` for what is
//! left alone.

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, Type, schema::ObjectBuilder, schema::SchemaType},
};

use super::error::A1111Error;

/// The fields of a request, out of its JSON.
///
/// # Errors
/// One line that names the field.
pub fn fields<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, A1111Error> {
    // Field by field the error says nothing of where it is; with its path it does.
    T::deserialize(Value::Object(object)).map_err(|error| A1111Error::malformed(error.to_string()))
}

/// A number, if one is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Number(pub Option<f64>);

/// A whole number, if one is given. One with a fraction is cut, as sizes of an editor's selection may have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Whole(pub Option<i64>);

/// A flag, if one is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flag(pub Option<bool>);

/// A text, if one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Words(pub Option<String>);

/// Numbers beyond this are not whole in an f64.
const LARGEST: f64 = 9_007_199_254_740_992.0;

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let number = match &value {
            Value::Null => return Ok(Self(None)),
            Value::String(text) if text.trim().is_empty() => return Ok(Self(None)),
            Value::String(text) => {
                text.trim().parse().ok().filter(|number: &f64| number.is_finite())
            }
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        number.map(|number| Self(Some(number))).ok_or_else(|| wrong::<D>(&value, "a number"))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Some(number) = value.as_i64() {
            return Ok(Self(Some(number)));
        }
        if let Some(number) = value.as_str().and_then(|text| text.trim().parse().ok()) {
            return Ok(Self(Some(number)));
        }
        match Number::deserialize(value.clone()) {
            Ok(Number(None)) => Ok(Self(None)),
            Ok(Number(Some(number))) if number.abs() <= LARGEST => Ok(Self(Some(number as i64))),
            _ => Err(wrong::<D>(&value, "a whole number")),
        }
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let flag = match &value {
            Value::Null => return Ok(Self(None)),
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                "" => return Ok(Self(None)),
                _ => None,
            },
            _ => None,
        };
        flag.map(|flag| Self(Some(flag))).ok_or_else(|| wrong::<D>(&value, "true or false"))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self(None)),
            Value::String(text) => Ok(Self(Some(text))),
            value => Err(wrong::<D>(&value, "a text")),
        }
    }
}

impl Words {
    /// The text, if it is not empty.
    pub fn text(&self) -> Option<&str> {
        self.0.as_deref().map(str::trim).filter(|text| !text.is_empty())
    }
}

/// `true` for what asks for nothing: left alone, off, or empty.
pub fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn wrong<'de, D: Deserializer<'de>>(value: &Value, wanted: &str) -> D::Error {
    let shown: String = value.to_string().chars().take(60).collect();
    D::Error::custom(format!("{shown}, where {wanted} is wanted"))
}

/// The schema of a type that comes as these types of JSON, with this pattern where it is a text.
fn schema(types: impl IntoIterator<Item = Type>, pattern: Option<&str>) -> RefOr<Schema> {
    let types = types.into_iter().chain([Type::Null]);
    let object = ObjectBuilder::new().schema_type(SchemaType::from_iter(types));
    object.pattern(pattern).build().into()
}

impl PartialSchema for Number {
    fn schema() -> RefOr<Schema> {
        schema([Type::Number, Type::String], Some(r"^\s*(-?\d{1,15}(\.\d{1,15})?)?\s*$"))
    }
}

impl PartialSchema for Whole {
    fn schema() -> RefOr<Schema> {
        schema([Type::Number, Type::String], Some(r"^\s*(-?\d{1,15}(\.\d{1,15})?)?\s*$"))
    }
}

impl PartialSchema for Flag {
    fn schema() -> RefOr<Schema> {
        schema([Type::Boolean, Type::Number, Type::String], Some("^(true|false|True|False|0|1|)$"))
    }
}

impl PartialSchema for Words {
    fn schema() -> RefOr<Schema> {
        schema([Type::String], None)
    }
}

impl ToSchema for Number {}
impl ToSchema for Whole {}
impl ToSchema for Flag {}
impl ToSchema for Words {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_come_as_clients_send_them() {
        for (sent, number) in [
            (json!(7.5), Some(7.5)),
            (json!("7.5"), Some(7.5)),
            (json!(" -1 "), Some(-1.0)),
            (json!(""), None),
            (json!(null), None),
        ] {
            assert_eq!(read(sent), Ok(Number(number)));
        }
        for (sent, number) in [
            (json!(-1), Some(-1)),
            (json!("-1"), Some(-1)),
            (json!(25.0), Some(25)),
            (json!(499.5), Some(499)),
            (json!(4_294_967_295_u32), Some(4_294_967_295)),
            (json!(null), None),
        ] {
            assert_eq!(read(sent), Ok(Whole(number)));
        }
        for (sent, flag) in
            [(json!(1), Some(true)), (json!("False"), Some(false)), (json!(""), None)]
        {
            assert_eq!(read(sent), Ok(Flag(flag)));
        }
        for wrong in [json!([]), json!({}), json!("many"), json!("NaN"), json!("inf"), json!(true)]
        {
            assert!(read::<Number>(wrong.clone()).unwrap_err().contains("a number is wanted"));
            assert!(read::<Whole>(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(read::<Whole>(json!(1e300)).is_err());
        assert!(read::<Flag>(json!(2)).is_err());
        assert!(read::<Words>(json!(5)).unwrap_err().contains("a text is wanted"));
        let long = "x".repeat(1 << 20);
        assert!(read::<Number>(json!(long)).unwrap_err().len() < 200);
    }
}
