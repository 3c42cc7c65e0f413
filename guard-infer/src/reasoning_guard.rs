//! A guard made of a generator and a format.

use std::fmt;

use guard_core::{
    Answer, Call, Completed, Exchange, GenerateOptions, Guard, GuardError, GuardFormat, GuardInfo,
    JudgeOptions, Reason, Task, TextGenerator, Verdict,
};

/// A guard that asks a text generator in the words of a format and reads the answer.
///
/// Any generator makes a guard: a local model, a remote server, or a double for tests.
///
/// ```
/// use guard_core::testing::ScriptedGenerator;
/// use guard_infer::{Answer, Exchange, Guard, GuardReasonerFormat, Harm, ReasoningGuard};
///
/// let model = ScriptedGenerator::new(|_| {
///     "# Task 1\nIt asks for bread.\n# Task 3\nThere is no response.\n\nAnswers:\nRequest: unharmful\nCompletion: None\nResponse: None".to_owned()
/// });
/// let guard = ReasoningGuard::new("scripted", model, GuardReasonerFormat::default());
/// let verdict = guard.judge_one(&Exchange::prompt("How is bread baked?"))?;
/// assert_eq!(verdict.request.answer, Answer::Given(Harm::Unharmful));
/// assert_eq!(verdict.response.answer, Answer::NotApplicable);
/// # Ok::<(), guard_infer::GuardError>(())
/// ```
pub struct ReasoningGuard<G, F> {
    info: GuardInfo,
    generator: G,
    format: F,
}

impl<G, F> fmt::Debug for ReasoningGuard<G, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReasoningGuard").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<G: TextGenerator, F: GuardFormat> ReasoningGuard<G, F> {
    /// A guard of this name.
    pub fn new(id: impl Into<String>, generator: G, format: F) -> Self {
        Self { info: GuardInfo::new(id, format.tasks()), generator, format }
    }

    /// The same guard, known to read and write at most so many tokens for one exchange.
    #[must_use]
    pub fn with_context_tokens(mut self, tokens: usize) -> Self {
        self.info = self.info.with_context_tokens(tokens);
        self
    }

    /// The generator.
    pub fn generator(&self) -> &G {
        &self.generator
    }

    /// The parts of the guard.
    pub fn into_inner(self) -> (G, F) {
        (self.generator, self.format)
    }
}

/// An exchange on its way to a verdict.
struct Case<'a> {
    exchange: &'a Exchange,
    calls: Vec<Call>,
    verdict: Result<Verdict, GuardError>,
}

impl<'a> Case<'a> {
    /// Plans the calls. Nothing is asked about an exchange without any text.
    fn new(exchange: &'a Exchange, format: &impl GuardFormat) -> Self {
        let verdict = Verdict::undetermined(Reason::NothingToJudge);
        if exchange.is_blank() {
            return Self { exchange, calls: Vec::new(), verdict: Ok(verdict) };
        }
        match format.plan(exchange) {
            Ok(calls) => Self { exchange, calls, verdict: Ok(unanswered(format.tasks())) },
            Err(error) => Self { exchange, calls: Vec::new(), verdict: Err(error.into()) },
        }
    }

    /// Folds the answer to one call into the verdict.
    fn read(&mut self, call: usize, completed: &Completed, format: &impl GuardFormat) {
        if let Ok(verdict) = &mut self.verdict {
            verdict.finish = completed.finish;
            verdict.usage = verdict.usage.beside(completed.usage);
            format.read(self.exchange, &self.calls[call], completed, verdict);
            let output = verdict.output.get_or_insert_default();
            output.push_str(&completed.text);
        }
    }

    fn finish(self, options: &JudgeOptions) -> Result<Verdict, GuardError> {
        let mut verdict = self.verdict?.scoped_to(self.exchange);
        if !options.keep_reasoning {
            verdict.reasoning = None;
            verdict.output = None;
        }
        Ok(verdict)
    }
}

/// A verdict before any call is read: what the format does not judge is unsupported, all else
/// has no answer yet.
fn unanswered(tasks: &[Task]) -> Verdict {
    fn answer<T>(tasks: &[Task], task: Task) -> Answer<T> {
        match tasks.contains(&task) {
            true => Answer::Undetermined(Reason::NoAnswers),
            false => Answer::Unsupported,
        }
    }
    Verdict::new(
        answer(tasks, Task::Request),
        answer(tasks, Task::Completion),
        answer(tasks, Task::Response),
    )
}

impl<G, F> Guard for ReasoningGuard<G, F>
where
    G: TextGenerator + Send + Sync,
    G::Error: Into<GuardError>,
    F: GuardFormat,
{
    fn info(&self) -> &GuardInfo {
        &self.info
    }

    fn judge(
        &self,
        items: &[Exchange],
        options: &JudgeOptions,
    ) -> Vec<Result<Verdict, GuardError>> {
        let mut cases: Vec<Case<'_>> =
            items.iter().map(|exchange| Case::new(exchange, &self.format)).collect();
        let planned: Vec<(usize, usize)> = cases
            .iter()
            .enumerate()
            .flat_map(|(case, planned)| (0..planned.calls.len()).map(move |call| (case, call)))
            .collect();
        let prompts: Vec<_> =
            planned.iter().map(|&(case, call)| cases[case].calls[call].prompt.clone()).collect();
        let generate = self.generate_options(options);
        let results = self.generator.generate(&prompts, &generate);
        let (expected, found) = (planned.len(), results.len());
        for ((case, call), result) in planned.into_iter().zip(results) {
            match result.map(|completed| completed.into_iter().next()) {
                Ok(Some(completed)) => cases[case].read(call, &completed, &self.format),
                Ok(None) => {
                    cases[case].verdict = Err(GuardError::InvalidOutput { expected: 1, found: 0 });
                }
                Err(error) => cases[case].verdict = Err(error.into()),
            }
        }
        let miscounted = found != expected;
        cases
            .into_iter()
            .map(|case| match miscounted {
                // Which answers are missing cannot be known, so none is believed.
                true => Err(GuardError::InvalidOutput { expected, found }),
                false => case.finish(options),
            })
            .collect()
    }
}

impl<G: TextGenerator, F: GuardFormat> ReasoningGuard<G, F> {
    fn generate_options(&self, options: &JudgeOptions) -> GenerateOptions {
        let mut generate = GenerateOptions::default().with_max_tokens(options.max_tokens);
        generate.deadline = options.deadline;
        generate.stop = self.format.stop();
        generate
    }
}
