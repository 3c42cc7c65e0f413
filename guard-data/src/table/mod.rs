//! Files of rows as published sets come: CSV, JSON lines, JSON arrays and Parquet, plain or
//! compressed. A row is fields by name, whatever the format; what the fields mean is for others.

mod ahead;
mod elements;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;
mod row;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::row::{RowFault, json_fault};
use crate::source::SourceError;
use ahead::Ahead;
use elements::Elements;
pub(crate) use lines::Lines;
pub use row::TableRow;

/// The rows of a file, in its order, each with its number from 1: the line in files of lines, the
/// row in others. A row that cannot be read leaves the others alone.
pub type TableRows<'a> = Box<dyn Iterator<Item = (u64, Result<TableRow, SourceError>)> + Send + 'a>;

/// A file of rows.
///
/// The format is told by the file's name: `.csv`, `.jsonl`, `.json` (an array of objects, or
/// lines) or `.parquet` (feature `parquet`), the first three also with `.gz` or `.xz` behind it.
///
/// ```
/// use guard_data::TableFile;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("cases.csv");
/// std::fs::write(&path, "id,prompt\n1,\"How is bread baked?\"\n")?;
/// for (number, row) in TableFile::open(&path)?.rows()? {
///     assert_eq!((number, row?.string("prompt")?), (2, "How is bread baked?".to_owned()));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFile {
    path: PathBuf,
    format: TableFormat,
    compression: Compression,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableFormat {
    /// Comma-separated values with a header line. All values are strings.
    Csv,
    /// A JSON object a line.
    JsonLines,
    /// An array of JSON objects. Some published sets call JSON lines by this name: those are
    /// read as what they are.
    Json,
    /// Apache Parquet.
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Xz,
}

/// The most bytes of one row: what a hostile file can make a reader hold.
pub(crate) const ROW_LIMIT: usize = 16 << 20;

/// The bytes that are asked of the system at a time.
const BUFFER: usize = 64 << 10;

/// The most bytes that a compressed file may unfold to.
const UNFOLDED_LIMIT: u64 = 16 << 30;

impl TableFile {
    /// The file of this name. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::Format`] when the name does not tell a known format.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (stem, compression) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Compression::Gzip),
            Some((stem, "xz")) => (stem, Compression::Xz),
            _ => (name.as_str(), Compression::None),
        };
        let format = match stem.rsplit_once('.').map(|(_, ending)| ending) {
            Some("csv") => TableFormat::Csv,
            Some("jsonl") => TableFormat::JsonLines,
            Some("json") => TableFormat::Json,
            Some("parquet") if compression == Compression::None => TableFormat::Parquet,
            _ => return Err(SourceError::Format { path, format: None }),
        };
        Ok(Self { path, format, compression })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its rows are written.
    #[must_use]
    pub fn format(&self) -> TableFormat {
        self.format
    }

    /// The rows from the first one on, however often it is called.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when the file cannot be opened or is not of its format.
    pub fn rows(&self) -> Result<TableRows<'_>, SourceError> {
        match self.format {
            TableFormat::Csv => self.csv(),
            TableFormat::JsonLines => {
                Ok(self.lines(BufReader::with_capacity(BUFFER, self.reader()?)))
            }
            TableFormat::Json => self.json(),
            #[cfg(feature = "parquet")]
            TableFormat::Parquet => parquet::rows(&self.path),
            #[cfg(not(feature = "parquet"))]
            TableFormat::Parquet => Err(SourceError::Format {
                path: self.path.clone(),
                format: Some(TableFormat::Parquet),
            }),
        }
    }

    /// The bytes of the file, unfolded.
    pub(crate) fn reader(&self) -> Result<Box<dyn Read + Send>, SourceError> {
        let file = open(&self.path)?;
        Ok(match self.compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(
                flate2::bufread::MultiGzDecoder::new(BufReader::new(file)).take(UNFOLDED_LIMIT),
            ),
            Compression::Xz => {
                Box::new(lzma_rust2::XzReader::new(BufReader::new(file), true).take(UNFOLDED_LIMIT))
            }
        })
    }

    fn json(&self) -> Result<TableRows<'_>, SourceError> {
        let mut reader = BufReader::with_capacity(BUFFER, self.reader()?);
        let failed = |error| SourceError::io("read", &self.path, error);
        skip_mark(&mut reader).map_err(failed)?;
        if skip_blank(&mut reader).map_err(failed)? != Some(b'[') {
            return Ok(self.lines(reader));
        }
        reader.consume(1);
        Ok(self.named(Ahead::new(Elements::new(reader))))
    }

    fn lines<'a>(&'a self, reader: impl BufRead + Send + 'a) -> TableRows<'a> {
        let mut lines = Some(Lines::new(reader, ROW_LIMIT));
        self.named(Ahead::new(std::iter::from_fn(move || {
            let open = lines.as_mut()?;
            let row = loop {
                match open.read_line() {
                    Ok(true) if open.line().trim_ascii().is_empty() => {}
                    Ok(true) => {
                        break open.bounded().map(<[u8]>::to_vec).map_err(ElementError::Row);
                    }
                    Ok(false) => return None,
                    Err(error) => break Err(ElementError::Io(error)),
                }
            };
            let number = open.number;
            if matches!(row, Err(ElementError::Io(_))) {
                lines = None;
            }
            Some((number, row))
        })))
    }

    /// The rows with errors that name the file.
    fn named<'a>(
        &'a self,
        rows: impl Iterator<Item = (u64, Result<TableRow, ElementError>)> + Send + 'a,
    ) -> TableRows<'a> {
        Box::new(rows.map(|(number, row)| (number, row.map_err(|e| self.fault(number, e)))))
    }

    fn csv(&self) -> Result<TableRows<'_>, SourceError> {
        let (bounded, room) = Bounded::new(self.reader()?);
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(bounded);
        let header = reader
            .headers()
            .map_err(|error| self.fault(1, ElementError::from(error)))?
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').to_owned())
            .collect::<Vec<_>>();
        let names: HashSet<&String> = header.iter().collect();
        if names.len() < header.len() {
            return Err(self.fault(1, ElementError::Row(RowFault::RepeatedColumn)));
        }
        let mut failed = false;
        let mut records = reader.into_records();
        Ok(self.named(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let line = records.reader().position().line();
            room.store(ROW_LIMIT, Ordering::Relaxed);
            let row = match records.next()? {
                Ok(record) => TableRow::from_texts(&header, &record),
                Err(_) if room.load(Ordering::Relaxed) == 0 => {
                    failed = true;
                    Err(ElementError::Row(RowFault::TooLong { limit: ROW_LIMIT }))
                }
                Err(error) => {
                    let error = ElementError::from(error);
                    failed = matches!(error, ElementError::Io(_));
                    Err(error)
                }
            };
            Some((line, row))
        })))
    }

    fn fault(&self, line: u64, error: ElementError) -> SourceError {
        match error {
            ElementError::Io(error) => SourceError::io("read", &self.path, error),
            ElementError::Row(fault) => SourceError::Row { path: self.path.clone(), line, fault },
        }
    }
}

/// Reads a whole file, plain or compressed, of at most 256 MiB: for sets that come as one JSON
/// value.
///
/// # Errors
///
/// [`SourceError`] when the file cannot be read or is longer.
pub fn read_whole(path: impl AsRef<Path>) -> Result<Vec<u8>, SourceError> {
    const LIMIT: usize = 256 << 20;
    let file = TableFile::open(path.as_ref())?;
    let mut bytes = Vec::new();
    let mut reader = file.reader()?.take(LIMIT as u64 + 1);
    reader.read_to_end(&mut bytes).map_err(|error| SourceError::io("read", &file.path, error))?;
    if bytes.len() > LIMIT {
        return Err(file.fault(0, ElementError::Row(RowFault::TooLong { limit: LIMIT })));
    }
    Ok(bytes)
}

/// Opens a regular file: a pipe would wait for ever, and a folder says so only when it is read.
pub(crate) fn open(path: &Path) -> Result<File, SourceError> {
    let file = File::open(path).map_err(|error| SourceError::io("open", path, error))?;
    let metadata = file.metadata().map_err(|error| SourceError::io("open", path, error))?;
    if !metadata.is_file() {
        let error = std::io::Error::other("not a regular file");
        return Err(SourceError::io("open", path, error));
    }
    Ok(file)
}

/// A reader that gives so many bytes and then fails, until there is room again: the CSV reader has
/// no limit of its own.
struct Bounded<R> {
    inner: R,
    room: Arc<AtomicUsize>,
}

impl<R> Bounded<R> {
    fn new(inner: R) -> (Self, Arc<AtomicUsize>) {
        let room = Arc::new(AtomicUsize::new(ROW_LIMIT));
        (Self { inner, room: Arc::clone(&room) }, room)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed).min(buffer.len());
        if room == 0 && !buffer.is_empty() {
            return Err(std::io::Error::other("the row is too long"));
        }
        let read = self.inner.read(&mut buffer[..room])?;
        self.room.fetch_sub(read, Ordering::Relaxed);
        Ok(read)
    }
}

/// The bytes of a row, not yet parsed, with its number.
type RawRow = (u64, Result<Vec<u8>, ElementError>);

/// Why one row cannot be read.
#[derive(Debug)]
pub(crate) enum ElementError {
    /// The file cannot be read on.
    Io(std::io::Error),
    /// The row is at fault.
    Row(RowFault),
}

impl From<csv::Error> for ElementError {
    fn from(error: csv::Error) -> Self {
        match error.into_kind() {
            csv::ErrorKind::Io(error) => Self::Io(error),
            csv::ErrorKind::Utf8 { err, .. } => {
                Self::Row(RowFault::NotUtf8 { byte: err.valid_up_to() + 1 })
            }
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                Self::Row(RowFault::Columns { expected: expected_len, found: len })
            }
            // The others arise in writing and in serde, which is not used.
            _ => Self::Row(RowFault::NotAnObject),
        }
    }
}

/// Passes over white space. The next byte, which is not read yet; `None` at the end.
fn skip_blank(reader: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        match reader.fill_buf()?.first() {
            Some(byte) if byte.is_ascii_whitespace() => reader.consume(1),
            next => return Ok(next.copied()),
        }
    }
}

/// Passes over a byte-order mark.
fn skip_mark(reader: &mut impl BufRead) -> std::io::Result<()> {
    if reader.fill_buf()?.starts_with(lines::BYTE_ORDER_MARK) {
        reader.consume(lines::BYTE_ORDER_MARK.len());
    }
    Ok(())
}

/// Reads one JSON object.
fn parse_object(bytes: &[u8]) -> Result<TableRow, RowFault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| RowFault::NotUtf8 { byte: error.valid_up_to() + 1 })?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(RowFault::NotAnObject);
    }
    serde_json::from_str(text).map_err(|error| json_fault(&error))
}
