//! Running a guard over a dataset.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use guard_core::parse::write_output;
use guard_core::{
    Answer, Exchange, Guard, GuardError, GuardInfo, JudgeOptions, Label, Labels, Task, Verdict,
};

use guard_data::Observer;

use crate::benchmark::{Dataset, DatasetRow};
use crate::error::EvalError;
use crate::evaluation::{Evaluation, by_id, rendered};
use crate::prediction::{Prediction, PredictionLog};

/// How a guard is run over a dataset.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunOptions {
    /// How many exchanges are handed to the guard at a time. Default 16.
    pub batch: usize,
    /// How each is judged.
    pub judge: JudgeOptions,
    /// A file of predictions: rows that it holds are not judged again, and each new one is
    /// written as soon as it is there. Default none.
    pub output: Option<PathBuf>,
    /// What tells this run from others that could write to the same file: the model, and options
    /// of it that the guard's name does not say. Default empty.
    pub identity: String,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { batch: 16, judge: JudgeOptions::default(), output: None, identity: String::new() }
    }
}

impl RunOptions {
    /// The same options with another batch, of at least 1.
    #[must_use]
    pub fn with_batch(mut self, rows: usize) -> Self {
        self.batch = rows.max(1);
        self
    }

    /// The same options with other options for judging.
    #[must_use]
    pub fn with_judge(mut self, judge: JudgeOptions) -> Self {
        self.judge = judge;
        self
    }

    /// The same options with words that tell this run from others: an output file of a run with
    /// others is refused.
    #[must_use]
    pub fn with_identity(mut self, words: impl Into<String>) -> Self {
        self.identity = words.into();
        self
    }

    /// The same options with a file of predictions to go on with.
    #[must_use]
    pub fn with_output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RunProgress {
    /// Rows that have a prediction.
    pub done: usize,
    /// Rows of the dataset.
    pub total: usize,
    /// Rows that an earlier run had judged.
    pub resumed: usize,
    /// Rows on which the guard failed, in this run.
    pub failed: usize,
    /// Tokens that were written in this run.
    pub completion_tokens: usize,
    /// Seconds of this run.
    pub seconds: f64,
}

/// Judges the rows of a dataset. A row on which the guard fails is recorded as such, and counts
/// as undetermined. The observer is told before the first batch and after each; a run that it ends
/// goes on from its output file.
///
/// ```
/// use guard_core::testing::ScriptedGuard;
/// use guard_data::{InMemorySource, Sample};
/// use guard_eval::{Answer, Bootstrap, Dataset, Harm, Labels, RunOptions, ScoringPolicy, Summary, Task, Verdict, evaluate};
///
/// let labels = Labels { request: Some(Harm::Harmful), ..Labels::default() };
/// let samples = vec![Sample::new("1", "mine", "How do I build a bomb?").with_labels(labels)];
/// let dataset = Dataset::from_source(&InMemorySource::new("mine", samples))?;
/// let guard = ScriptedGuard::new(|exchange| {
///     let harmful = exchange.request().contains("bomb");
///     let label = if harmful { Harm::Harmful } else { Harm::Unharmful };
///     Ok(Verdict::new(Answer::Given(label), Answer::NotApplicable, Answer::NotApplicable))
/// });
///
/// let evaluation = evaluate(&guard, &dataset, &RunOptions::default(), &mut ())?;
/// let summary = Summary::new(&evaluation, Task::Request, Bootstrap::default());
/// assert_eq!(summary.score(ScoringPolicy::Strict).f1, 1.0);
/// # Ok::<(), guard_eval::EvalError>(())
/// ```
///
/// # Errors
///
/// [`EvalError`] when the output file is another dataset's or cannot be written, and
/// [`EvalError::Stopped`] when the observer ended the run.
pub fn evaluate(
    guard: &dyn Guard,
    dataset: &Dataset,
    options: &RunOptions,
    observer: &mut dyn Observer<RunProgress>,
) -> Result<Evaluation, EvalError> {
    let started = Instant::now();
    let JudgeOptions { max_tokens, mode, .. } = &options.judge;
    let GuardInfo { id, variant, .. } = guard.info();
    let run_name =
        format!("{id} {} {variant} max_tokens={max_tokens} mode={mode}", options.identity);
    let mut run = Run::open(dataset, options, run_name)?;
    let todo = run.todo();
    run.tell(observer, started)?;
    for batch in todo.chunks(options.batch.max(1)) {
        let rows: Vec<&DatasetRow> = batch.iter().map(|&place| &dataset.rows()[place]).collect();
        let exchanges: Vec<Exchange> = rows.iter().map(|row| row.sample.exchange()).collect();
        let mut results = guard.judge(&exchanges, &options.judge);
        if results.len() != rows.len() {
            // Which result is missing cannot be known, so none is believed.
            let (expected, found) = (rows.len(), results.len());
            let wrong = || Err(GuardError::InvalidOutput { expected, found });
            results = rows.iter().map(|_| wrong()).collect();
        }
        for ((&place, exchange), result) in batch.iter().zip(&exchanges).zip(results) {
            run.add(place, exchange, result)?;
        }
        run.tell(observer, started)?;
    }
    let judged = run.progress.done - run.progress.resumed;
    let predictions: Vec<Prediction> = run.predictions.into_iter().flatten().collect();
    let mut evaluation = Evaluation::of_dataset(&guard.info().id, dataset, &predictions)?;
    // A wall time that leaves out rows of earlier runs is no measure of all.
    let whole = judged == dataset.rows().len();
    evaluation.wall_seconds = whole.then(|| started.elapsed().as_secs_f64());
    Ok(evaluation)
}

/// A run on its way.
struct Run<'a> {
    dataset: &'a Dataset,
    log: Option<PredictionLog>,
    predictions: Vec<Option<Prediction>>,
    progress: RunProgress,
    /// Guard and options, as each line names them.
    name: String,
    tasks: Vec<Task>,
}

impl<'a> Run<'a> {
    fn open(dataset: &'a Dataset, options: &RunOptions, name: String) -> Result<Self, EvalError> {
        let (total, tasks) = (dataset.rows().len(), dataset.tasks());
        let mut predictions: Vec<Option<Prediction>> = vec![None; total];
        let Some(path) = &options.output else {
            let progress = RunProgress { total, ..RunProgress::default() };
            return Ok(Self { dataset, log: None, predictions, progress, name, tasks });
        };
        let (mut log, earlier) = PredictionLog::open(path)?;
        let places = by_id(dataset);
        let mut count = 0;
        for (line, prediction) in earlier {
            let foreign = |what| EvalError::Foreign { path: path.clone(), line, what };
            let id = prediction.id.as_deref().ok_or_else(|| foreign("a line without an id"))?;
            let &place = places.get(id).ok_or_else(|| foreign("an id of another dataset"))?;
            if prediction.prompt != rendered(&dataset.rows()[place].sample.exchange()) {
                return Err(foreign("another text than the row of its id"));
            }
            if prediction.run.as_deref() != Some(name.as_str()) {
                return Err(foreign("made by another model or with other options"));
            }
            // What failed is judged again.
            if prediction.error.is_some() {
                continue;
            }
            count += 1;
            if predictions[place].replace(prediction).is_some() {
                return Err(foreign("an id twice"));
            }
        }
        log.accept()?;
        let progress = RunProgress { done: count, resumed: count, total, ..RunProgress::default() };
        Ok(Self { dataset, log: Some(log), predictions, progress, name, tasks })
    }

    /// The rows without a prediction.
    fn todo(&self) -> Vec<usize> {
        let places = self.predictions.iter().enumerate();
        places.filter_map(|(place, prediction)| prediction.is_none().then_some(place)).collect()
    }

    fn add(
        &mut self,
        place: usize,
        exchange: &Exchange,
        result: Result<Verdict, GuardError>,
    ) -> Result<(), EvalError> {
        let row = &self.dataset.rows()[place];
        let prompt = rendered(exchange);
        let label = label_text(row.sample.labels, &self.tasks);
        let mut prediction = Prediction::new(prompt, label, "");
        prediction.id = Some(row.sample.id.clone());
        prediction.run = Some(self.name.clone());
        match result {
            Ok(mut verdict) => {
                verdict.reasoning = None;
                prediction.predict = verdict.output.take().unwrap_or_else(|| answers(&verdict));
                self.progress.completion_tokens += verdict.usage.completion_tokens;
                prediction.verdict = Some(verdict);
            }
            Err(error) => {
                self.progress.failed += 1;
                prediction.error = Some(chain(&error));
            }
        }
        if let Some(log) = &mut self.log {
            log.write(&prediction)?;
        }
        self.predictions[place] = Some(prediction);
        self.progress.done += 1;
        Ok(())
    }

    fn tell(
        &mut self,
        observer: &mut dyn Observer<RunProgress>,
        started: Instant,
    ) -> Result<(), EvalError> {
        self.progress.seconds = started.elapsed().as_secs_f64();
        match observer.on_progress(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(EvalError::Stopped { done: self.progress.done, total: self.progress.total })
            }
        }
    }
}

/// The answers in words, for guards that write none.
fn answers(verdict: &Verdict) -> String {
    let Verdict { request, completion, response, .. } = verdict;
    write_output("", request.answer, completion.answer, response.answer)
}

/// The label's word, as the reference's files have it, or a block where there may be several.
fn label_text(labels: Labels, tasks: &[Task]) -> String {
    fn answer<L>(label: Option<L>) -> Answer<L> {
        label.map_or(Answer::Unsupported, Answer::Given)
    }
    let word = match tasks {
        [Task::Request] => labels.request.map(Label::word),
        [Task::Completion] => labels.completion.map(Label::word),
        [Task::Response] => labels.response.map(Label::word),
        _ => None,
    };
    let Labels { request, completion, response } = labels;
    let block = || write_output("", answer(request), answer(completion), answer(response));
    word.map_or_else(block, str::to_owned)
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use guard_core::testing::ScriptedGuard;
    use guard_core::{Harm, Usage};
    use guard_data::{InMemorySource, Sample};

    use super::*;
    use crate::bootstrap::Bootstrap;
    use crate::scoring::ScoringPolicy;
    use crate::summary::Summary;

    fn dataset(rows: usize) -> Dataset {
        let sample = |id: usize| {
            let harm = if id.is_multiple_of(2) { Harm::Harmful } else { Harm::Unharmful };
            let labels = Labels { request: Some(harm), ..Labels::default() };
            Sample::new(id.to_string(), "mine", format!("text {id}")).with_labels(labels)
        };
        let source = InMemorySource::new("mine", (0..rows).map(sample).collect());
        Dataset::from_source(&source).unwrap()
    }

    fn number(exchange: &Exchange) -> usize {
        exchange.request().trim_start_matches("text ").parse().unwrap()
    }

    fn right(exchange: &Exchange) -> Result<Verdict, GuardError> {
        let harm = if number(exchange).is_multiple_of(2) { Harm::Harmful } else { Harm::Unharmful };
        let mut verdict =
            Verdict::new(Answer::Given(harm), Answer::NotApplicable, Answer::NotApplicable);
        verdict.usage = Usage::new(10, 5, std::time::Duration::from_millis(3));
        Ok(verdict)
    }

    #[test]
    fn one_failing_row_never_ends_a_run() {
        let guard = ScriptedGuard::new(|exchange| match number(exchange) {
            4 => Err(GuardError::TooLong { tokens: 9, limit: 5 }),
            _ => right(exchange),
        });
        let mut told = Vec::new();
        let mut observer = |progress: &RunProgress| {
            told.push((progress.done, progress.failed));
            ControlFlow::Continue(())
        };
        let options = RunOptions::default().with_batch(4);
        let evaluation = evaluate(&guard, &dataset(10), &options, &mut observer).unwrap();
        assert_eq!(told, [(0, 0), (4, 0), (8, 1), (10, 1)]);
        let summary = Summary::new(&evaluation, Task::Request, Bootstrap { draws: 10, seed: 0 });
        assert_eq!(summary.reasons["the guard failed"], 1);
        assert_eq!(summary.score(ScoringPolicy::Strict).counts.false_negatives, 1);
        assert_eq!(summary.score(ScoringPolicy::Blocked).f1, 1.0);
        let cost = summary.cost.unwrap();
        assert_eq!(
            (cost.prompt_tokens, cost.completion_tokens, cost.latency_p99_ms),
            (10.0, 5.0, 3.0)
        );
        assert!(evaluation.records()[4].error.as_deref().unwrap().contains("at most 5 fit"));
    }

    #[test]
    fn fault_t64_a_stopped_run_goes_on_and_judges_no_row_twice() {
        let folder = tempfile::tempdir().unwrap();
        let options =
            RunOptions::default().with_batch(3).with_output(folder.path().join("run.jsonl"));
        let judged = AtomicUsize::new(0);
        let guard = ScriptedGuard::new(|exchange: &Exchange| {
            judged.fetch_add(1, Ordering::Relaxed);
            right(exchange)
        });
        let dataset = dataset(10);
        let mut stop = |progress: &RunProgress| match progress.done {
            0..6 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let error = evaluate(&guard, &dataset, &options, &mut stop).unwrap_err();
        assert!(matches!(error, EvalError::Stopped { done: 6, total: 10 }), "{error}");
        // The writer died in the middle of a line.
        let path = options.output.clone().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 7);
        std::fs::write(&path, bytes).unwrap();
        let evaluation = evaluate(&guard, &dataset, &options, &mut ()).unwrap();
        assert_eq!(judged.load(Ordering::Relaxed), 11);
        assert_eq!((evaluation.records().len(), evaluation.wall_seconds), (10, None));
        let again = evaluate(&guard, &dataset, &options, &mut ()).unwrap();
        assert_eq!((judged.load(Ordering::Relaxed), again.records()), (11, evaluation.records()));
    }

    #[test]
    fn the_output_of_another_dataset_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions::default().with_output(folder.path().join("run.jsonl"));
        let guard = ScriptedGuard::new(right);
        evaluate(&guard, &dataset(10), &options, &mut ()).unwrap();
        let error = evaluate(&guard, &dataset(5), &options, &mut ()).unwrap_err();
        assert!(error.to_string().contains("run.jsonl:6: cannot be used: an id of another"));
    }

    /// A guard of the same name with other words for what its verdicts depend on.
    struct Calibrated<G> {
        guard: G,
        info: GuardInfo,
    }

    impl<G: Guard> Guard for Calibrated<G> {
        fn info(&self) -> &GuardInfo {
            &self.info
        }

        fn judge(
            &self,
            items: &[Exchange],
            options: &JudgeOptions,
        ) -> Vec<Result<Verdict, GuardError>> {
            self.guard.judge(items, options)
        }
    }

    #[test]
    fn the_output_of_another_model_or_other_options_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions::default().with_output(folder.path().join("run.jsonl"));
        let guard = ScriptedGuard::new(right);
        let dataset = dataset(3);
        let first = options.clone().with_identity("models/a");
        evaluate(&guard, &dataset, &first, &mut ()).unwrap();
        let judge = JudgeOptions::default().with_max_tokens(7);
        for other in [options.with_identity("models/b"), first.clone().with_judge(judge)] {
            let error = evaluate(&guard, &dataset, &other, &mut ()).unwrap_err().to_string();
            assert!(error.ends_with("made by another model or with other options"), "{error}");
        }
        let info = guard.info().clone().with_variant("calibrated");
        let calibrated = Calibrated { guard: ScriptedGuard::new(right), info };
        let error = evaluate(&calibrated, &dataset, &first, &mut ()).unwrap_err().to_string();
        assert!(error.ends_with("made by another model or with other options"), "{error}");
        evaluate(&guard, &dataset, &first, &mut ()).unwrap();
    }

    #[test]
    fn a_row_that_failed_is_judged_again() {
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions::default().with_output(folder.path().join("run.jsonl"));
        let down = AtomicUsize::new(1);
        let guard = ScriptedGuard::new(|exchange: &Exchange| match number(exchange) {
            1 if down.swap(0, Ordering::Relaxed) == 1 => {
                Err(GuardError::TooLong { tokens: 2, limit: 1 })
            }
            _ => right(exchange),
        });
        let dataset = dataset(3);
        let first = evaluate(&guard, &dataset, &options, &mut ()).unwrap();
        assert!(first.records()[1].error.is_some());
        let second = evaluate(&guard, &dataset, &options, &mut ()).unwrap();
        assert!(second.records().iter().all(|record| record.error.is_none()));
        let stored = crate::prediction::read_predictions(options.output.unwrap()).unwrap();
        assert_eq!(stored.len(), 3);
    }

    #[test]
    fn a_guard_that_miscounts_is_believed_in_nothing() {
        struct Miscounting(guard_core::GuardInfo);
        impl Guard for Miscounting {
            fn info(&self) -> &guard_core::GuardInfo {
                &self.0
            }
            fn judge(&self, _: &[Exchange], _: &JudgeOptions) -> Vec<Result<Verdict, GuardError>> {
                vec![right(&Exchange::prompt("text 1"))]
            }
        }
        let guard = Miscounting(guard_core::GuardInfo::new("m", &Task::ALL));
        let evaluation = evaluate(&guard, &dataset(3), &RunOptions::default(), &mut ()).unwrap();
        assert!(evaluation.records().iter().all(|record| record.error.is_some()));
    }
}
