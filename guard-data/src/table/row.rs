//! One row of a file: fields by name, and what each must be.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::ElementError;
use crate::row::{RowFault, type_name};

/// A row of a [`TableFile`](super::TableFile). Reading a field names it in the error, and never
/// quotes its text.
#[derive(Clone, Default, PartialEq)]
pub struct TableRow {
    fields: Map<String, Value>,
}

/// Shows which fields there are, and none of their texts.
impl fmt::Debug for TableRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.fields.keys()).finish()
    }
}

impl TableRow {
    pub(super) fn new(fields: Map<String, Value>) -> Self {
        Self { fields }
    }

    pub(super) fn from_texts(
        header: &[String],
        record: &csv::StringRecord,
    ) -> Result<Self, ElementError> {
        let values = record.iter().map(|text| Value::String(text.to_owned()));
        Ok(Self::new(header.iter().cloned().zip(values).collect()))
    }

    /// All fields by name.
    #[must_use]
    pub fn into_fields(self) -> Map<String, Value> {
        self.fields
    }

    /// The value of a field; `None` when it is not there or null.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The text of a field.
    ///
    /// # Errors
    ///
    /// [`RowFault`] when it is not there or no text.
    pub fn string(&self, field: &'static str) -> Result<String, RowFault> {
        self.optional_string(field)?.ok_or(RowFault::Missing { field })
    }

    /// The text of a field that may be missing or null.
    ///
    /// # Errors
    ///
    /// [`RowFault`] when it is no text.
    pub fn optional_string(&self, field: &'static str) -> Result<Option<String>, RowFault> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(wrong(field, "a string", other)),
        }
    }

    /// Takes the text of a field out of the row, without a copy of it.
    pub(crate) fn take_string(&mut self, field: &'static str) -> Result<String, RowFault> {
        self.take_optional_string(field)?.ok_or(RowFault::Missing { field })
    }

    /// The same of a field that may be missing or null.
    pub(crate) fn take_optional_string(
        &mut self,
        field: &'static str,
    ) -> Result<Option<String>, RowFault> {
        match self.fields.get_mut(field).map(Value::take) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(field, "a string", &other)),
        }
    }

    /// Takes a name, also one that is written as a number.
    pub(crate) fn take_id(&mut self, field: &'static str) -> Result<Option<String>, RowFault> {
        match self.fields.get(field) {
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            _ => self.take_optional_string(field),
        }
    }

    /// A whole number, also where the file writes it as text or as a float without a fraction.
    ///
    /// # Errors
    ///
    /// [`RowFault`] when it is not there or no whole number.
    pub fn integer(&self, field: &'static str) -> Result<i64, RowFault> {
        self.optional_integer(field)?.ok_or(RowFault::Missing { field })
    }

    /// The same of a field that may be missing, null or empty.
    ///
    /// # Errors
    ///
    /// [`RowFault`] when it is no whole number.
    pub fn optional_integer(&self, field: &'static str) -> Result<Option<i64>, RowFault> {
        const EXPECTED: &str = "a whole number";
        let whole =
            |number: f64| (number.fract() == 0.0 && number.abs() < 2e15).then_some(number as i64);
        let found = match self.get(field) {
            None => return Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(Value::String(text)) => {
                let text = text.trim();
                text.parse().ok().or_else(|| whole(text.parse().ok()?))
            }
            Some(Value::Number(number)) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            Some(_) => None,
        };
        found.map(Some).ok_or_else(|| wrong(field, EXPECTED, &self.fields[field]))
    }

    /// A truth value, also where the file writes it as `True`, `false`, 0 or 1.
    ///
    /// # Errors
    ///
    /// [`RowFault`] when it is not there or none of these.
    pub fn boolean(&self, field: &'static str) -> Result<bool, RowFault> {
        let value = self.get(field).ok_or(RowFault::Missing { field })?;
        let found = match value {
            Value::Bool(value) => Some(*value),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        found.ok_or_else(|| wrong(field, "a boolean", value))
    }
}

/// A JSON object whose fields have different names: of two with one name, one would be lost.
impl<'de> Deserialize<'de> for TableRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = TableRow;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TableRow, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("repeated field"));
                    }
                }
                Ok(TableRow::new(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Any JSON object is a row.
impl TryFrom<Value> for TableRow {
    type Error = RowFault;

    fn try_from(value: Value) -> Result<Self, RowFault> {
        match value {
            Value::Object(fields) => Ok(Self::new(fields)),
            _ => Err(RowFault::NotAnObject),
        }
    }
}

fn wrong(field: &'static str, expected: &'static str, found: &Value) -> RowFault {
    RowFault::WrongType { field, expected, found: type_name(found) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> TableRow {
        match value {
            Value::Object(fields) => TableRow::new(fields),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn values_are_read_as_the_formats_write_them() {
        let row = row(
            json!({"t": "True", "n": 1, "f": 2.0, "s": "3", "z": "", "null": null, "b": false}),
        );
        assert_eq!(
            (row.boolean("t"), row.boolean("n"), row.boolean("b")),
            (Ok(true), Ok(true), Ok(false))
        );
        assert_eq!((row.integer("n"), row.integer("f"), row.integer("s")), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((row.optional_integer("z"), row.optional_integer("null")), (Ok(None), Ok(None)));
        assert_eq!(row.optional_string("null"), Ok(None));
        assert_eq!(row.string("none"), Err(RowFault::Missing { field: "none" }));
    }

    #[test]
    fn a_value_of_another_type_is_named_and_not_quoted() {
        let row = row(json!({"x": "SECRET", "y": [1], "h": 0.5, "big": 1e300}));
        let text = |error: RowFault| error.to_string();
        assert_eq!(
            text(row.string("y").unwrap_err()),
            "field `y` must be a string, found an array"
        );
        for error in [
            text(row.boolean("x").unwrap_err()),
            text(row.integer("x").unwrap_err()),
            text(row.integer("h").unwrap_err()),
            text(row.integer("big").unwrap_err()),
        ] {
            assert!(error.contains("must be") && !error.contains("SECRET"), "{error}");
        }
    }
}
