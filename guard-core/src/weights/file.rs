//! Files of weights, mapped or read.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};

use super::error::WeightsError;

/// How weights are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileAccess {
    /// Files are mapped into memory. Whoever can write to them can end the program by cutting
    /// one short at the wrong moment: replace files by renaming, or read them buffered.
    #[default]
    Mapped,
    /// Files are read piece by piece: for files that somebody else may change meanwhile.
    Buffered,
}

/// A file of weights that is read by ranges.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    source: Source,
    len: u64,
}

#[derive(Debug)]
enum Source {
    File(File),
    Map(File, Mmap),
    /// Part of the program.
    Program(&'static [u8]),
}

impl DataFile {
    pub(super) fn open(path: &Path, access: FileAccess) -> Result<Self, WeightsError> {
        let file = open_regular(path)?;
        let len = file_len(&file, path)?;
        let source = match access {
            FileAccess::Mapped if len > 0 => {
                let map = map(&file, path)?;
                Source::Map(file, map)
            }
            _ => Source::File(file),
        };
        Ok(Self { path: path.to_owned(), source, len })
    }

    /// Bytes that are part of the program, with a path for errors.
    pub(super) fn from_bytes(path: &Path, bytes: &'static [u8]) -> Self {
        let len = bytes.len() as u64;
        Self { path: path.to_owned(), source: Source::Program(bytes), len }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes of a range within the file's length as it was opened.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, WeightsError> {
        self.check_len()?;
        let places = to_usize(&range).filter(|_| range.start <= range.end && range.end <= self.len);
        let Some(places) = places else { return Err(self.changed(self.len)) };
        match &self.source {
            Source::Map(_, map) => Ok(Cow::Borrowed(&map[places])),
            Source::Program(bytes) => Ok(Cow::Borrowed(&bytes[places])),
            Source::File(file) => {
                let mut bytes = vec![0; places.len()];
                let mut file: &File = file;
                file.seek(SeekFrom::Start(range.start))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|source| WeightsError::io("read", &self.path, source))?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Gives the pages of a range back to the system: they are not needed again soon, and
    /// counting them twice would double the memory that loading takes.
    pub(super) fn release(&self, range: Range<u64>) {
        const PAGE: usize = 4096;
        let (Source::Map(_, map), Some(places)) = (&self.source, to_usize(&range)) else { return };
        let start = places.start.next_multiple_of(PAGE);
        let end = places.end / PAGE * PAGE;
        if start < end {
            advise_unneeded(map, start, end - start);
        }
    }

    /// Refuses a file that is shorter than it was. This narrows the window in which a mapped
    /// file can be cut short unnoticed; see [`FileAccess::Buffered`] for closing it.
    fn check_len(&self) -> Result<(), WeightsError> {
        let (Source::File(file) | Source::Map(file, _)) = &self.source else { return Ok(()) };
        match file_len(file, &self.path)? {
            found if found < self.len => Err(self.changed(found)),
            _ => Ok(()),
        }
    }

    fn changed(&self, found: u64) -> WeightsError {
        WeightsError::Changed { path: self.path.clone(), expected: self.len, found }
    }
}

fn to_usize(range: &Range<u64>) -> Option<Range<usize>> {
    Some(range.start.try_into().ok()?..range.end.try_into().ok()?)
}

#[allow(unsafe_code)]
fn map(file: &File, path: &Path) -> Result<Mmap, WeightsError> {
    // SAFETY: the map is only sound while nobody shortens the file. We hold it open, check its
    // length before each access and say in `FileAccess` who has to care. Its bytes are read as
    // numbers only, any value of which is valid.
    unsafe { Mmap::map(file) }.map_err(|source| WeightsError::io("map", path, source))
}

#[allow(unsafe_code)]
fn advise_unneeded(map: &Mmap, offset: usize, len: usize) {
    // SAFETY: the map is read-only and backed by a file, so dropped pages are read again from
    // the file when touched: no data can be lost. Failing is harmless: it only costs memory.
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
}

/// Opens a regular file. A pipe would block for ever, and a device never ends.
fn open_regular(path: &Path) -> Result<File, WeightsError> {
    let metadata = fs::metadata(path).map_err(|source| WeightsError::io("open", path, source))?;
    if !metadata.is_file() {
        return Err(WeightsError::NotAFile { path: path.to_owned() });
    }
    File::open(path).map_err(|source| WeightsError::io("open", path, source))
}

fn file_len(file: &File, path: &Path) -> Result<u64, WeightsError> {
    let metadata = file.metadata().map_err(|source| WeightsError::io("read", path, source))?;
    Ok(metadata.len())
}

/// Reads a whole text file of a model's folder: configuration, index or tokenizer.
pub(crate) fn read_small_file(path: &Path) -> Result<String, WeightsError> {
    const LIMIT: u64 = 128 << 20;
    let file = open_regular(path)?;
    let found = file_len(&file, path)?;
    if found > LIMIT {
        return Err(WeightsError::TooLarge { path: path.to_owned(), found, limit: LIMIT });
    }
    let mut text = String::new();
    file.take(LIMIT)
        .read_to_string(&mut text)
        .map_err(|source| WeightsError::io("read", path, source))?;
    Ok(text)
}
