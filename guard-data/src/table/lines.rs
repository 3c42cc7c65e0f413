//! Lines of bounded length.

use std::io::{BufRead, Read};

use crate::row::RowFault;

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Lines of at most `limit` bytes, of which only one is held at a time.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    limit: usize,
    /// The number of the newest line, from 1.
    pub(crate) number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R, limit: usize) -> Self {
        Self { reader, limit, number: 0, buffer: Vec::new() }
    }

    /// Fills the buffer with the next line, or with as much of it as shows that it is too long.
    /// Says whether there was one.
    pub(crate) fn read_line(&mut self) -> std::io::Result<bool> {
        self.buffer.clear();
        // Room for the limit, the two bytes of the longest line end, and the mark.
        let room = self.limit.saturating_add(2 + BYTE_ORDER_MARK.len());
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        let read = self.reader.by_ref().take(room).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(false);
        }
        if !self.buffer.ends_with(b"\n") {
            self.reader.skip_until(b'\n')?;
        }
        self.number += 1;
        Ok(true)
    }

    /// The same line, if it is not too long.
    pub(crate) fn bounded(&self) -> Result<&[u8], RowFault> {
        let line = self.line();
        if line.len() > self.limit {
            Err(RowFault::TooLong { limit: self.limit })
        } else {
            Ok(line)
        }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The line in the buffer without its ending and, on the first line, without the mark.
    pub(crate) fn line(&self) -> &[u8] {
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if self.number == 1 => rest,
            _ => line,
        }
    }
}
