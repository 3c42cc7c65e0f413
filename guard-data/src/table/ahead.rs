//! Rows parsed side by side: the bytes of some rows are read ahead and parsed on all cores.

use rayon::prelude::*;

use super::{ElementError, RawRow, TableRow, parse_object};

/// The rows that are held at a time, and the bytes that they may have together.
const ROWS: usize = 512;
const BYTES: usize = 4 << 20;

/// The rows of these bytes, in their order.
pub(super) struct Ahead<I> {
    raw: I,
    parsed: std::vec::IntoIter<(u64, Result<TableRow, ElementError>)>,
}

impl<I: Iterator<Item = RawRow>> Ahead<I> {
    pub(super) fn new(raw: I) -> Self {
        Self { raw, parsed: Vec::new().into_iter() }
    }

    fn read(&mut self) -> Vec<RawRow> {
        let mut bytes = 0;
        let mut rows = Vec::new();
        while rows.len() < ROWS && bytes < BYTES {
            let Some(row) = self.raw.next() else { break };
            bytes += row.1.as_ref().map_or(0, Vec::len);
            rows.push(row);
        }
        rows
    }
}

impl<I: Iterator<Item = RawRow>> Iterator for Ahead<I> {
    type Item = (u64, Result<TableRow, ElementError>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.parsed.len() == 0 {
            let parse = |(number, row): RawRow| {
                let row = row.and_then(|bytes| parse_object(&bytes).map_err(ElementError::Row));
                (number, row)
            };
            let rows = self.read();
            self.parsed = rows.into_par_iter().map(parse).collect::<Vec<_>>().into_iter();
        }
        self.parsed.next()
    }
}
