//! A file of lines that a run adds to, and that a killed run leaves usable.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file of lines that grows at its end. It is locked while it is open, since two runs would tear
/// each other's lines, and a line is written by one call, so that only the last can be torn.
#[derive(Debug)]
pub struct LineLog {
    file: File,
    path: PathBuf,
    /// The length of the whole lines.
    whole: u64,
    /// Whether something stands behind them.
    torn: bool,
}

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LineLogError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `open`, `lock`, `read`, `cut`, `write` or `sync`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another run has it open.
    #[error("another run writes to {}", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

impl LineLog {
    /// The longest line that is read back, in bytes.
    pub const LONGEST_LINE: usize = 64 << 20;

    /// Opens the file, or makes it, and locks it. Nothing in it is changed yet.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when it cannot be opened or is in use.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LineLogError> {
        let path = path.into();
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path);
        let file = file.map_err(|error| io("open", &path, error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => io("lock", &path, error),
            TryLockError::WouldBlock => LineLogError::InUse { path: path.clone() },
        })?;
        let mut log = Self { file, path, whole: 0, torn: false };
        log.find_end()?;
        Ok(log)
    }

    fn find_end(&mut self) -> Result<(), LineLogError> {
        const BLOCK: u64 = 64 << 10;
        let length = self.file.metadata().map_err(|error| self.fail("read", error))?.len();
        let mut end = length;
        let mut block = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            block.clear();
            self.file.seek(SeekFrom::Start(start)).map_err(|error| self.fail("read", error))?;
            let mut part = (&self.file).take(end - start);
            part.read_to_end(&mut block).map_err(|error| self.fail("read", error))?;
            if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
                end = start + newline as u64 + 1;
                break;
            }
            end = start;
        }
        self.whole = end;
        self.torn = end < length;
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next line begins, in bytes.
    pub(crate) fn end(&self) -> u64 {
        self.whole
    }

    /// Whether the file holds nothing, not even a torn line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole == 0 && !self.torn
    }

    /// The whole lines from the first on, without their endings. The log can grow meanwhile; lines
    /// that come later are not among them.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when the file cannot be opened again; an item is an error when it cannot be
    /// read on.
    pub fn lines(
        &self,
    ) -> Result<impl Iterator<Item = Result<Vec<u8>, LineLogError>> + use<>, LineLogError> {
        let file = File::open(&self.path).map_err(|error| self.fail("open", error))?;
        let mut reader = BufReader::with_capacity(64 << 10, file.take(self.whole));
        let path = self.path.clone();
        let mut failed = false;
        Ok(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let mut line = Vec::new();
            let limit = Self::LONGEST_LINE as u64;
            let read = reader.by_ref().take(limit).read_until(b'\n', &mut line);
            let error = match read {
                Ok(0) => return None,
                Ok(_) if line.last() == Some(&b'\n') => {
                    line.pop();
                    return Some(Ok(line));
                }
                Ok(_) => std::io::Error::other("a line is too long"),
                Err(error) => error,
            };
            failed = true;
            Some(Err(io("read", &path, error)))
        }))
    }

    /// The bytes behind the last whole line: what a killed run had begun to write.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when they cannot be read.
    pub fn torn_line(&self) -> Result<Vec<u8>, LineLogError> {
        let mut file = File::open(&self.path).map_err(|error| self.fail("open", error))?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.whole)).map_err(|error| self.fail("read", error))?;
        file.take(Self::LONGEST_LINE as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| self.fail("read", error))?;
        Ok(bytes)
    }

    /// Cuts off what stands behind the last whole line. For a file that is known to be the run's.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when it cannot be cut.
    pub fn cut_torn_line(&mut self) -> Result<(), LineLogError> {
        if self.torn { self.cut_to(self.whole) } else { Ok(()) }
    }

    /// Cuts the file to so many bytes, which must be the end of a line.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when it cannot be cut.
    pub fn cut_to(&mut self, bytes: u64) -> Result<(), LineLogError> {
        self.file.set_len(bytes).map_err(|error| self.fail("cut", error))?;
        self.whole = bytes;
        self.torn = false;
        Ok(())
    }

    /// Adds a line and hands it to the system: it survives the end of this process. A line that could
    /// not be written whole is taken back.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when it cannot be written, has a line break, or is longer than
    /// [`LineLog::LONGEST_LINE`].
    pub fn append(&mut self, line: &[u8]) -> Result<(), LineLogError> {
        if line.contains(&b'\n') || line.len() >= Self::LONGEST_LINE {
            let error = std::io::Error::other("a line with a break in it, or too long");
            return Err(self.fail("write", error));
        }
        self.cut_torn_line()?;
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // What is left of the line is cut now, or before the next one.
            self.torn = self.file.set_len(self.whole).is_err();
            return Err(self.fail("write", error));
        }
        self.whole += bytes.len() as u64;
        Ok(())
    }

    /// Makes sure that all lines survive the end of the machine.
    ///
    /// # Errors
    ///
    /// [`LineLogError`] when the system cannot promise it.
    pub fn sync(&self) -> Result<(), LineLogError> {
        self.file.sync_data().map_err(|error| self.fail("sync", error))
    }

    fn fail(&self, action: &'static str, error: std::io::Error) -> LineLogError {
        io(action, &self.path, error)
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> LineLogError {
    LineLogError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &LineLog) -> Vec<String> {
        let text = |line: Result<Vec<u8>, _>| String::from_utf8(line.unwrap()).unwrap();
        log.lines().unwrap().map(text).collect()
    }

    #[test]
    fn lines_are_added_and_a_torn_one_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = LineLog::open(&path).unwrap();
        assert!(log.is_empty());
        log.append(b"one").unwrap();
        log.append(b"").unwrap();
        log.sync().unwrap();
        assert_eq!(lines(&log), ["one", ""]);
        drop(log);
        std::fs::write(&path, format!("one\n{}\nto", "x".repeat(200_000))).unwrap();
        let mut log = LineLog::open(&path).unwrap();
        assert_eq!(log.torn_line().unwrap(), b"to");
        assert_eq!(lines(&log).len(), 2);
        log.cut_torn_line().unwrap();
        log.append(b"three").unwrap();
        assert_eq!(lines(&log)[2], "three");
    }

    #[test]
    fn only_one_run_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let first = LineLog::open(&path).unwrap();
        assert!(matches!(LineLog::open(&path), Err(LineLogError::InUse { .. })));
        drop(first);
        assert!(LineLog::open(&path).is_ok());
        let missing = LineLog::open(folder.path().join("none").join("log"));
        assert!(matches!(missing, Err(LineLogError::Io { action: "open", .. })));
    }

    #[test]
    fn a_file_without_a_line_end_is_all_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        let log = LineLog::open(&path).unwrap();
        assert!(!log.is_empty() && lines(&log).is_empty());
        assert_eq!(log.torn_line().unwrap().len(), 100_000);
    }
}
