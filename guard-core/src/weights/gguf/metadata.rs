//! The key and value pairs of a GGUF file.

use std::collections::BTreeMap;

use super::super::error::GgufFault;
use super::reader::Cursor;

/// A value. Numbers keep their meaning but not their width.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

/// More values than all arrays of a header have together: a vocabulary of 256,000 tokens takes
/// about a million. It bounds memory, since a value takes more of it than its byte in the file.
pub(super) const MAX_VALUES: u64 = 1 << 22;

/// How deep arrays of arrays may go; the known keys have none.
const MAX_DEPTH: usize = 2;

impl Value {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufFault> {
        let kind = cursor.u32("a type of value")?;
        Self::read_as(kind, cursor, MAX_DEPTH)
    }

    fn read_as(kind: u32, cursor: &mut Cursor<'_>, depth: usize) -> Result<Self, GgufFault> {
        const WHAT: &str = "a value";
        Ok(match kind {
            0 => Self::Unsigned(cursor.take::<1>(WHAT)?[0].into()),
            1 => Self::Signed(cursor.take::<1>(WHAT)?[0].cast_signed().into()),
            2 => Self::Unsigned(u16::from_le_bytes(cursor.take(WHAT)?).into()),
            3 => Self::Signed(i16::from_le_bytes(cursor.take(WHAT)?).into()),
            4 => Self::Unsigned(cursor.u32(WHAT)?.into()),
            5 => Self::Signed(i32::from_le_bytes(cursor.take(WHAT)?).into()),
            6 => Self::Float(f32::from_le_bytes(cursor.take(WHAT)?).into()),
            7 => Self::Bool(cursor.take::<1>(WHAT)?[0] != 0),
            8 => Self::Text(cursor.text(WHAT)?),
            9 => Self::read_array(cursor, depth)?,
            10 => Self::Unsigned(cursor.u64(WHAT)?),
            11 => Self::Signed(i64::from_le_bytes(cursor.take(WHAT)?)),
            12 => Self::Float(f64::from_le_bytes(cursor.take(WHAT)?)),
            other => {
                return Err(GgufFault::Type {
                    what: WHAT.to_owned(),
                    found: other.to_string(),
                    expected: "from 0 to 12",
                });
            }
        })
    }

    fn read_array(cursor: &mut Cursor<'_>, depth: usize) -> Result<Self, GgufFault> {
        let kind = cursor.u32("an array")?;
        let count = cursor.u64("an array")?;
        // Every value takes at least a byte, so a count beyond the file is a lie.
        let limit = cursor.values_left.min(cursor.remaining() as u64);
        if depth == 0 || count > limit {
            return Err(GgufFault::TooMany { what: "values in arrays", found: count, limit });
        }
        cursor.values_left -= count;
        let values = (0..count).map(|_| Self::read_as(kind, cursor, depth - 1));
        values.collect::<Result<_, _>>().map(Self::Array)
    }

    /// Appends the value as files have it: the number of its type, and its bytes. Integers and
    /// floats have 32 bits, as readers of models expect; an empty array holds texts.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.number().to_le_bytes());
        self.write_bytes(out);
    }

    fn number(&self) -> u32 {
        match self {
            Self::Unsigned(_) => 4,
            Self::Signed(_) => 5,
            Self::Float(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Array(_) => 9,
        }
    }

    fn write_bytes(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unsigned(value) => out.extend((*value as u32).to_le_bytes()),
            Self::Signed(value) => out.extend((*value as i32).to_le_bytes()),
            Self::Float(value) => out.extend((*value as f32).to_le_bytes()),
            Self::Bool(value) => out.push((*value).into()),
            Self::Text(text) => write_text(text, out),
            Self::Array(values) => {
                let kind = values.first().map_or(Self::Text(String::new()).number(), Self::number);
                out.extend(kind.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.write_bytes(out));
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a bool",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
        }
    }
}

/// Appends a text with its length before it.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// All pairs of a file.
#[derive(Debug, Default)]
pub(super) struct Metadata(pub(super) BTreeMap<String, Value>);

impl Metadata {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    fn needed<'a>(&'a self, key: &str) -> Result<&'a Value, GgufFault> {
        self.get(key).ok_or_else(|| GgufFault::Missing(key.to_owned()))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, GgufFault> {
        match self.needed(key)? {
            Value::Unsigned(value) => usize::try_from(*value).map_err(|_| wrong(key, value)),
            Value::Signed(value) => usize::try_from(*value).map_err(|_| wrong(key, value)),
            other => Err(wrong_type(key, other, "an integer")),
        }
    }

    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize, GgufFault> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    pub(super) fn id(&self, key: &str) -> Result<Option<u32>, GgufFault> {
        if self.get(key).is_none() {
            return Ok(None);
        }
        let id = self.size(key)?;
        u32::try_from(id).map(Some).map_err(|_| wrong(key, &id))
    }

    pub(super) fn float(&self, key: &str) -> Result<f64, GgufFault> {
        match self.needed(key)? {
            Value::Float(value) => Ok(*value),
            other => Err(wrong_type(key, other, "a float")),
        }
    }

    pub(super) fn float_or(&self, key: &str, default: f64) -> Result<f64, GgufFault> {
        if self.get(key).is_some() { self.float(key) } else { Ok(default) }
    }

    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool, GgufFault> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(wrong_type(key, other, "a bool")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, GgufFault> {
        match self.needed(key)? {
            Value::Text(text) => Ok(text),
            other => Err(wrong_type(key, other, "a text")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>, GgufFault> {
        self.array(key, "texts", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Vec<f64>, GgufFault> {
        self.array(key, "floats", |value| match value {
            Value::Float(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Vec<i64>, GgufFault> {
        self.array(key, "integers", |value| match value {
            Value::Signed(value) => Some(*value),
            Value::Unsigned(value) => i64::try_from(*value).ok(),
            _ => None,
        })
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, GgufFault> {
        let Value::Array(values) = self.needed(key)? else {
            return Err(wrong_type(key, self.needed(key)?, "an array"));
        };
        values
            .iter()
            .map(|value| read(value).ok_or_else(|| wrong_type(key, value, expected)))
            .collect()
    }
}

fn wrong(key: &str, found: &dyn ToString) -> GgufFault {
    let expected = "a size or an id".to_owned();
    GgufFault::OutOfRange { what: format!("`{key}`"), found: found.to_string(), expected }
}

fn wrong_type(key: &str, found: &Value, expected: &'static str) -> GgufFault {
    GgufFault::Type { what: format!("`{key}`"), found: found.kind().to_owned(), expected }
}
