//! What became of each row, and of the money: the one file that a run must not lose.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::accept::Rejection;
use crate::line_log::{LineLog, LineLogError};
use crate::sample::Sample;
use crate::teacher::{Cost, Ledger, LedgerError, Reservation};

/// A file of JSON lines that holds the outcome of each row and every amount that was reserved or
/// spent. It is written by one process at a time, line by line, before anything depends on the line.
///
/// After a kill it is opened again: a torn last line is cut off, rows that have an outcome are not
/// asked for again, and amounts that were reserved and never settled count as spent. Lines are promised
/// to survive the end of the process at once, and that of the machine every 32 rows and when a run ends.
///
/// The cap binds whoever reserves from the journal: put a [`Budgeted`](crate::Budgeted) with it round
/// the client. [`Synthesizer::run`](crate::Synthesizer::run) refuses a journal with a cap whose client
/// does not.
#[derive(Debug)]
pub struct Journal {
    cap: Option<Cost>,
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: LineLog,
    rows: HashMap<RowKey, Entry>,
    spent: Cost,
    reserved: HashMap<u64, Cost>,
    /// Whether anybody asked for money.
    is_asked: bool,
    next_call: u64,
    unsynced: u32,
}

/// Where the outcome of a row stands, and which it is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    state: RowState,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    Accepted,
    Rejected(Rejection),
    Failed,
}

/// The name of a row in a journal: a hash of all that its trace depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RowKey(pub(super) [u8; 16]);

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl RowKey {
    fn read(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16)
            .ok()
            .filter(|_| text.len() == 32)
            .map(|n| Self(n.to_be_bytes()))
    }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Journal { format: u32 },
    Reserved { call: u64, nanos: u64 },
    Settled { call: u64, nanos: u64 },
    Row(Outcome),
}

/// What became of a row.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) key: String,
    pub(super) source: String,
    pub(super) id: String,
    /// The output of an accepted row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<String>,
    /// Why a row was put aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rejection: Option<Rejection>,
    /// What the teacher wrote for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<String>,
    /// Why there is no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Outcome {
    /// Nothing yet about a row.
    pub(super) fn of(key: RowKey, sample: &Sample) -> Self {
        Self {
            key: key.to_string(),
            source: sample.source.clone(),
            id: sample.id.clone(),
            output: None,
            rejection: None,
            reply: None,
            error: None,
        }
    }

    fn state(&self) -> Option<RowState> {
        match self {
            Self { output: Some(_), .. } => Some(RowState::Accepted),
            Self { rejection: Some(rejection), .. } => Some(RowState::Rejected(*rejection)),
            Self { error: Some(_), .. } => Some(RowState::Failed),
            _ => None,
        }
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file cannot be opened, read or written.
    #[error(transparent)]
    Log(#[from] LineLogError),
    /// The file is something else, or was changed.
    #[error("{}:{line}: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The version of the file's form.
const FORMAT: u32 = 1;

/// Rows between two promises of the system that all is on the disk.
const SYNC_ROWS: u32 = 32;

impl Journal {
    /// Opens a journal, or makes it. With a cap, no more than that is spent by all runs together.
    ///
    /// # Errors
    ///
    /// [`JournalError`] when the file cannot be opened, is in use, or is no journal.
    pub fn open(path: impl Into<PathBuf>, cap: Option<Cost>) -> Result<Self, JournalError> {
        let path = path.into();
        let log = LineLog::open(&path)?;
        let mut inner = Inner::new(log);
        inner.replay(&path)?;
        if inner.log.end() == 0 {
            inner.check_torn_start(&path)?;
            inner.log.cut_torn_line()?;
            inner.append(&Line::Journal { format: FORMAT })?;
        } else {
            inner.log.cut_torn_line()?;
        }
        Ok(Self { cap, path, inner: Mutex::new(inner) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that all lines survive the end of the machine. It is done now and then anyway,
    /// and when a run ends.
    ///
    /// # Errors
    ///
    /// [`JournalError`] when the system cannot promise it.
    pub fn sync(&self) -> Result<(), JournalError> {
        Ok(self.inner().log.sync()?)
    }

    pub(super) fn state(&self, key: RowKey) -> Option<RowState> {
        self.inner().rows.get(&key).map(|entry| entry.state)
    }

    /// Whether it has a cap that nobody keeps to.
    pub(super) fn is_passed_over(&self) -> bool {
        self.cap.is_some() && !self.inner().is_asked
    }

    /// Writes down what became of a row.
    pub(super) fn record(&self, key: RowKey, outcome: Outcome) -> Result<(), JournalError> {
        let mut inner = self.inner();
        let start = inner.log.end();
        let state = outcome.state();
        inner.append(&Line::Row(outcome))?;
        if let Some(state) = state {
            inner.rows.insert(key, Entry { start, state });
        }
        inner.unsynced += 1;
        if inner.unsynced >= SYNC_ROWS {
            inner.unsynced = 0;
            inner.log.sync()?;
        }
        Ok(())
    }

    /// Reads outcomes again.
    pub(super) fn reader(&self) -> Result<OutcomeReader<'_>, JournalError> {
        let file = File::open(&self.path).map_err(|source| LineLogError::Io {
            action: "open",
            path: self.path.clone(),
            source,
        })?;
        Ok(OutcomeReader { journal: self, file: BufReader::new(file) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the outcomes of rows.
pub(super) struct OutcomeReader<'a> {
    journal: &'a Journal,
    file: BufReader<File>,
}

impl OutcomeReader<'_> {
    /// The outcome of a row, if it has one.
    pub(super) fn read(&mut self, key: RowKey) -> Result<Option<Outcome>, JournalError> {
        let entry = self.journal.inner().rows.get(&key).copied();
        let Some(Entry { start, .. }) = entry else { return Ok(None) };
        let mut line = Vec::new();
        let read = self.file.seek(SeekFrom::Start(start));
        let read = read.and_then(|_| self.file.read_until(b'\n', &mut line));
        read.map_err(|source| LineLogError::Io {
            action: "read",
            path: self.journal.path.clone(),
            source,
        })?;
        match serde_json::from_slice(&line) {
            Ok(Line::Row(outcome)) => Ok(Some(outcome)),
            _ => Err(JournalError::Foreign {
                path: self.journal.path.clone(),
                line: 0,
                what: "the file was changed during the run",
            }),
        }
    }
}

impl Inner {
    fn new(log: LineLog) -> Self {
        Self {
            log,
            rows: HashMap::new(),
            spent: Cost::default(),
            reserved: HashMap::new(),
            is_asked: false,
            next_call: 0,
            unsynced: 0,
        }
    }

    fn append(&mut self, line: &Line) -> Result<(), LineLogError> {
        let bytes = serde_json::to_vec(line).map_err(|error| LineLogError::Io {
            action: "write",
            path: self.log.path().to_owned(),
            source: error.into(),
        })?;
        self.log.append(&bytes)
    }

    /// Reads what earlier runs wrote.
    fn replay(&mut self, path: &Path) -> Result<(), JournalError> {
        let foreign = |line, what| JournalError::Foreign { path: path.to_owned(), line, what };
        let mut start = 0;
        for (number, bytes) in (1..).zip(self.log.lines()?) {
            let bytes = bytes?;
            let line: Line = serde_json::from_slice(&bytes)
                .map_err(|_| foreign(number, "no line of a journal of synthesis"))?;
            match line {
                Line::Journal { format: FORMAT } if number == 1 => {}
                Line::Journal { .. } => {
                    return Err(foreign(number, "a journal of another version"));
                }
                _ if number == 1 => return Err(foreign(number, "no journal of synthesis")),
                Line::Reserved { call, nanos } => self.reserved(call, Cost { nanos }),
                Line::Settled { call, nanos } => self.settled(call, Cost { nanos }),
                Line::Row(outcome) => {
                    let key = RowKey::read(&outcome.key);
                    let known = key.zip(outcome.state());
                    let (key, state) = known.ok_or(foreign(number, "a row without an outcome"))?;
                    self.rows.insert(key, Entry { start, state });
                }
            }
            start += bytes.len() as u64 + 1;
        }
        Ok(())
    }

    /// A file of one torn line is cut only if it shows that it is a journal.
    fn check_torn_start(&self, path: &Path) -> Result<(), JournalError> {
        let torn = self.log.torn_line()?;
        let first = serde_json::to_vec(&Line::Journal { format: FORMAT }).unwrap_or_default();
        match first.starts_with(&torn) {
            true => Ok(()),
            false => Err(JournalError::Foreign {
                path: path.to_owned(),
                line: 1,
                what: "no journal of synthesis",
            }),
        }
    }

    fn reserved(&mut self, call: u64, amount: Cost) {
        self.spent = self.spent + amount;
        self.reserved.insert(call, amount);
        self.next_call = self.next_call.max(call.saturating_add(1));
    }

    fn settled(&mut self, call: u64, amount: Cost) {
        let reserved = self.reserved.remove(&call).unwrap_or_default();
        self.spent = Cost { nanos: self.spent.nanos.saturating_sub(reserved.nanos) } + amount;
    }
}

fn unwritten(error: &LineLogError) -> LedgerError {
    LedgerError::Unwritten(match error {
        LineLogError::Io { source, .. } => source.kind(),
        LineLogError::InUse { .. } => std::io::ErrorKind::WouldBlock,
    })
}

/// The reservation of what costs nothing.
const FREE: Reservation = Reservation(u64::MAX);

impl Ledger for Journal {
    fn reserve(&self, amount: Cost) -> Result<Reservation, LedgerError> {
        let mut inner = self.inner();
        inner.is_asked = true;
        if self.cap.is_some_and(|cap| amount > cap) {
            return Err(LedgerError::TooExpensive);
        }
        if self.cap.is_some_and(|cap| inner.spent + amount > cap) {
            return Err(LedgerError::CapReached);
        }
        if amount == Cost::default() {
            return Ok(FREE);
        }
        let call = inner.next_call;
        inner
            .append(&Line::Reserved { call, nanos: amount.nanos })
            .map_err(|error| unwritten(&error))?;
        inner.reserved(call, amount);
        Ok(Reservation(call))
    }

    fn settle(&self, reservation: Reservation, spent: Cost) -> Result<(), LedgerError> {
        let Reservation(call) = reservation;
        if reservation == FREE {
            return Ok(());
        }
        let mut inner = self.inner();
        inner
            .append(&Line::Settled { call, nanos: spent.nanos })
            .map_err(|error| unwritten(&error))?;
        inner.settled(call, spent);
        Ok(())
    }

    fn spent(&self) -> Cost {
        self.inner().spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(key: RowKey, output: Option<&str>) -> Outcome {
        Outcome {
            key: key.to_string(),
            source: "s".to_owned(),
            id: "1".to_owned(),
            output: output.map(str::to_owned),
            rejection: output.is_none().then_some(Rejection::WrongLabel(guard_core::Task::Request)),
            reply: None,
            error: None,
        }
    }

    #[test]
    fn rows_and_spending_survive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let (one, two) = (RowKey([1; 16]), RowKey([2; 16]));
        let cap = Some(Cost { nanos: 100 });
        let journal = Journal::open(&path, cap).unwrap();
        journal.record(one, outcome(one, Some("first"))).unwrap();
        journal.record(two, outcome(two, None)).unwrap();
        let settled = journal.reserve(Cost { nanos: 60 }).unwrap();
        assert_eq!(journal.reserve(Cost { nanos: 41 }), Err(LedgerError::CapReached));
        assert_eq!(journal.reserve(Cost { nanos: 101 }), Err(LedgerError::TooExpensive));
        journal.settle(settled, Cost { nanos: 10 }).unwrap();
        journal.reserve(Cost { nanos: 50 }).unwrap();
        assert!(matches!(
            Journal::open(&path, cap),
            Err(JournalError::Log(LineLogError::InUse { .. }))
        ));
        drop(journal);

        // Killed: a line is torn, and 50 are reserved for ever.
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"kind\":\"row\",\"key\"")).unwrap();
        let journal = Journal::open(&path, cap).unwrap();
        assert_eq!(journal.spent(), Cost { nanos: 60 });
        assert_eq!(journal.state(one), Some(RowState::Accepted));
        let rejected = RowState::Rejected(Rejection::WrongLabel(guard_core::Task::Request));
        assert_eq!(journal.state(two), Some(rejected));
        let read = journal.reader().unwrap().read(one).unwrap().unwrap();
        assert_eq!(read.output.as_deref(), Some("first"));
        assert_eq!(journal.reserve(Cost { nanos: 41 }), Err(LedgerError::CapReached));
        let next = journal.reserve(Cost { nanos: 40 }).unwrap();
        assert_eq!(next, Reservation(2), "no number is used twice");
        journal.record(two, outcome(two, Some("later"))).unwrap();
        assert_eq!(journal.state(two), Some(RowState::Accepted));
        drop(journal);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(&whole), "nothing was lost");
    }

    #[test]
    fn a_free_service_writes_no_spending() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().join("j"), None).unwrap();
        let free = journal.reserve(Cost::default()).unwrap();
        journal.settle(free, Cost::default()).unwrap();
        assert_eq!(std::fs::read_to_string(journal.path()).unwrap().lines().count(), 1);
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        let line = r#"{"kind":"journal","format":1}"#;
        let bad = [
            "a text".to_owned(),
            "a text\n".to_owned(),
            "{}\n".to_owned(),
            r#"{"kind":"journal","format":2}"#.to_owned() + "\n",
            r#"{"kind":"reserved","call":1,"nanos":1}"#.to_owned() + "\n",
            format!("{line}\nnonsense\n"),
            format!("{line}\n{{\"kind\":\"row\",\"key\":\"x\",\"source\":\"s\",\"id\":\"1\"}}\n"),
        ];
        for text in bad {
            std::fs::write(&path, &text).unwrap();
            assert!(
                matches!(Journal::open(&path, None), Err(JournalError::Foreign { .. })),
                "{text}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, &line[..9]).unwrap();
        assert!(Journal::open(&path, None).is_ok(), "torn when it was made");
    }
}
