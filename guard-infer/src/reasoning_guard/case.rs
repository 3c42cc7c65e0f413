//! One exchange on its way to a verdict.

use guard_core::{
    Answer, AnswerSource, Call, Completed, Exchange, Finish, GuardError, GuardFormat, JudgeOptions,
    Reason, ReasoningMode, Task, Verdict,
};

/// An exchange, what the model is asked about it, and what is known so far.
pub(super) struct Case<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) calls: Vec<Call>,
    /// What the model wrote in answer to each call, as far as its answers stand behind it.
    pub(super) written: Vec<Option<String>>,
    /// Whether the model was asked to write at all.
    pub(super) generated: bool,
    pub(super) verdict: Result<Verdict, GuardError>,
}

impl<'a> Case<'a> {
    /// Plans the calls. Nothing is asked about an exchange without any text.
    pub(super) fn new(
        exchange: &'a Exchange,
        format: &impl GuardFormat,
        mode: ReasoningMode,
    ) -> Self {
        let (calls, verdict) = match exchange.is_blank() {
            true => (Vec::new(), Ok(Verdict::undetermined(Reason::NothingToJudge))),
            false => match format.plan(exchange, mode) {
                Ok(calls) => (calls, Ok(unanswered(format.tasks()))),
                Err(error) => (Vec::new(), Err(error.into())),
            },
        };
        Self { exchange, written: vec![None; calls.len()], calls, generated: false, verdict }
    }

    /// Folds the answer to one call into the verdict.
    pub(super) fn read(&mut self, call: usize, completed: &Completed, format: &impl GuardFormat) {
        self.generated = true;
        if let Ok(verdict) = &mut self.verdict {
            verdict.finish = completed.finish;
            verdict.usage = verdict.usage.beside(completed.usage);
            format.read(self.exchange, &self.calls[call], completed, verdict);
            verdict.output.get_or_insert_default().push_str(&completed.text);
            self.written[call] = Some(completed.text.clone());
        }
    }

    /// Whether the model reasoned to the end, or came to any answer.
    pub(super) fn is_reasoned(&self, format: &impl GuardFormat) -> bool {
        let Ok(verdict) = &self.verdict else { return false };
        let is_whole = |(call, written): (&Call, &Option<String>)| {
            let stop = format.stop(self.exchange, call, AnswerSource::Scores);
            written.as_ref().zip(stop).is_some_and(|(text, stop)| stop.is_complete(0, text))
        };
        let scoped = verdict.clone().scoped_to(self.exchange);
        Task::ALL.iter().any(|&task| scoped.answer(task).given().is_some())
            || verdict.finish == Finish::Stopped
                && self.calls.iter().zip(&self.written).all(is_whole)
    }

    pub(super) fn finish(self, options: &JudgeOptions) -> Result<Verdict, GuardError> {
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

/// The calls of all cases that have not failed, as the numbers of case and call.
pub(super) fn planned(cases: &[Case<'_>]) -> Vec<(usize, usize)> {
    let going = cases.iter().enumerate().filter(|(_, case)| case.verdict.is_ok());
    going
        .flat_map(|(case, planned)| (0..planned.calls.len()).map(move |call| (case, call)))
        .collect()
}

/// Gives each planned call its result, with its place among the calls. When there are more or fewer results than calls, which of
/// them are missing cannot be known, and none is believed.
pub(super) fn fold<'a, T, E: Into<GuardError>>(
    cases: &mut [Case<'a>],
    planned: Vec<(usize, usize)>,
    results: Vec<Result<T, E>>,
    mut read: impl FnMut(&mut Case<'a>, usize, usize, T),
) {
    let (expected, found) = (planned.len(), results.len());
    if expected != found {
        for (case, _) in planned {
            cases[case].verdict = Err(GuardError::InvalidOutput { expected, found });
        }
        return;
    }
    for (place, ((case, call), result)) in planned.into_iter().zip(results).enumerate() {
        match result {
            Ok(result) => read(&mut cases[case], place, call, result),
            Err(error) => cases[case].verdict = Err(error.into()),
        }
    }
}
