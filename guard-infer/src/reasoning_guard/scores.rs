//! Answers from the probabilities of labels.

use std::ops::RangeInclusive;

use guard_core::{
    Answer, Calibration, Completed, Exchange, Finish, GuardError, GuardFormat, Judged,
    PossibleAnswer, Reason, ReasoningMode, ScoreRequest, Scored, Scores, Task, TextGenerator,
    Verdict, positive_probability,
};

use super::Run;
use super::case::{self, Case};

impl<G, F> Run<'_, G, F>
where
    G: TextGenerator + Send + Sync,
    G::Error: Into<GuardError>,
    F: GuardFormat,
{
    /// The answers at once.
    pub(super) fn scored<'e>(
        &self,
        items: impl IntoIterator<Item = &'e Exchange>,
        scores: &Scores,
    ) -> Vec<Case<'e>> {
        let mut cases = self.plan(items, ReasoningMode::LabelOnly);
        self.score(&mut cases, scores);
        cases
    }

    /// The answers behind the model's reasoning. Where that came to no end, it may be what a hostile
    /// text made of it: the answers at once are the better ones.
    pub(super) fn reasoned_and_scored<'e>(
        &self,
        items: impl IntoIterator<Item = &'e Exchange>,
        scores: &Scores,
    ) -> Vec<Case<'e>> {
        let mut cases = self.reasoned(items);
        for case in cases.iter_mut().filter(|case| !case.is_reasoned(&self.guard.format)) {
            let at_once = Case::new(case.exchange, &self.guard.format, ReasoningMode::LabelOnly);
            (case.calls, case.written) = (at_once.calls, at_once.written);
        }
        self.score(&mut cases, scores);
        cases
    }

    /// The answers at once, and reasoning where these are not sure. Where reasoning fails or has no
    /// scores in time, the first verdict stays.
    pub(super) fn adaptive<'e>(
        &self,
        items: &'e [Exchange],
        scores: &Scores,
        unsure: RangeInclusive<f64>,
    ) -> Vec<Case<'e>> {
        let mut cases = self.scored(items, scores);
        let is_unsure = |case: &Case<'_>| {
            case.verdict.as_ref().is_ok_and(|verdict| is_unsure(verdict, &unsure))
        };
        let asked: Vec<usize> = (0..cases.len()).filter(|&at| is_unsure(&cases[at])).collect();
        let exchanges: Vec<&Exchange> = asked.iter().map(|&at| cases[at].exchange).collect();
        for (at, later) in asked.into_iter().zip(self.reasoned_and_scored(exchanges, scores)) {
            cases[at].improve(later);
        }
        cases
    }

    /// Scores the possible answers to each call, behind what was written, and folds them into the
    /// verdicts.
    fn score(&self, cases: &mut [Case<'_>], scores: &Scores) {
        let format = &self.guard.format;
        let no_scores = || Err(GuardError::NoScores { mode: self.options.mode });
        let mut answers = Vec::new();
        let mut requests = Vec::new();
        let mut planned = Vec::new();
        for (at, call) in case::planned(cases) {
            let case = &mut cases[at];
            let written = case.written[call].as_deref().unwrap_or_default();
            let possible = format.answers(case.exchange, &case.calls[call], written);
            if possible.is_empty() {
                case.verdict = no_scores();
                continue;
            }
            let texts = possible.iter().map(|answer| answer.text.clone()).collect();
            requests.push(ScoreRequest::new(case.calls[call].prompt.clone(), texts));
            answers.push(possible);
            planned.push((at, call));
        }
        let Some(results) = self.guard.generator.score(&requests, &self.limits()) else {
            planned.into_iter().for_each(|(at, _)| cases[at].verdict = no_scores());
            return;
        };
        case::fold(cases, planned, results, |case, place, call, scored| {
            case.read_scores(call, &answers[place], &scored, format, scores);
        });
    }
}

impl Case<'_> {
    /// Folds the scores of the possible answers to one call into the verdict.
    fn read_scores(
        &mut self,
        call: usize,
        answers: &[PossibleAnswer],
        scored: &Scored,
        format: &impl GuardFormat,
        scores: &Scores,
    ) {
        let Ok(verdict) = &mut self.verdict else { return };
        verdict.usage = verdict.usage.then(scored.usage);
        let tasks = &self.calls[call].tasks;
        let (expected, found) = (answers.len(), scored.log_probabilities.len());
        if scored.finish != Finish::Stopped {
            // Labels without the scores that a policy may ask for are not believed.
            return cut_off(verdict, tasks, scored.finish);
        }
        if expected != found {
            self.verdict = Err(GuardError::InvalidOutput { expected, found });
            return;
        }
        let calibration =
            if self.written[call].is_some() { scores.reasoned } else { scores.at_once };
        let judged = probabilities(tasks, answers, scored, &calibration);
        let Some(chosen) = chosen(answers, scored, &judged) else { return };
        let (finish, reasoning) = (verdict.finish, verdict.reasoning.take());
        let text = Completed::new(chosen.text.clone(), Finish::Stopped);
        format.read(self.exchange, &self.calls[call], &text, verdict);
        if self.written[call].is_none() {
            // What there is of reasoning, which the answers do not follow from.
            verdict.reasoning = reasoning;
            verdict.consistent = None;
        }
        if !self.generated {
            verdict.finish = scored.finish;
            verdict.output.get_or_insert_default().push_str(&chosen.text);
        } else {
            verdict.finish = finish;
        }
        for (task, probability) in judged {
            match probability {
                Some(probability) => judge(verdict, task, probability),
                None => cut_off(verdict, &[task], Finish::NonFinite),
            }
        }
    }

    /// Takes a later verdict, if it has all scores that the first one has, with the cost of both.
    fn improve(&mut self, mut later: Self) {
        let Ok(before) = &mut self.verdict else { return };
        let Ok(verdict) = &mut later.verdict else { return };
        let usage = before.usage.then(verdict.usage);
        let scored = |task| before.score(task).is_none() || verdict.score(task).is_some();
        if Task::ALL.into_iter().all(scored) {
            verdict.usage = usage;
            *self = later;
        } else {
            before.usage = usage;
        }
    }
}

/// The calibrated probability of each task about which an answer can say something.
fn probabilities(
    tasks: &[Task],
    answers: &[PossibleAnswer],
    scored: &Scored,
    calibration: &Calibration,
) -> Vec<(Task, Option<f64>)> {
    let asked = tasks
        .iter()
        .filter(|&&task| answers.iter().any(|answer| answer.labels.positive(task).is_some()));
    let probability = |task| {
        let raw = positive_probability(task, answers, &scored.log_probabilities)?;
        Some(calibration.task(task).apply(raw))
    };
    asked.map(|&task| (task, probability(task))).collect()
}

/// The likeliest of the answers that say what the probabilities do; without one, the likeliest.
fn chosen<'a>(
    answers: &'a [PossibleAnswer],
    scored: &Scored,
    judged: &[(Task, Option<f64>)],
) -> Option<&'a PossibleAnswer> {
    let agrees = |answer: &PossibleAnswer| {
        judged.iter().all(|&(task, probability)| {
            let label = probability.map(|probability| probability >= 0.5);
            label.is_none() || answer.labels.positive(task) == label
        })
    };
    let scores = &scored.log_probabilities;
    let best = answers
        .iter()
        .zip(scores)
        .max_by(|(a, left), (b, right)| agrees(a).cmp(&agrees(b)).then(left.total_cmp(right)));
    best.map(|(answer, _)| answer)
}

fn judge(verdict: &mut Verdict, task: Task, probability: f64) {
    match task {
        Task::Request => verdict.request = Judged::from_probability(probability),
        Task::Completion => verdict.completion = Judged::from_probability(probability),
        Task::Response => verdict.response = Judged::from_probability(probability),
    }
}

fn cut_off(verdict: &mut Verdict, tasks: &[Task], finish: Finish) {
    let reason = Reason::CutOff(finish);
    verdict.finish = finish;
    for task in tasks {
        match task {
            Task::Request => verdict.request = Answer::Undetermined(reason).into(),
            Task::Completion => verdict.completion = Answer::Undetermined(reason).into(),
            Task::Response => verdict.response = Answer::Undetermined(reason).into(),
        }
    }
}

/// Whether one of the probabilities lies in this range.
fn is_unsure(verdict: &Verdict, unsure: &RangeInclusive<f64>) -> bool {
    Task::ALL.iter().any(|&task| verdict.score(task).is_some_and(|score| unsure.contains(&score)))
}
