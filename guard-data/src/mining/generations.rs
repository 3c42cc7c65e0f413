//! Several texts for each sample, in files that a stopped run goes on with.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use guard_core::{
    Completed, Finish, GenerateOptions, INSTRUCTION, Prompt, PromptStyle, TextGenerator,
};
use serde::{Deserialize, Serialize};

use super::pair::{encoded, replace};
use super::{Generations, MiningError};
use crate::line_log::{LineLog, LineLogError};
use crate::observer::{Observer, Progress};
use crate::reasoned::ReasonedSample;

/// The files of one set: one for each number of a sample, as the reference lays them out, each with
/// a line `prompt`, `label`, `predict` for every row.
///
/// They are written side by side and locked. A run that was killed goes on with the first row that
/// does not have all its texts.
#[derive(Debug)]
pub struct GenerationFiles {
    logs: Vec<LineLog>,
    /// The rows that have all their texts.
    done: u64,
}

/// What a run of generation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationRun {
    /// All rows that have texts now.
    pub rows: u64,
    /// Those that an earlier run had made.
    pub resumed: u64,
    /// Rows of this run on which the generator failed: their texts are empty.
    pub failed: u64,
    /// Tokens that were written in this run.
    pub completion_tokens: u64,
}

/// A line of a file.
#[derive(Serialize, Deserialize)]
struct Line {
    prompt: String,
    label: String,
    predict: String,
    finish: Option<Finish>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What all lines of the files have in common.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    model: String,
    samples: usize,
    seed: u64,
    sampling: String,
    max_tokens: usize,
}

impl GenerationFiles {
    /// Opens the files `NAME_0.jsonl` and so on in a folder, or makes them. `model` tells this run
    /// from those of other models.
    ///
    /// # Errors
    ///
    /// [`MiningError`] when they cannot be opened, are in use, or were made by another model or with
    /// other options (`NAME.json` tells which).
    pub fn open(
        folder: impl AsRef<Path>,
        name: &str,
        model: &str,
        options: &GenerateOptions,
    ) -> Result<Self, MiningError> {
        options.validate()?;
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder)
            .map_err(|error| MiningError::io("create", folder, error))?;
        let paths =
            (0..options.samples).map(|sample| folder.join(format!("{name}_{sample}.jsonl")));
        let logs = paths.map(LineLog::open).collect::<Result<Vec<_>, _>>()?;
        let manifest = Manifest {
            model: model.to_owned(),
            samples: options.samples,
            seed: options.seed,
            sampling: format!("{:?}", options.sampling),
            max_tokens: options.max_tokens,
        };
        manifest.check(&folder.join(format!("{name}.json")), logs.iter().all(LineLog::is_empty))?;
        let mut files = Self { logs, done: 0 };
        files.align()?;
        Ok(files)
    }

    /// Cuts the files to the rows that are in all of them.
    fn align(&mut self) -> Result<(), MiningError> {
        let mut ends = Vec::new();
        for log in &self.logs {
            let mut end = 0;
            let mut of_file = vec![0];
            for line in log.lines()? {
                end += line?.len() as u64 + 1;
                of_file.push(end);
            }
            ends.push(of_file);
        }
        let done = ends.iter().map(|of_file| of_file.len() - 1).min().unwrap_or(0);
        for (log, of_file) in self.logs.iter_mut().zip(ends) {
            log.cut_to(of_file[done])?;
        }
        self.done = done as u64;
        Ok(())
    }

    /// The rows that have all their texts.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.logs.iter().map(LineLog::path)
    }

    /// Generates texts for the rows that have none yet, `batch` rows at a time.
    ///
    /// # Errors
    ///
    /// [`MiningError::Foreign`] when the files hold texts for other rows, [`MiningError::Stopped`]
    /// when the observer ended the run, and others when a file cannot be written. A row on which
    /// the generator fails is no error: it is recorded without text.
    pub fn generate<G: TextGenerator>(
        &mut self,
        rows: &[ReasonedSample],
        generator: &G,
        options: &GenerateOptions,
        batch: usize,
        observer: &mut dyn Observer,
    ) -> Result<GenerationRun, MiningError>
    where
        G::Error: std::fmt::Display,
    {
        self.check_rows(rows)?;
        let mut run = GenerationRun { resumed: self.done, ..GenerationRun::default() };
        let total = rows.len() as u64;
        let left = usize::try_from(self.done).unwrap_or(usize::MAX);
        for rows in rows.get(left..).unwrap_or_default().chunks(batch.max(1)) {
            let prompts: Vec<Prompt> = rows.iter().map(prompt).collect();
            for (row, result) in rows.iter().zip(generator.generate(&prompts, options)) {
                run.failed += u64::from(result.is_err());
                run.completion_tokens += self.write(row, result)?;
                self.done += 1;
            }
            let progress = Progress::new("generating", self.done, Some(total));
            if observer.on_progress(&progress) == ControlFlow::Break(()) {
                return Err(MiningError::Stopped { done: self.done });
            }
        }
        run.rows = self.done;
        Ok(run)
    }

    /// Writes the texts of a row, and says how many tokens they have.
    fn write<E: std::fmt::Display>(
        &mut self,
        row: &ReasonedSample,
        result: Result<Vec<Completed>, E>,
    ) -> Result<u64, MiningError> {
        let (texts, error) = match result {
            Ok(texts) => (texts, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        for (sample, log) in self.logs.iter_mut().enumerate() {
            let text = texts.get(sample);
            let line = Line {
                prompt: text_of(row),
                label: row.output.clone(),
                predict: text.map(|text| text.text.clone()).unwrap_or_default(),
                finish: text.map(|text| text.finish),
                error: error.clone(),
            };
            log.append(&encoded(log.path(), serde_json::to_vec(&line))?)?;
        }
        Ok(texts.iter().map(|text| text.usage.completion_tokens as u64).sum())
    }

    /// Checks that the texts so far are of these rows.
    fn check_rows(&self, rows: &[ReasonedSample]) -> Result<(), MiningError> {
        let Some(log) = self.logs.first() else { return Ok(()) };
        for (number, line) in (1..).zip(log.lines()?) {
            let line = read_line(log.path(), number, &line?)?;
            let row = usize::try_from(number).ok().and_then(|number| rows.get(number - 1));
            if row.is_none_or(|row| text_of(row) != line.prompt) {
                let what = "the text is for another row than this run's";
                return Err(foreign(log.path(), number, what));
            }
        }
        Ok(())
    }

    /// The rows with their texts.
    ///
    /// # Errors
    ///
    /// [`MiningError`] when the run has not ended, or a line cannot be read.
    pub fn read(
        &self,
        rows: Vec<ReasonedSample>,
    ) -> Result<impl Iterator<Item = Result<Generations, MiningError>>, MiningError> {
        if self.done < rows.len() as u64 {
            let path = self.logs.first().map(|log| log.path().to_owned()).unwrap_or_default();
            return Err(MiningError::Unfinished {
                path,
                expected: rows.len() as u64,
                found: self.done,
            });
        }
        self.check_rows(&rows)?;
        let open = |log: &LineLog| Ok((log.path().to_owned(), log.lines()?));
        let mut files = self.logs.iter().map(open).collect::<Result<Vec<_>, MiningError>>()?;
        Ok((1..).zip(rows).map(move |(number, row)| {
            let text = |(path, lines): &mut (PathBuf, _)| next_text(path, number, lines);
            let texts = files.iter_mut().map(text).collect::<Result<Vec<_>, _>>()?;
            Ok(Generations::new(row, texts))
        }))
    }
}

/// What the model reads: the instruction, a newline and the input, as the published weights were
/// sampled.
fn prompt(row: &ReasonedSample) -> Prompt {
    match row.exchange() {
        Some(exchange) if row.instruction == INSTRUCTION => {
            PromptStyle::Benchmark.render(&exchange)
        }
        // Words that are not ours are never control tokens.
        _ => Prompt::text(text_of(row)),
    }
}

fn text_of(row: &ReasonedSample) -> String {
    format!("{}\n{}", row.instruction, row.input)
}

fn foreign(path: &Path, line: u64, what: &'static str) -> MiningError {
    MiningError::Foreign { path: path.to_owned(), line, what }
}

/// The text of the next line; the files are known to have one.
fn next_text(
    path: &Path,
    number: u64,
    lines: &mut impl Iterator<Item = Result<Vec<u8>, LineLogError>>,
) -> Result<String, MiningError> {
    let line = lines.next().ok_or_else(|| foreign(path, number, "the line is gone"))??;
    Ok(read_line(path, number, &line)?.predict)
}

fn read_line(path: &Path, number: u64, line: &[u8]) -> Result<Line, MiningError> {
    serde_json::from_slice(line)
        .map_err(|_| foreign(path, number, "its fields are not those of a generation"))
}

impl Manifest {
    /// Checks that the files are of this run, or writes down that they are to be.
    fn check(&self, path: &Path, is_new: bool) -> Result<(), MiningError> {
        if is_new {
            return replace(path, &encoded(path, serde_json::to_vec_pretty(self))?);
        }
        let bytes = std::fs::read(path).map_err(|error| MiningError::io("read", path, error))?;
        let found: Option<Self> = serde_json::from_slice(&bytes).ok();
        match found {
            Some(found) if found == *self => Ok(()),
            _ => Err(foreign(
                path,
                1,
                "the generations are of another model, or made with other options",
            )),
        }
    }
}
