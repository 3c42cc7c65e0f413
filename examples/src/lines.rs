//! JSON lines in and out: one record a line, a bad line told by its number, runs that go on
//! where they were stopped.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use guard_data::LineLog;
use guard_infer::guard_core::{is_hidden, visible};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The result of an example.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 16 << 20;

/// A line of a file that is not empty.
#[derive(Debug)]
pub struct Line<T> {
    /// Its number, from 1.
    pub number: u64,
    /// What it holds, or the reason why it is no record.
    pub record: Result<T, String>,
}

/// Reads a file of JSON lines, or standard input for `-`. Empty lines are left out.
///
/// # Errors
///
/// When the file cannot be opened or read.
pub fn read<T: DeserializeOwned>(path: &Path) -> Outcome<Vec<Line<T>>> {
    let mut reader: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(open(path)?)),
    };
    let mut records = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| number == 1).unwrap_or(&line);
        let record = if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
            reader.skip_until(b'\n')?;
            Err(format!("line {number} is longer than {MAX_LINE} bytes"))
        } else if text.trim_ascii().is_empty() {
            continue;
        } else {
            serde_json::from_slice(text).map_err(|error| format!("line {number}: {error}"))
        };
        records.push(Line { number, record });
    }
    Ok(records)
}

/// All strings of a file of JSON lines, in order.
///
/// # Errors
///
/// When the file cannot be read, or a line is no JSON.
pub fn strings(path: &Path) -> Outcome<Vec<String>> {
    fn collect(value: Value, texts: &mut Vec<String>) {
        match value {
            Value::String(text) => texts.push(text),
            Value::Array(values) => values.into_iter().for_each(|value| collect(value, texts)),
            Value::Object(fields) => {
                fields.into_iter().for_each(|(_, value)| collect(value, texts))
            }
            _ => {}
        }
    }
    let mut texts = Vec::new();
    for line in read::<Value>(path)? {
        let value = line.record.map_err(|error| format!("{}: {error}", path.display()))?;
        collect(value, &mut texts);
    }
    Ok(texts)
}

fn open(path: &Path) -> Outcome<File> {
    File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()).into())
}

/// Where JSON lines go.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Terminal,
    /// A file that a stopped run goes on with.
    File(LineLog),
}

/// Opens a file of JSON lines to add to, and says how many whole lines it has. A torn last line
/// is cut off. Standard output, for no path, is always empty.
///
/// `field` is a field that every record of the program has: a file with other lines is not this
/// program's, and is left alone. So is the file that `input` names.
///
/// # Errors
///
/// When the file cannot be opened, read or cut, holds something else, or is the input.
pub fn resume(path: Option<&Path>, input: &Path, field: &str) -> Outcome<(Output, usize)> {
    let Some(path) = path else { return Ok((Output::Terminal, 0)) };
    if let (Ok(input), Ok(output)) = (input.canonicalize(), path.canonicalize())
        && input == output
    {
        return Err(format!("{} is both input and output", path.display()).into());
    }
    let mut log = LineLog::open(path)?;
    let mut done = 0;
    for line in log.lines()? {
        done += 1;
        let record = serde_json::from_slice::<serde_json::Value>(&line?).unwrap_or_default();
        if record.get(field).is_none() {
            let path = path.display();
            return Err(format!(
                "line {done} of {path} is no earlier output, so nothing is added to it"
            )
            .into());
        }
    }
    // A single torn line is cut only if it shows that it is ours.
    let ours = String::from_utf8_lossy(&log.torn_line()?).contains(&format!("\"{field}\""));
    if done == 0 && !log.is_empty() && !ours {
        return Err(format!("{} is no earlier output", path.display()).into());
    }
    log.cut_torn_line()?;
    Ok((Output::File(log), done))
}

impl Output {
    /// Writes one record and makes sure that it is out.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write<T: Serialize>(&mut self, record: &T) -> Outcome<()> {
        let line = escaped(&serde_json::to_string(record)?);
        match self {
            Self::Terminal => print(&format!("{line}\n")),
            Self::File(log) => Ok(log.append(line.as_bytes())?),
        }
    }
}

/// The same JSON with characters that could steer a terminal, or hide text from its reader,
/// escaped. They can only stand inside strings.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Prints text, unless nobody reads it any more.
///
/// # Errors
///
/// When it cannot be written, but for a closed pipe.
pub fn print(text: &str) -> Outcome<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An error and what caused it, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| match cause.to_string() {
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// Tells on standard error how work goes on.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(text));
}

/// Tells on standard error what went wrong without ending the program.
pub fn warn(error: &dyn Error) {
    let _ = writeln!(io::stderr(), "warning: {}", visible(&chain(error)));
}

/// The exit code for what has come of an example; an error is told.
#[must_use]
pub fn exit(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

/// Tells an error, which may quote a hostile file, on standard error and returns the exit code for it.
#[must_use]
pub fn fail(error: &dyn Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {}", visible(&chain(error)));
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_told_by_number_and_the_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, b"\xef\xbb\xbf1\r\n\nx\n\"\\ud800\"\n\xff\n2").unwrap();
        let records = read::<u32>(&path).unwrap();
        assert_eq!(records.len(), 5);
        assert_eq!((&records[0].record, &records[4].record), (&Ok(1), &Ok(2)));
        assert_eq!(records[4].number, 6);
        assert!(records[1].record.as_ref().unwrap_err().starts_with("line 3: "));
        assert!(records[2].record.as_ref().unwrap_err().starts_with("line 4: "));
        let long = [b"1\n\"".as_slice(), &vec![b'x'; 17 << 20], b"\"\n2\n"].concat();
        std::fs::write(&path, long).unwrap();
        let records = read::<u32>(&path).unwrap();
        let numbers: Vec<u64> = records.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(records[1].record.is_err() && records[2].record == Ok(2));
    }

    #[test]
    fn a_torn_line_is_cut_and_the_rest_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        std::fs::write(&path, "{\"a\":1}\n{\"a\":2}\n{\"half").unwrap();
        let (mut out, done) = resume(Some(&path), Path::new("-"), "a").unwrap();
        assert_eq!(done, 2);
        out.write(&serde_json::json!({"a": 3})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    }

    #[test]
    fn the_input_is_never_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdicts.jsonl");
        std::fs::write(&path, "{\"action\":1}\n").unwrap();
        let other = folder.path().join(".").join("verdicts.jsonl");
        let error = resume(Some(&path), &other, "action").err().unwrap();
        assert!(error.to_string().ends_with("is both input and output"), "{error}");
    }

    #[test]
    fn json_cannot_steer_a_terminal_and_stays_the_same_value() {
        let hostile = "\u{9b}2J\u{202e}txt\u{7f}\u{e0041}\u{200b}\n\"é";
        let line = escaped(&serde_json::to_string(hostile).unwrap());
        assert_eq!(line.trim_end().chars().filter(|c| is_hidden(*c)).count(), 0);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), hostile);
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious.jsonl");
        for text in ["{\"prompt\":1}\n{\"prompt\":2}", "a text\n", "a text", "{\"prompt\":1}"] {
            std::fs::write(&path, text).unwrap();
            assert!(resume(Some(&path), Path::new("-"), "action").is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
