//! Rows of a Parquet file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use serde_json::Value;

use super::{ROW_LIMIT, TableRow, TableRows};
use crate::row::RowFault;
use crate::source::SourceError;

/// The rows of a file.
pub(super) fn rows(path: &Path) -> Result<TableRows<'_>, SourceError> {
    let file = super::open(path)?;
    let fault = move |line, fault| SourceError::Row { path: path.to_owned(), line, fault };
    let open = || Ok(RowIter::from_file_into(Box::new(SerializedFileReader::new(file)?)));
    let mut rows = fenced(open).map_err(|error| fault(0, error))?;
    let mut number = 0;
    let mut done = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if done {
            return None;
        }
        number += 1;
        let row = fenced(|| Ok(rows.next().transpose()?.map(|row| row.to_json_value())));
        // After a fault nothing is known of where the next row begins.
        done = row.is_err();
        match row.map_err(|error| fault(number, error)) {
            Ok(Some(value)) if text_len(&value) > ROW_LIMIT => {
                done = true;
                Some((number, Err(fault(number, RowFault::TooLong { limit: ROW_LIMIT }))))
            }
            Ok(Some(Value::Object(fields))) => Some((number, Ok(TableRow::new(fields)))),
            Ok(Some(_)) => Some((number, Err(fault(number, RowFault::NotAnObject)))),
            Ok(None) => None,
            Err(error) => Some((number, Err(error))),
        }
    })))
}

/// The bytes of text in a value. One text of a dictionary can stand in many rows.
fn text_len(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_len).sum(),
        Value::Object(fields) => fields.values().map(text_len).sum(),
        _ => 0,
    }
}

/// Runs the reader, which panics on some damaged files.
fn fenced<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, RowFault> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|_| RowFault::Parquet),
        Err(_) => Err(RowFault::Parquet),
    }
}
