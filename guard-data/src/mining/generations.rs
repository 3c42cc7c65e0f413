//! Several texts for each sample, in files that a stopped run goes on with.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use guard_core::{
    Completed, Finish, GenerateOptions, Prompt, PromptStyle, ReasoningMode, TextGenerator,
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
/// does not have all its texts. It then groups rows otherwise than a run that was not, which can change
/// how a model rounds, and so a text.
#[derive(Debug)]
pub struct GenerationFiles {
    logs: Vec<LineLog>,
    options: GenerateOptions,
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
#[serde(deny_unknown_fields)]
struct Manifest {
    model: String,
    options: String,
}

/// Rows in a row without a text that end a run: the generator is at fault, and not the rows.
const GIVEN_UP: usize = 16;

impl GenerationFiles {
    /// Opens the files `NAME_0.jsonl` and so on in a folder, or makes them. `model` tells this run
    /// from those of other models.
    ///
    /// # Errors
    ///
    /// [`MiningError`] when they cannot be opened, are in use, or were made by another model or with
    /// other options (`NAME.generations.json` tells which).
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
        let manifest = Manifest { model: model.to_owned(), options: format!("{options:?}") };
        let is_new = logs.iter().all(LineLog::is_empty);
        manifest.check(&folder.join(format!("{name}.generations.json")), is_new)?;
        let mut files = Self { logs, options: options.clone(), done: 0 };
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

    /// Generates texts for the rows that have none yet, `batch` rows at a time, with the options that
    /// the files were opened with.
    ///
    /// # Errors
    ///
    /// [`MiningError::Foreign`] when the files hold texts for other rows, [`MiningError::Stopped`]
    /// when the observer ended the run, and others when a file cannot be written. A row on which
    /// the generator fails is no error: it is recorded without text. But where it fails on 16 rows in a
    /// row, or gives another number of texts than it was asked for, that is
    /// [`MiningError::Generator`], and the rows stay to be done.
    pub fn generate<G: TextGenerator>(
        &mut self,
        rows: &[ReasonedSample],
        generator: &G,
        batch: usize,
        observer: &mut dyn Observer,
    ) -> Result<GenerationRun, MiningError>
    where
        G::Error: std::fmt::Display,
    {
        // What a failed run may have left uneven.
        self.align()?;
        self.check_rows(rows)?;
        let mut run = GenerationRun { resumed: self.done, ..GenerationRun::default() };
        let total = rows.len() as u64;
        let left = usize::try_from(self.done).unwrap_or(usize::MAX);
        // Rows without a text are written when a later one has some.
        let mut held = Vec::new();
        for rows in rows.get(left..).unwrap_or_default().chunks(batch.max(1)) {
            let prompts: Vec<Prompt> = rows.iter().map(prompt).collect();
            let results = generator.generate(&prompts, &self.options);
            self.check_count("results", rows.len(), results.len())?;
            for (row, result) in rows.iter().zip(results) {
                match result {
                    Err(error) => held.push((row, error.to_string())),
                    Ok(texts) => {
                        self.write_failed(&mut held, &mut run)?;
                        self.check_count("texts", self.options.samples, texts.len())?;
                        run.completion_tokens += tokens(&texts);
                        self.write(row, &texts, None)?;
                    }
                }
                if held.len() >= GIVEN_UP {
                    let (_, message) = held.swap_remove(0);
                    return Err(MiningError::Generator { message });
                }
            }
            let progress = Progress::new("generating", self.done, Some(total));
            if observer.on_progress(&progress) == ControlFlow::Break(()) {
                return Err(MiningError::Stopped { done: self.done });
            }
        }
        self.write_failed(&mut held, &mut run)?;
        run.rows = self.done;
        Ok(run)
    }

    fn check_count(&self, what: &str, expected: usize, found: usize) -> Result<(), MiningError> {
        if expected == found {
            return Ok(());
        }
        let message = format!("{found} {what} where {expected} were asked for");
        Err(MiningError::Generator { message })
    }

    /// Writes rows on which the generator failed.
    fn write_failed(
        &mut self,
        rows: &mut Vec<(&ReasonedSample, String)>,
        run: &mut GenerationRun,
    ) -> Result<(), MiningError> {
        for (row, error) in rows.drain(..) {
            run.failed += 1;
            self.write(row, &[], Some(&error))?;
        }
        Ok(())
    }

    /// Writes the texts of a row.
    fn write(
        &mut self,
        row: &ReasonedSample,
        texts: &[Completed],
        error: Option<&String>,
    ) -> Result<(), MiningError> {
        for (sample, log) in self.logs.iter_mut().enumerate() {
            let text = texts.get(sample);
            let line = Line {
                prompt: text_of(row),
                label: row.output.clone(),
                predict: text.map(|text| text.text.clone()).unwrap_or_default(),
                finish: text.map(|text| text.finish),
                error: error.cloned(),
            };
            log.append(&encoded(log.path(), serde_json::to_vec(&line))?)?;
        }
        self.done += 1;
        Ok(())
    }

    /// Checks that the texts so far are of these rows, as far as there are both.
    fn check_rows(&self, rows: &[ReasonedSample]) -> Result<(), MiningError> {
        let Some(log) = self.logs.first() else { return Ok(()) };
        for ((number, line), row) in (1..).zip(log.lines()?).zip(rows) {
            let line = read_line(log.path(), number, &line?)?;
            check_row(log.path(), number, &line, row)?;
        }
        Ok(())
    }

    /// The rows with their texts. There may be texts of further rows.
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
        let open = |log: &LineLog| Ok((log.path().to_owned(), log.lines()?));
        let mut files = self.logs.iter().map(open).collect::<Result<Vec<_>, MiningError>>()?;
        Ok((1..).zip(rows).map(move |(number, row)| {
            let text = |(path, lines): &mut (PathBuf, _)| next_text(path, number, &row, lines);
            let texts = files.iter_mut().map(text).collect::<Result<Vec<_>, _>>()?;
            Ok(Generations::new(row, texts))
        }))
    }
}

/// What the model reads. The instruction tells in which style it is asked, raw ones as the published
/// weights were sampled: the instruction, a newline and the input.
fn prompt(row: &ReasonedSample) -> Prompt {
    let asked = [PromptStyle::Benchmark, PromptStyle::Compact]
        .into_iter()
        .flat_map(|style| ReasoningMode::ALL.map(|mode| (style, mode)))
        .find(|(style, mode)| row.instruction == style.instruction(*mode));
    match (row.exchange(), asked) {
        (Some(exchange), Some((style, mode))) => style.render_mode(&exchange, mode),
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
    row: &ReasonedSample,
    lines: &mut impl Iterator<Item = Result<Vec<u8>, LineLogError>>,
) -> Result<String, MiningError> {
    let line = lines.next().ok_or_else(|| foreign(path, number, "the line is gone"))??;
    let line = read_line(path, number, &line)?;
    check_row(path, number, &line, row)?;
    Ok(line.predict)
}

fn check_row(
    path: &Path,
    number: u64,
    line: &Line,
    row: &ReasonedSample,
) -> Result<(), MiningError> {
    match text_of(row) == line.prompt {
        true => Ok(()),
        false => Err(foreign(path, number, "the text is for another row than this run's")),
    }
}

fn tokens(texts: &[Completed]) -> u64 {
    texts.iter().map(|text| text.usage.completion_tokens as u64).sum()
}

fn read_line(path: &Path, number: u64, line: &[u8]) -> Result<Line, MiningError> {
    serde_json::from_slice(line)
        .map_err(|_| foreign(path, number, "its fields are not those of a generation"))
}

impl Manifest {
    /// Checks that the files are of this run, or writes down that they are to be.
    fn check(&self, path: &Path, is_new: bool) -> Result<(), MiningError> {
        // A file of somebody else's that happens to have this name is not replaced.
        if is_new && !path.exists() {
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
