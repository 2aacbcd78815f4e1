//! Bodies of A1111's requests: JSON whose fields come as clients send them, a number as a text from a text field, a flag as
//! 0 or 1, `null` for what is left alone.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use tokio_stream::StreamExt as _;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, Type, schema::ObjectBuilder, schema::SchemaType},
};

use super::{
    super::{
        api::{Pace, too_slow},
        linger::linger,
    },
    Door,
    error::A1111Error,
};

/// Bytes in a unit of room.
const UNIT: u64 = 1 << 20;

/// Room for bodies: those with pictures take several times their size while they are read, and many at once would take all
/// memory.
#[derive(Clone, Debug)]
pub struct Rooms {
    units: Arc<Semaphore>,
    /// Units of the largest body.
    largest: u32,
}

impl Rooms {
    /// Room for `count` bodies of this size, or for more that are smaller.
    pub fn new(largest: u64, count: usize) -> Self {
        let largest = u32::try_from(largest.div_ceil(UNIT)).unwrap_or(u32::MAX >> 8).max(1);
        Self { units: Arc::new(Semaphore::new(largest as usize * count)), largest }
    }

    /// Waits for room for a body of so many bytes, or for the largest where nobody has said how many there are.
    async fn take(&self, bytes: Option<u64>) -> Option<OwnedSemaphorePermit> {
        let units = bytes.and_then(|bytes| u32::try_from(bytes.div_ceil(UNIT)).ok());
        let units = units.unwrap_or(self.largest).clamp(1, self.largest);
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}

/// The body of a request with pictures, and the room that it takes.
pub struct Large {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl FromRequest<Arc<Door>> for Large {
    type Rejection = A1111Error;

    async fn from_request(request: Request, door: &Arc<Door>) -> Result<Self, A1111Error> {
        check_kind(&request)?;
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse().ok());
        let most = door.jobs.limits.body;
        if length.is_some_and(|length| length > most) {
            linger(request.into_body()).await;
            return Err(door.jobs.limits.body_too_large().into());
        }
        let room = door.rooms.take(length).await;
        let mut pace = Pace::new();
        let mut bytes = Vec::with_capacity(length.unwrap_or_default() as usize);
        let mut stream = request.into_body().into_data_stream();
        while let Some(piece) =
            timeout_at(pace.deadline(), stream.next()).await.map_err(|_| too_slow())?
        {
            let piece = piece.map_err(|_| A1111Error::malformed("the body ended early"))?;
            if (bytes.len() + piece.len()) as u64 > most {
                return Err(door.jobs.limits.body_too_large().into());
            }
            pace.receive(piece.len());
            bytes.extend_from_slice(&piece);
        }
        Ok(Self { bytes, _room: room })
    }
}

impl Large {
    /// The JSON object. To be read where it may take a moment.
    ///
    /// # Errors
    /// A body that is none.
    pub fn object(self) -> Result<Map<String, Value>, A1111Error> {
        object(&self.bytes)
    }
}

/// The JSON object of a request without pictures.
pub struct Small(pub Map<String, Value>);

/// Bytes of such a request at most.
const SMALL: usize = 1 << 20;

impl<S: Send + Sync> FromRequest<S> for Small {
    type Rejection = A1111Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, A1111Error> {
        check_kind(&request)?;
        let bytes = to_bytes(request.into_body(), SMALL).await.map_err(|error| {
            A1111Error::too_large(format!("the body is not read: {error}; it may have 1 MiB"))
        })?;
        object(&bytes).map(Self)
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, A1111Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(A1111Error::malformed("the body is no JSON object")),
        Err(error) => Err(A1111Error::malformed(format!("the body is no JSON: {error}"))),
    }
}

fn check_kind(request: &Request) -> Result<(), A1111Error> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    // Any other kind could come from a page of another site without a question asked.
    match kind.is_some_and(is_json) {
        true => Ok(()),
        false => Err(A1111Error::unsupported(
            "the body is not marked as JSON: send it with Content-Type: application/json",
        )),
    }
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

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

    #[test]
    fn only_json_is_taken_for_json() {
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/x+json"] {
            assert!(is_json(kind), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "json", ""] {
            assert!(!is_json(kind), "{kind}");
        }
    }
}
