//! JSON in which no object has two members of one name.
//!
//! Parsers disagree on which of two members counts, so a signed document with two of a name could mean one thing
//! here and another to the app (RFC 7515, section 4 and RFC 7519, section 4 let a verifier refuse it).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not such a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// It is not one JSON object (RFC 8259).
    #[error("is not a JSON object")]
    NotObject,
    /// Two members of one object have one name.
    #[error("has two members of one name in an object, which the sender must not write")]
    Repeated,
}

/// Reads `text` as one JSON object without repeated members, at any depth.
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, StrictJsonError> {
    match serde_json::from_slice::<Unique>(text) {
        Ok(Unique(Value::Object(members))) => Ok(members),
        // Every value is welcome to the visitor, so the only refusal of its own is a repeated name.
        Err(error) if error.is_data() => Err(StrictJsonError::Repeated),
        Ok(_) | Err(_) => Err(StrictJsonError::NotObject),
    }
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, Unique>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("repeated member"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_what_is_refused() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        let not_object = Some(StrictJsonError::NotObject);
        let repeated = Some(StrictJsonError::Repeated);
        for (name, text, expected) in [
            ("empty object", "{}", None),
            ("all kinds", r#"{"a":[1,-1,1.5,"x",null,true,{"a":{}}]}"#, None),
            ("one name in two objects", r#"{"a":{"b":1},"c":{"b":1}}"#, None),
            ("a name twice", r#"{"a":1,"a":1}"#, repeated),
            ("a name twice, once escaped", r#"{"a":1,"\u0061":1}"#, repeated),
            ("a name twice, inside", r#"{"x":[{"a":1,"a":2}]}"#, repeated),
            ("an array", "[]", not_object),
            ("a text", "\"a\"", not_object),
            ("nothing", "", not_object),
            ("something after", "{} {}", not_object),
            ("a byte order mark", "\u{feff}{}", not_object),
            ("half a surrogate", r#"{"a":"\ud800"}"#, not_object),
            ("too deep", deep.as_str(), not_object),
            ("a number too large", r#"{"a":1e999}"#, not_object),
        ] {
            assert_eq!(object(text.as_bytes()).err(), expected, "{name}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}").err(), not_object, "not UTF-8");
        let read = object(br#"{"a":[1,-1,1.5,"x",null,true]}"#).unwrap();
        assert_eq!(
            Value::Object(read).to_string(),
            r#"{"a":[1,-1,1.5,"x",null,true]}"#
        );
    }
}
