//! Samples from a file with one JSON object a line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::row::{self, RowFault};
use crate::sample::Sample;
use crate::source::{SampleSource, Samples, SourceError};
use crate::table::{self, Lines};

/// A file of samples, one JSON object a line, read line by line.
///
/// Each line has the strings `id`, `source`, `prompt`, if there is one `response`, and the object
/// `labels` with those of `request`, `completion` and `response` that are known; other fields are
/// passed over. Empty lines are skipped, and a byte-order mark and Windows line ends do no harm.
///
/// A bad line is an error item that names file and line, and reading goes on with the next one.
/// When the system cannot read on, that error is the last item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonLinesSource {
    name: String,
    path: PathBuf,
    line_limit: usize,
}

impl JsonLinesSource {
    /// The most bytes that a line may have unless said otherwise: 16 MiB.
    pub const DEFAULT_LINE_LIMIT: usize = table::ROW_LIMIT;

    /// A source of this file, named like the file without its ending. Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, path, line_limit: Self::DEFAULT_LINE_LIMIT }
    }

    /// Gives the source another name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Refuses lines of more than `bytes` bytes, their ending not counted. This bounds the
    /// memory that a hostile file can take.
    #[must_use]
    pub fn with_line_limit(mut self, bytes: usize) -> Self {
        self.line_limit = bytes;
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl SampleSource for JsonLinesSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        let lines = Lines::new(BufReader::new(table::open(&self.path)?), self.line_limit);
        Ok(Box::new(Rows { path: &self.path, lines: Some(lines) }))
    }
}

/// The samples of an open file. `lines` is gone once the file ended or failed.
struct Rows<'a, R> {
    path: &'a Path,
    lines: Option<Lines<R>>,
}

impl<R: BufRead> Iterator for Rows<'_, R> {
    type Item = Result<Sample, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let lines = self.lines.as_mut()?;
        match next_sample(lines) {
            Ok(Some(row)) => {
                let line = lines.number;
                let path = self.path;
                Some(row.map_err(|fault| SourceError::Row { path: path.to_owned(), line, fault }))
            }
            Ok(None) => {
                self.lines = None;
                None
            }
            // A failing disk fails again: without an end here the items would never end.
            Err(error) => {
                self.lines = None;
                Some(Err(SourceError::io("read", self.path, error)))
            }
        }
    }
}

/// The next line that is not empty, as a sample; `None` at the end.
fn next_sample(
    lines: &mut Lines<impl BufRead>,
) -> std::io::Result<Option<Result<Sample, RowFault>>> {
    while lines.read_line()? {
        if !lines.line().trim_ascii().is_empty() {
            return Ok(Some(lines.bounded().and_then(row::parse)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Error, ErrorKind, Read};

    use super::*;

    fn line(id: &str) -> String {
        format!(r#"{{"id":"{id}","source":"s","prompt":"SECRET","labels":{{}}}}"#)
    }

    /// What the items of these bytes are: the id of a sample, or the message of an error.
    fn read(bytes: impl AsRef<[u8]>, limit: usize) -> Vec<String> {
        let lines = Some(Lines::new(Cursor::new(bytes), limit));
        describe(Rows { path: Path::new("f.jsonl"), lines })
    }

    fn describe(items: impl Iterator<Item = Result<Sample, SourceError>>) -> Vec<String> {
        items.map(|item| item.map_or_else(|error| error.to_string(), |sample| sample.id)).collect()
    }

    #[test]
    fn a_bad_line_is_named_and_the_next_one_is_read() {
        let text = format!("{}\nnonsense\n\n{}\n{{\"id\":\"3", line("1"), line("2"));
        let expected =
            ["1", "f.jsonl:2: expected a JSON object", "2", "f.jsonl:5: the JSON is cut off"];
        assert_eq!(read(text, 1000), expected);
    }

    #[test]
    fn marks_line_ends_and_blank_lines_do_no_harm() {
        let text = format!("\u{feff}{}\r\n\r\n \t\n\n{}", line("1"), line("2"));
        assert_eq!(read(&text, 1000), ["1", "2"]);
        assert!(read("", 1000).is_empty());
        assert!(read("\u{feff}\r\n", 1000).is_empty());
        // Anywhere else the mark is text, and no JSON.
        let inner = format!("{}\n\u{feff}{}", line("1"), line("2"));
        assert_eq!(read(inner, 1000), ["1", "f.jsonl:2: expected a JSON object"]);
    }

    #[test]
    fn the_limit_counts_the_line_and_not_its_ending() {
        let fits = line("1");
        for end in ["", "\n", "\r\n"] {
            for mark in ["", "\u{feff}"] {
                let text = format!("{mark}{fits}{end}");
                assert_eq!(read(&text, fits.len()), ["1"], "{text:?}");
                let refused = format!("f.jsonl:1: longer than {} bytes", fits.len() - 1);
                assert_eq!(read(&text, fits.len() - 1), [refused], "{text:?}");
            }
        }
    }

    #[test]
    fn a_line_that_is_far_too_long_is_passed_over_whole() {
        let long = line(&"x".repeat(100_000));
        let text = format!("{}\n{long}\n{}\n", line("1"), line("2"));
        assert_eq!(read(&text, 200), ["1", "f.jsonl:2: longer than 200 bytes", "2"]);
        let mut lines = Lines::new(Cursor::new(text), 200);
        while next_sample(&mut lines).unwrap().is_some() {}
        assert!(lines.capacity() < 1000, "held {} bytes", lines.capacity());
        assert_eq!(read(line("1"), usize::MAX), ["1"]);
    }

    #[test]
    fn bytes_that_are_no_text_spoil_only_their_line() {
        let mut bytes = line("1").into_bytes();
        bytes.extend_from_slice(b"\n{\xff\xfe}\n");
        bytes.extend_from_slice(line("2").as_bytes());
        assert_eq!(read(bytes, 1000), ["1", "f.jsonl:2: not UTF-8 from byte 2 on", "2"]);
    }

    /// A file on a disk that fails after its first line, each time it is asked.
    struct FailingDisk(Cursor<Vec<u8>>);

    impl Read for FailingDisk {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(Error::from(ErrorKind::TimedOut)),
                count => Ok(count),
            }
        }
    }

    #[test]
    fn a_failing_disk_ends_the_items() {
        let disk = FailingDisk(Cursor::new(format!("{}\n", line("1")).into_bytes()));
        let lines = Some(Lines::new(BufReader::new(disk), 1000));
        let items = Rows { path: Path::new("f.jsonl"), lines };
        assert_eq!(describe(items.take(10)), ["1", "cannot read f.jsonl"]);
    }

    #[test]
    fn a_file_can_be_read_twice_and_is_named_after_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toxic-chat.jsonl");
        std::fs::write(&path, line("1")).unwrap();
        let source = JsonLinesSource::new(&path);
        assert_eq!(source.name(), "toxic-chat");
        for _ in 0..2 {
            assert_eq!(describe(source.samples().unwrap()), ["1"]);
        }
        assert_eq!(source.with_name("other").name(), "other");
    }

    #[test]
    fn what_cannot_be_opened_or_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = JsonLinesSource::new(folder.path().join("none.jsonl"));
        let error = missing.samples().err().unwrap();
        assert!(matches!(error, SourceError::Io { action: "open", .. }), "{error:?}");
        // Some systems refuse to open a folder, others to read it.
        let folder = JsonLinesSource::new(folder.path());
        let failed =
            folder.samples().map_or(1, |items| items.take(10).filter(Result::is_err).count());
        assert_eq!(failed, 1);
    }
}
