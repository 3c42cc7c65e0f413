//! The objects of a JSON array, one at a time: an array of any length is read in the memory of
//! its longest element.

use std::io::BufRead;

use memchr::memchr2;

use super::{ElementError, ROW_LIMIT, RawRow};
use crate::row::RowFault;

/// The elements of an array whose opening bracket has been read, each with its number from 1.
pub(super) struct Elements<R> {
    reader: R,
    number: u64,
    done: bool,
}

impl<R: BufRead> Elements<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, number: 0, done: false }
    }

    /// The bytes of the next element; `None` at the end of the array.
    fn next_element(&mut self) -> Result<Option<Vec<u8>>, ElementError> {
        let mut next = self.skip_blank()?;
        if self.number > 0 && next == Some(b',') {
            self.reader.consume(1);
            next = self.skip_blank()?;
        } else if self.number > 0 && next != Some(b']') {
            return Err(fault(next.map_or(RowFault::CutOff, |_| RowFault::NotAnArray)));
        }
        match next {
            Some(b']') => {
                self.reader.consume(1);
                match self.skip_blank()? {
                    None => Ok(None),
                    Some(_) => Err(fault(RowFault::NotAnArray)),
                }
            }
            Some(_) => self.value().map(Some),
            None => Err(fault(RowFault::CutOff)),
        }
    }

    /// Reads to the end of a value, with no regard to what is in it. Of one that is too long, no more
    /// is kept than shows it.
    fn value(&mut self) -> Result<Vec<u8>, ElementError> {
        let mut bytes = Vec::new();
        let mut scan = Scan::default();
        loop {
            let buffer = self.reader.fill_buf().map_err(ElementError::Io)?;
            if buffer.is_empty() {
                return Err(fault(RowFault::CutOff));
            }
            let end = scan.end(buffer);
            let taken = end.unwrap_or(buffer.len());
            if bytes.len() <= ROW_LIMIT {
                bytes.extend_from_slice(&buffer[..taken]);
            }
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(bytes);
            }
        }
    }

    fn skip_blank(&mut self) -> Result<Option<u8>, ElementError> {
        super::skip_blank(&mut self.reader).map_err(ElementError::Io)
    }
}

fn fault(fault: RowFault) -> ElementError {
    ElementError::Row(fault)
}

/// Where in a value's nesting the scan stands.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Scan {
    /// Where in the buffer the value ends: behind the bracket that closes it, or before the comma or
    /// bracket behind a number or word. Texts, which are most of a row, are passed over to their next
    /// quotation mark or backslash.
    fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = buffer.get(at) {
            if self.in_text && !self.escaped {
                at += memchr2(b'"', b'\\', &buffer[at..])?;
                self.step(buffer[at]);
            } else if self.is_behind(*byte) {
                return Some(at);
            } else if self.step(*byte) {
                return Some(at + 1);
            }
            at += 1;
        }
        None
    }

    /// Whether this byte stands behind a value outside all brackets.
    fn is_behind(&self, byte: u8) -> bool {
        self.depth == 0 && !self.in_text && matches!(byte, b',' | b']' | b'}')
    }

    /// Whether this byte closes the outermost bracket.
    fn step(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_text => self.escaped = true,
            b'"' => self.in_text = !self.in_text,
            b'{' | b'[' if !self.in_text => self.depth += 1,
            b'}' | b']' if !self.in_text => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl<R: BufRead> Iterator for Elements<R> {
    type Item = RawRow;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let element = self.next_element();
        self.number += 1;
        match element {
            Ok(Some(bytes)) if bytes.len() > ROW_LIMIT => {
                Some((self.number, Err(fault(RowFault::TooLong { limit: ROW_LIMIT }))))
            }
            Ok(Some(bytes)) => Some((self.number, Ok(bytes))),
            Ok(None) => {
                self.done = true;
                None
            }
            // Where the next element begins cannot be known.
            Err(error) => {
                self.done = true;
                Some((self.number, Err(error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableRow;
    use super::super::ahead::Ahead;
    use super::*;

    fn read(json: &str) -> Vec<String> {
        let describe = |(number, row): (u64, Result<TableRow, ElementError>)| match row {
            Ok(row) => format!("{number} {}", row.string("a").unwrap()),
            Err(ElementError::Row(fault)) => format!("{number} {fault}"),
            Err(ElementError::Io(error)) => error.to_string(),
        };
        // One byte at a time, so that every border of a buffer is met.
        let reader = std::io::BufReader::with_capacity(1, json.as_bytes());
        Ahead::new(Elements::new(reader)).map(describe).collect()
    }

    #[test]
    fn elements_come_one_by_one() {
        assert_eq!(read("]"), [] as [&str; 0]);
        let nested = r#" {"a":"x}{\"","b":{"c":[{}]}} , {"a":"\\"} ] "#;
        assert_eq!(read(nested), ["1 x}{\"", "2 \\"]);
    }

    #[test]
    fn a_bad_element_leaves_the_others_and_a_torn_one_ends_the_file() {
        let bad = r#"{"a":"1"},{"a":nope},{"a":"3"}]"#;
        assert_eq!(read(bad), ["1 1", "2 bad JSON near byte 7", "3 3"]);
        assert_eq!(read(r#"{"a":"1"},{"a":"2"#), ["1 1", "2 the JSON is cut off"]);
        assert_eq!(read(r#"{"a":"1"}"#), ["1 1", "2 the JSON is cut off"]);
        assert_eq!(read(r#"{"a":"1"}]x"#), ["1 1", "2 expected an array of objects"]);
        assert_eq!(read("1]"), ["1 expected a JSON object"]);
        // What is no object is passed over, whatever it holds.
        let odd = r#"null, {"a":"2"}, "],{\"", [1,[{}],"]"], -1.5e3 ,{"a":"6"}]"#;
        let no_object = |row: usize| format!("{row} expected a JSON object");
        assert_eq!(
            read(odd),
            [no_object(1), "2 2".into(), no_object(3), no_object(4), no_object(5), "6 6".into()]
        );
        assert_eq!(read(r#"{"a":"1"},,{"a":"3"}]"#), ["1 1", "2 expected a JSON object", "3 3"]);
        assert_eq!(read("}]"), ["1 expected a JSON object", "2 expected an array of objects"]);
    }

    #[test]
    fn an_element_that_is_too_long_is_passed_over_whole() {
        let long = "x".repeat(ROW_LIMIT + 10);
        let json = format!(r#"{{"a":"1"}},{{"a":"{long}"}},{{"a":"3"}}]"#);
        let elements = Elements::new(std::io::BufReader::new(json.as_bytes()));
        let lengths: Vec<_> = elements.map(|(_, row)| row.map(|bytes| bytes.len()).ok()).collect();
        assert_eq!(lengths, [Some(9), None, Some(9)]);
    }
}
