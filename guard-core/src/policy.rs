//! From a verdict to what the product does: one value holds the caller's choices.

use std::fmt;

use serde::Serialize;

use crate::generate::OptionsError;
use crate::guard::GuardError;
use crate::label::{Harm, Label, Task};
use crate::verdict::{Answer, Judged, Reason, Verdict};

/// What to do with an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Hold it back.
    Block,
}

/// What a [`Policy`] decided and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// What decided it.
    pub cause: Cause,
}

/// What decided about an exchange. Harm found outranks a question that could not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// All questions that count were answered, and none with harm.
    Clean,
    /// A text is harmful.
    Harmful {
        /// The question that found it.
        task: Task,
    },
    /// The guard could not judge a question.
    Undetermined {
        /// The question.
        task: Task,
        /// Why.
        reason: Reason,
    },
    /// The policy counts a question that this guard does not answer.
    Unsupported {
        /// The question.
        task: Task,
    },
    /// The guard did not read the whole exchange.
    NotReadWhole,
    /// The reasoning concluded otherwise than the answers.
    Contradiction,
    /// The policy counts neither the request nor the response.
    NothingCounted,
    /// The guard failed: there is no verdict.
    GuardFailed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("no harm found"),
            Self::Harmful { task } => write!(f, "{task} harmful"),
            Self::Undetermined { task, reason } => write!(f, "{task} undetermined: {reason}"),
            Self::Unsupported { task } => write!(f, "this guard does not judge the {task}"),
            Self::NotReadWhole => f.write_str("not read as a whole"),
            Self::Contradiction => f.write_str("the reasoning contradicts the answers"),
            Self::NothingCounted => f.write_str("the policy counts no harm"),
            Self::GuardFailed => f.write_str("the guard failed"),
        }
    }
}

/// The caller's rules: when harm is harm, and what to do when the guard cannot tell.
///
/// The default fails closed: whatever was not judged is blocked. A refusal never blocks.
///
/// ```
/// use guard_core::{Action, Answer, Harm, Policy, Reason, Verdict};
///
/// let verdict = Verdict::undetermined(Reason::NoAnswers);
/// assert_eq!(Policy::default().decide(&verdict).action, Action::Block);
///
/// let clean = Verdict::new(Answer::Given(Harm::Unharmful), Answer::NotApplicable, Answer::NotApplicable);
/// assert_eq!(Policy::default().decide(&clean).action, Action::Allow);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Policy {
    threshold: Option<f64>,
    tasks: Vec<Task>,
    least_coverage: f64,
    on_undetermined: Action,
    on_contradiction: Action,
    on_error: Action,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            threshold: None,
            tasks: Task::ALL.to_vec(),
            least_coverage: 1.0,
            on_undetermined: Action::Block,
            on_contradiction: Action::Allow,
            on_error: Action::Block,
        }
    }
}

impl Policy {
    /// Counts a text as harmful from this probability on, from 0 to 1, wherever the verdict
    /// has a score. Without a score the label decides.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] for a threshold that is not from 0 to 1, which nothing would ever reach.
    pub fn with_threshold(mut self, threshold: f64) -> Result<Self, OptionsError> {
        if !(0.0..=1.0).contains(&threshold) {
            let found = threshold.to_string();
            return Err(OptionsError { option: "threshold", expected: "from 0 to 1", found });
        }
        self.threshold = Some(threshold);
        Ok(self)
    }

    /// Only these questions count. Default: all. A policy that counts neither the request nor the
    /// response judges nothing, and treats every exchange as undetermined.
    pub fn with_tasks(mut self, tasks: &[Task]) -> Self {
        self.tasks = tasks.to_vec();
        self
    }

    /// The share of an exchange's text, from 0 to 1, that the guard has to have read. Default: all.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] for a share that is not from 0 to 1.
    pub fn with_least_coverage(mut self, share: f64) -> Result<Self, OptionsError> {
        if !(0.0..=1.0).contains(&share) {
            let found = share.to_string();
            return Err(OptionsError { option: "least_coverage", expected: "from 0 to 1", found });
        }
        self.least_coverage = share;
        Ok(self)
    }

    /// What to do when a question that counts could not be judged. Default: block.
    pub fn on_undetermined(mut self, action: Action) -> Self {
        self.on_undetermined = action;
        self
    }

    /// What to do when all answers are harmless but the reasoning before them concluded
    /// otherwise ([`Verdict::consistent`]). Default: allow, which is how the published results
    /// count: the answers are the verdict. Of the published outputs on XSTest, about 1 in 50
    /// contradicts itself in one way or the other.
    pub fn on_contradiction(mut self, action: Action) -> Self {
        self.on_contradiction = action;
        self
    }

    /// What to do when there is no verdict at all. Default: block.
    pub fn on_error(mut self, action: Action) -> Self {
        self.on_error = action;
        self
    }

    /// Decides about a verdict.
    #[must_use]
    pub fn decide(&self, verdict: &Verdict) -> Decision {
        if let Some(task) = self.harmful_task(verdict) {
            return Decision { action: Action::Block, cause: Cause::Harmful { task } };
        }
        // Before the gaps: a caller who lets those pass has not let this pass.
        if verdict.consistent == Some(false) && self.on_contradiction == Action::Block {
            return Decision { action: Action::Block, cause: Cause::Contradiction };
        }
        if let Some(cause) = self.gap(verdict) {
            return Decision { action: self.on_undetermined, cause };
        }
        Decision { action: Action::Allow, cause: Cause::Clean }
    }

    /// Decides about the result of a guard, errors included.
    #[must_use]
    pub fn decide_result(&self, result: &Result<Verdict, GuardError>) -> Decision {
        match result {
            Ok(verdict) => self.decide(verdict),
            Err(_) => self.decide_without_verdict(),
        }
    }

    /// Decides about an exchange that no guard could judge, because it failed or because the
    /// exchange could not even be read.
    #[must_use]
    pub fn decide_without_verdict(&self) -> Decision {
        Decision { action: self.on_error, cause: Cause::GuardFailed }
    }

    fn counts(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }

    fn harmful_task(&self, verdict: &Verdict) -> Option<Task> {
        [(Task::Request, verdict.request), (Task::Response, verdict.response)]
            .into_iter()
            .find(|&(task, judged)| self.counts(task) && self.is_harmful(judged))
            .map(|(task, _)| task)
    }

    fn is_harmful(&self, judged: Judged<Harm>) -> bool {
        match (judged.answer, self.threshold, judged.score) {
            // A score that is no probability must not pass as a low one.
            (Answer::Given(_), Some(threshold), Some(score)) => {
                score >= threshold || !(0.0..=1.0).contains(&score)
            }
            (Answer::Given(harm), _, _) => harm.is_positive(),
            _ => false,
        }
    }

    /// The first question that counts and has no answer where there should be one.
    fn gap(&self, verdict: &Verdict) -> Option<Cause> {
        if !self.counts(Task::Request) && !self.counts(Task::Response) {
            return Some(Cause::NothingCounted);
        }
        // A share that is no number is below every other.
        if !matches!(verdict.coverage.partial_cmp(&self.least_coverage), Some(o) if o.is_ge()) {
            return Some(Cause::NotReadWhole);
        }
        let counted = Task::ALL.into_iter().filter(|&task| self.counts(task));
        counted.filter_map(|task| gap(task, verdict.answer(task))).next()
    }
}

fn gap(task: Task, answer: Answer<bool>) -> Option<Cause> {
    match answer {
        Answer::Given(_) => None,
        // There always is a request.
        Answer::NotApplicable if task == Task::Request => {
            Some(Cause::Undetermined { task, reason: Reason::MissingAnswer })
        }
        Answer::NotApplicable => None,
        // Refusal is no harm: a guard that does not judge it (Llama Guard) can still be used.
        Answer::Unsupported if task == Task::Completion => None,
        Answer::Unsupported => Some(Cause::Unsupported { task }),
        Answer::Undetermined(reason) => Some(Cause::Undetermined { task, reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Completion;

    fn verdict(
        request: Answer<Harm>,
        completion: Answer<Completion>,
        response: Answer<Harm>,
    ) -> Verdict {
        Verdict::new(request, completion, response)
    }

    const SAFE: Answer<Harm> = Answer::Given(Harm::Unharmful);
    const HARM: Answer<Harm> = Answer::Given(Harm::Harmful);
    const REFUSED: Answer<Completion> = Answer::Given(Completion::Refusal);
    const UNKNOWN: Answer<Harm> = Answer::Undetermined(Reason::NoAnswers);

    #[test]
    fn harm_blocks_and_refusal_does_not() {
        let policy = Policy::default();
        assert_eq!(policy.decide(&verdict(SAFE, REFUSED, SAFE)).action, Action::Allow);
        let decision = policy.decide(&verdict(SAFE, REFUSED, HARM));
        assert_eq!(
            decision,
            Decision { action: Action::Block, cause: Cause::Harmful { task: Task::Response } }
        );
    }

    #[test]
    fn whatever_was_not_judged_blocks_unless_the_caller_says_otherwise() {
        let open = verdict(SAFE, REFUSED, UNKNOWN);
        assert_eq!(Policy::default().decide(&open).action, Action::Block);
        let lenient = Policy::default().on_undetermined(Action::Allow);
        assert_eq!(lenient.decide(&open).action, Action::Allow);
        let failed = Err(GuardError::InvalidOutput { expected: 1, found: 0 });
        assert_eq!(lenient.decide_result(&failed).action, Action::Block);
        assert_eq!(lenient.on_error(Action::Allow).decide_result(&failed).action, Action::Allow);
    }

    #[test]
    fn nothing_passes_that_was_not_looked_at() {
        let action = |policy: &Policy, verdict: &Verdict| policy.decide(verdict).action;
        let policy = Policy::default();
        let unasked = verdict(Answer::NotApplicable, Answer::NotApplicable, Answer::NotApplicable);
        assert_eq!(action(&policy, &unasked), Action::Block);
        let mut part = verdict(SAFE, REFUSED, SAFE);
        for coverage in [0.5, f64::NAN] {
            part.coverage = coverage;
            assert_eq!(policy.decide(&part).cause, Cause::NotReadWhole);
        }
        for tasks in [&[][..], &[Task::Completion][..]] {
            let blind = Policy::default().with_tasks(tasks);
            assert_eq!(action(&blind, &verdict(HARM, REFUSED, HARM)), Action::Block);
        }
        for threshold in [f64::NAN, -0.1, 2.0] {
            assert!(Policy::default().with_threshold(threshold).is_err());
            assert!(Policy::default().with_least_coverage(threshold).is_err());
            let odd = Verdict::new(Judged::new(HARM).with_score(threshold), REFUSED, SAFE);
            let lenient = Policy::default().with_threshold(0.9).unwrap();
            assert_eq!(action(&lenient, &odd), Action::Block);
        }
    }

    #[test]
    fn contradictions_block_where_the_caller_wants_it() {
        let mut torn = verdict(SAFE, REFUSED, SAFE);
        torn.consistent = Some(false);
        assert_eq!(Policy::default().decide(&torn).cause, Cause::Clean);
        let strict = Policy::default().on_contradiction(Action::Block);
        let decision = Decision { action: Action::Block, cause: Cause::Contradiction };
        assert_eq!(strict.decide(&torn), decision);
        torn.completion.answer = Answer::Undetermined(Reason::NoAnswers);
        assert_eq!(strict.clone().on_undetermined(Action::Allow).decide(&torn), decision);
        torn = verdict(SAFE, REFUSED, SAFE);
        torn.consistent = Some(true);
        assert_eq!(strict.decide(&torn).action, Action::Allow);
    }

    #[test]
    fn harm_outranks_a_gap() {
        let both = verdict(UNKNOWN, REFUSED, HARM);
        let lenient = Policy::default().on_undetermined(Action::Allow);
        assert_eq!(lenient.decide(&both).cause, Cause::Harmful { task: Task::Response });
    }

    #[test]
    fn a_guard_without_response_judgement_blocks_pairs() {
        let pair = verdict(SAFE, Answer::Unsupported, Answer::Unsupported);
        assert_eq!(
            Policy::default().decide(&pair).cause,
            Cause::Unsupported { task: Task::Response }
        );
        let requests = Policy::default().with_tasks(&[Task::Request]);
        assert_eq!(requests.decide(&pair).action, Action::Allow);
    }

    #[test]
    fn the_threshold_reads_scores_where_there_are_any() {
        let scored = Verdict::new(Judged::new(SAFE).with_score(0.4), REFUSED, SAFE);
        assert_eq!(Policy::default().decide(&scored).action, Action::Allow);
        assert_eq!(
            Policy::default().with_threshold(0.3).unwrap().decide(&scored).action,
            Action::Block
        );
        let unscored = verdict(SAFE, REFUSED, HARM);
        assert_eq!(
            Policy::default().with_threshold(0.9).unwrap().decide(&unscored).action,
            Action::Block
        );
    }
}
