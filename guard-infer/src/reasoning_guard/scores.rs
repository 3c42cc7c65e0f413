//! Answers from the probabilities of labels.

use std::ops::RangeInclusive;

use guard_core::{
    Answer, Calibration, Completed, Exchange, Finish, GuardError, GuardFormat, Judged,
    PossibleAnswer, Reason, ReasoningMode, ScoreRequest, Scored, Task, TextGenerator, Verdict,
    positive_probability,
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
        calibration: &Calibration,
    ) -> Vec<Case<'e>> {
        let mut cases = self.plan(items, ReasoningMode::LabelOnly);
        self.score(&mut cases, calibration);
        cases
    }

    /// The answers behind the model's reasoning. Where that did not come to its answers, it may be
    /// what a hostile text made of it: the answers at once are the better ones.
    pub(super) fn reasoned_and_scored<'e>(
        &self,
        items: impl IntoIterator<Item = &'e Exchange>,
        calibration: &Calibration,
    ) -> Vec<Case<'e>> {
        let mut cases = self.reasoned(items);
        for case in cases.iter_mut().filter(|case| case.has_gaps()) {
            let at_once = Case::new(case.exchange, &self.guard.format, ReasoningMode::LabelOnly);
            (case.calls, case.written) = (at_once.calls, at_once.written);
        }
        self.score(&mut cases, calibration);
        cases
    }

    /// The answers at once, and reasoning where these are not sure. A case whose reasoning ends
    /// without answers keeps those that it had.
    pub(super) fn adaptive<'e>(
        &self,
        items: &'e [Exchange],
        calibration: &Calibration,
        unsure: RangeInclusive<f64>,
    ) -> Vec<Case<'e>> {
        let mut cases = self.scored(items, calibration);
        let asked: Vec<usize> = (0..cases.len())
            .filter(|&case| {
                cases[case].verdict.as_ref().is_ok_and(|verdict| is_unsure(verdict, &unsure))
            })
            .collect();
        let exchanges = asked.iter().map(|&case| cases[case].exchange).collect::<Vec<_>>();
        let reasoned = self.reasoned_and_scored(exchanges, calibration);
        for (place, mut later) in asked.into_iter().zip(reasoned) {
            if later.has_gaps() {
                continue;
            }
            if let (Ok(before), Ok(verdict)) = (&cases[place].verdict, &mut later.verdict) {
                verdict.usage = before.usage.then(verdict.usage);
            }
            cases[place] = later;
        }
        cases
    }

    /// Scores the possible answers to each call, behind what was written, and folds them into the
    /// verdicts.
    fn score(&self, cases: &mut [Case<'_>], calibration: &Calibration) {
        let planned = case::planned(cases);
        let format = &self.guard.format;
        let answers: Vec<Vec<PossibleAnswer>> = planned
            .iter()
            .map(|&(case, call)| {
                let case = &cases[case];
                format.answers(case.exchange, &case.calls[call], &case.written[call])
            })
            .collect();
        let requests: Vec<ScoreRequest> = planned
            .iter()
            .zip(&answers)
            .map(|(&(case, call), answers)| {
                let texts = answers.iter().map(|answer| answer.text.clone()).collect();
                ScoreRequest::new(cases[case].calls[call].prompt.clone(), texts)
            })
            .collect();
        let scorable = answers.iter().all(|answers| !answers.is_empty());
        let results = match scorable {
            true => self.guard.generator.score(&requests, self.deadline()),
            false => None,
        };
        let Some(results) = results else {
            for case in cases.iter_mut().filter(|case| !case.calls.is_empty()) {
                case.verdict = Err(GuardError::NoScores { mode: self.options.mode });
            }
            return;
        };
        case::fold(cases, planned, results, |case, place, call, scored| {
            case.read_scores(call, &answers[place], &scored, format, calibration);
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
        calibration: &Calibration,
    ) {
        let Ok(verdict) = &mut self.verdict else { return };
        verdict.usage = verdict.usage.then(scored.usage);
        let written = !self.written[call].is_empty();
        if answers.len() != scored.log_probabilities.len() {
            if scored.finish == Finish::Stopped {
                let (expected, found) = (answers.len(), scored.log_probabilities.len());
                self.verdict = Err(GuardError::InvalidOutput { expected, found });
            } else if !written {
                cut_off(verdict, &self.calls[call].tasks, scored.finish);
            }
            return;
        }
        let scores = &scored.log_probabilities;
        let best = answers.iter().zip(scores).max_by(|(_, a), (_, b)| a.total_cmp(b));
        let Some((best, _)) = best else { return };
        let (finish, reasoning) = (verdict.finish, verdict.reasoning.take());
        let chosen = Completed::new(best.text.clone(), Finish::Stopped);
        format.read(self.exchange, &self.calls[call], &chosen, verdict);
        if finish == Finish::NotRun {
            verdict.finish = scored.finish;
            verdict.output.get_or_insert_default().push_str(&best.text);
        } else if !written {
            // What there is of the reasoning, which the answers do not follow from.
            verdict.reasoning = reasoning;
            verdict.consistent = None;
        }
        for &task in &self.calls[call].tasks {
            if let Some(probability) = positive_probability(task, answers, scores) {
                judge(verdict, task, calibration.task(task).apply(probability));
            }
        }
    }
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
