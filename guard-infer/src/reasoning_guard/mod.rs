//! A guard made of a generator and a format.

mod case;
mod scores;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guard_core::{
    AnswerSource, Exchange, GenerateOptions, Guard, GuardError, GuardFormat, GuardInfo, JudgeMode,
    JudgeOptions, Limits, ReasoningMode, Scores, StopCondition, TextGenerator, Verdict,
};

use case::Case;

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
    scores: Option<Scores>,
}

impl<G, F> fmt::Debug for ReasoningGuard<G, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReasoningGuard").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<G: TextGenerator, F: GuardFormat> ReasoningGuard<G, F> {
    /// A guard of this name.
    pub fn new(id: impl Into<String>, generator: G, format: F) -> Self {
        let info = GuardInfo::new(id, format.tasks());
        Self { info, generator, format, scores: None }
    }

    /// The same guard, taking its answers from the probabilities of the labels, which it gives as
    /// scores. Then it knows all modes, and gives an answer also where its reasoning was cut off:
    /// the answer at once, without that reasoning. It needs a generator that can
    /// [`score`](TextGenerator::score) and a format that names its possible
    /// [`answers`](GuardFormat::answers); with others every exchange fails with
    /// [`GuardError::NoScores`].
    #[must_use]
    pub fn with_scores(mut self, scores: Scores) -> Self {
        self.scores = Some(scores);
        self
    }

    /// The same guard with words for what else its verdicts depend on; see [`GuardInfo::variant`].
    #[must_use]
    pub fn with_variant(mut self, variant: impl Into<String>) -> Self {
        self.info = self.info.with_variant(variant);
        self
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

    /// The format.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// The parts of the guard.
    pub fn into_inner(self) -> (G, F) {
        (self.generator, self.format)
    }
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
        if let Err(error) = options.mode.validate() {
            return items.iter().map(|_| Err(error.clone().into())).collect();
        }
        let run = Run { guard: self, options, started: Instant::now() };
        let cases = match (&self.scores, options.mode) {
            (None, JudgeMode::Reason) => run.reasoned(items),
            (None, mode) => {
                return items.iter().map(|_| Err(GuardError::NoScores { mode })).collect();
            }
            (Some(scores), JudgeMode::Reason) => run.reasoned_and_scored(items, scores),
            (Some(scores), JudgeMode::Adaptive { low, high }) => {
                run.adaptive(items, scores, low..=high)
            }
            (Some(scores), _) => run.scored(items, scores),
        };
        cases.into_iter().map(|case| case.finish(options)).collect()
    }
}

/// One call of a guard.
struct Run<'a, G, F> {
    guard: &'a ReasoningGuard<G, F>,
    options: &'a JudgeOptions,
    started: Instant,
}

impl<G, F> Run<'_, G, F>
where
    G: TextGenerator + Send + Sync,
    G::Error: Into<GuardError>,
    F: GuardFormat,
{
    fn plan<'e>(
        &self,
        items: impl IntoIterator<Item = &'e Exchange>,
        mode: ReasoningMode,
    ) -> Vec<Case<'e>> {
        let format = &self.guard.format;
        items.into_iter().map(|exchange| Case::new(exchange, format, mode)).collect()
    }

    /// What is left of the time.
    fn limits(&self) -> Limits {
        let Limits { deadline, cancel, .. } = self.options.limits.clone();
        let left = |deadline: Duration| deadline.saturating_sub(self.started.elapsed());
        Limits::new(deadline.map(left), cancel)
    }

    /// When the answer to each planned call is whole.
    fn stops(&self, cases: &[Case<'_>], planned: &[(usize, usize)]) -> Stops {
        let answers = match self.guard.scores {
            Some(_) => AnswerSource::Scores,
            None => AnswerSource::Text,
        };
        let stop = |&(case, call): &(usize, usize)| {
            let case = &cases[case];
            self.guard.format.stop(case.exchange, &case.calls[call], answers)
        };
        Stops(planned.iter().map(stop).collect())
    }

    /// The model reasons and answers, and what it wrote is read.
    fn reasoned<'e>(&self, items: impl IntoIterator<Item = &'e Exchange>) -> Vec<Case<'e>> {
        let mut cases = self.plan(items, ReasoningMode::Full);
        let planned = case::planned(&cases);
        let prompts: Vec<_> =
            planned.iter().map(|&(case, call)| cases[case].calls[call].prompt.clone()).collect();
        let mut generate = GenerateOptions::default().with_max_tokens(self.options.max_tokens);
        generate.limits = self.limits();
        generate.stop = Some(Arc::new(self.stops(&cases, &planned)));
        let results = self.guard.generator.generate(&prompts, &generate);
        case::fold(
            &mut cases,
            planned,
            results,
            |case, _, call, completed: Vec<_>| match completed.into_iter().next() {
                Some(completed) => case.read(call, &completed, &self.guard.format),
                None => {
                    case.verdict = Err(GuardError::InvalidOutput { expected: 1, found: 0 });
                }
            },
        );
        cases
    }
}

/// The condition of each prompt.
struct Stops(Vec<Option<Arc<dyn StopCondition>>>);

impl Stops {
    fn of(&self, prompt: usize) -> Option<&dyn StopCondition> {
        self.0.get(prompt)?.as_deref()
    }
}

impl StopCondition for Stops {
    fn is_complete(&self, prompt: usize, text: &str) -> bool {
        self.of(prompt).is_some_and(|stop| stop.is_complete(prompt, text))
    }

    fn likely<'a>(&'a self, prompt: usize, text: &'a str) -> &'a str {
        self.of(prompt).map_or("", |stop| stop.likely(prompt, text))
    }
}
