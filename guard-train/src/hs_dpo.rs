//! Hard-sample preference tuning, the second stage of the paper.

use guard_core::OptionsError;
use serde::{Deserialize, Serialize};

use crate::objective::{Contribution, Number, Objective, ObjectiveError, Window, add_numbers};

/// Direct preference optimisation with a weight for each pair, and a share of plain fine-tuning
/// on the chosen answer against forgetting (paper, equation 2 and section 4.2).
///
/// With `lp` and `ref` the sums of an answer's token log-probabilities under the trained and the
/// frozen model, `n` its number of tokens, `w` the weight of the pair, and `B` the number of
/// pairs in the window:
///
/// ```text
/// d    = (lp_chosen - lp_rejected) - (ref_chosen - ref_rejected)
/// loss = mean of  w * -log sigmoid(beta * d) + v * pref_ftx * -lp_chosen / n_chosen
/// c_t  = (g + v * pref_ftx / n_chosen) / B   on the chosen answer
///      = -g / B                              on the rejected answer
/// g    = w * beta * sigmoid(-beta * d)
/// v    = 1, or w where the weight is of the total
/// ```
///
/// The loss is divided by the number of pairs, not by the sum of their weights. With label
/// smoothing `e` the preference term is `-(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)`
/// (cDPO), and [`PreferenceLoss::Ipo`] has another one.
///
/// Logged beside the loss, as means over the pairs: `dpo_loss` and `chosen_nll` (the two terms
/// without weights), `rewards/chosen`, `rewards/rejected`, `rewards/margins`,
/// `rewards/accuracies` (1 where the margin is above 0), `logps/chosen` and `logps/rejected`.
///
/// ```
/// use guard_train::{AnswerTokens, HsDpo, Objective, PreferencePair, Window};
///
/// // Before the first update both models agree, so d = 0.
/// let pair = PreferencePair::new(AnswerTokens::new(2, -1.5), AnswerTokens::new(1, -2.0));
/// let objective = HsDpo::default();
/// let window = Window::of(&objective, &[pair]);
/// let part = objective.contribute(&[pair], &[-1.0, -0.5, -2.0], window)?;
/// assert!((part.loss - (2f64.ln() + 2.0 * 1.5 / 2.0)).abs() < 1e-12);
/// # Ok::<(), guard_train::ObjectiveError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HsDpo {
    options: HsDpoOptions,
}

/// Options of [`HsDpo`]. The default is the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HsDpoOptions {
    /// How strongly the trained model is held to the frozen one; finite and above 0. Default
    /// 0.01.
    pub beta: f64,
    /// The weight of plain fine-tuning on the chosen answer; finite and at least 0. Default 2.0.
    pub pref_ftx: f64,
    /// What the weight of a pair multiplies. Default [`WeightScope::Dpo`].
    pub weight_scope: WeightScope,
    /// The preference term. Default [`PreferenceLoss::Sigmoid`].
    pub loss: PreferenceLoss,
    /// The share of pairs that are taken to be the wrong way round, from 0 to below 0.5; for the
    /// sigmoid only. Default 0.
    pub label_smoothing: f64,
}

impl Default for HsDpoOptions {
    fn default() -> Self {
        Self {
            beta: 0.01,
            pref_ftx: 2.0,
            weight_scope: WeightScope::Dpo,
            loss: PreferenceLoss::Sigmoid,
            label_smoothing: 0.0,
        }
    }
}

/// The preference term of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PreferenceLoss {
    /// `-log sigmoid(beta d)`, the paper's (DPO, arXiv 2305.18290).
    #[default]
    Sigmoid,
    /// `(d - 1 / (2 beta))^2` with means instead of sums of log-probabilities in `d`, as TRL and
    /// LLaMA-Factory compute it (IPO, arXiv 2310.12036).
    Ipo,
}

/// What the weight of a pair multiplies.
///
/// The paper's equation has it on the preference term alone. The trainer that the authors used
/// was changed in a way that was not published, so what their numbers rest on is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WeightScope {
    /// The preference term only.
    Dpo,
    /// The preference term and the fine-tuning term.
    Total,
}

/// A better and a worse answer to one request. Its target tokens are those of the chosen answer,
/// then those of the rejected one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PreferencePair {
    /// The better answer.
    pub chosen: AnswerTokens,
    /// The worse answer.
    pub rejected: AnswerTokens,
    /// How much the pair counts, finite and at least 0; from 0.8 to 1.2 in the paper.
    pub weight: f64,
}

impl PreferencePair {
    /// A pair of weight 1.
    #[must_use]
    pub fn new(chosen: AnswerTokens, rejected: AnswerTokens) -> Self {
        Self { chosen, rejected, weight: 1.0 }
    }

    /// The same pair with this weight.
    #[must_use]
    pub fn with_weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }
}

/// What the loss knows of an answer before it sees the trained model's log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AnswerTokens {
    /// The tokens of the answer, its end token included; at least 1.
    pub count: usize,
    /// The sum of their log-probabilities under the frozen model, in nats; finite.
    pub reference_log_prob: f64,
}

impl AnswerTokens {
    /// An answer of `count` tokens whose log-probabilities under the frozen model add up to
    /// `reference_log_prob`.
    #[must_use]
    pub fn new(count: usize, reference_log_prob: f64) -> Self {
        Self { count, reference_log_prob }
    }
}

impl HsDpo {
    /// The objective with these options.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of range.
    pub fn new(options: HsDpoOptions) -> Result<Self, OptionsError> {
        let HsDpoOptions { beta, pref_ftx, label_smoothing, .. } = options;
        let error = |option, expected, found: f64| {
            Err(OptionsError { option, expected, found: found.to_string() })
        };
        if !(beta.is_finite() && beta > 0.0) {
            return error("beta", "finite and above 0", beta);
        }
        if !(pref_ftx.is_finite() && pref_ftx >= 0.0) {
            return error("pref_ftx", "finite and at least 0", pref_ftx);
        }
        if !(0.0..0.5).contains(&label_smoothing) {
            return error("label_smoothing", "from 0 to below 0.5", label_smoothing);
        }
        if options.loss == PreferenceLoss::Ipo && label_smoothing > 0.0 {
            return error("label_smoothing", "0 with the loss ipo", label_smoothing);
        }
        Ok(Self { options })
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> HsDpoOptions {
        self.options
    }

    /// What one pair comes to under the trained model.
    fn terms(&self, pair: &PreferencePair, chosen: &[f32], rejected: &[f32]) -> PairTerms {
        let HsDpoOptions { beta, pref_ftx, weight_scope, loss, label_smoothing } = self.options;
        let (chosen_log_prob, rejected_log_prob) = (sum(chosen), sum(rejected));
        PairTerms {
            chosen_log_prob,
            rejected_log_prob,
            chosen_tokens: chosen.len() as f64,
            rejected_tokens: rejected.len() as f64,
            loss,
            label_smoothing,
            chosen_reward: beta * (chosen_log_prob - pair.chosen.reference_log_prob),
            rejected_reward: beta * (rejected_log_prob - pair.rejected.reference_log_prob),
            beta,
            dpo_weight: pair.weight,
            ftx_weight: match weight_scope {
                WeightScope::Dpo => pref_ftx,
                WeightScope::Total => pref_ftx * pair.weight,
            },
        }
    }
}

impl Objective for HsDpo {
    type Example = PreferencePair;

    fn target_tokens(&self, pair: &PreferencePair) -> usize {
        pair.chosen.count + pair.rejected.count
    }

    fn check_example(&self, pair: &PreferencePair) -> Result<(), ObjectiveError> {
        check_pair(0, pair)
    }

    fn contribute(
        &self,
        pairs: &[PreferencePair],
        log_probs: &[f32],
        window: Window,
    ) -> Result<Contribution, ObjectiveError> {
        window.check(self, pairs, log_probs)?;
        let share = 1.0 / window.examples as f64;
        let mut part = Contribution::default();
        let mut rest = log_probs;
        for (example, pair) in pairs.iter().enumerate() {
            check_pair(example, pair)?;
            let (chosen, after) = rest.split_at(pair.chosen.count);
            let (rejected, after) = after.split_at(pair.rejected.count);
            self.terms(pair, chosen, rejected).add_to(&mut part, pair, share);
            rest = after;
        }
        part.check(log_probs.len())?;
        Ok(part)
    }
}

/// The arithmetic of one pair, before it is divided by the number of pairs.
struct PairTerms {
    chosen_log_prob: f64,
    rejected_log_prob: f64,
    chosen_tokens: f64,
    rejected_tokens: f64,
    loss: PreferenceLoss,
    label_smoothing: f64,
    chosen_reward: f64,
    rejected_reward: f64,
    beta: f64,
    dpo_weight: f64,
    ftx_weight: f64,
}

impl PairTerms {
    fn add_to(&self, part: &mut Contribution, pair: &PreferencePair, share: f64) {
        let [chosen, rejected] = self.pulls();
        let chosen = chosen + self.ftx_weight / self.chosen_tokens;
        let coefficients = [(chosen, pair.chosen.count), (-rejected, pair.rejected.count)];
        for (coefficient, count) in coefficients {
            part.coefficients.extend(std::iter::repeat_n((share * coefficient) as f32, count));
        }
        part.loss += share * self.loss();
        add_numbers(&mut part.numbers, &self.numbers(share));
    }

    fn margin(&self) -> f64 {
        self.chosen_reward - self.rejected_reward
    }

    fn dpo_loss(&self) -> f64 {
        match self.loss {
            PreferenceLoss::Sigmoid => {
                let (margin, wrong) = (self.margin(), self.label_smoothing);
                (1.0 - wrong) * softplus(-margin) + wrong * softplus(margin)
            }
            PreferenceLoss::Ipo => self.ipo_gap().powi(2),
        }
    }

    /// How far the difference of mean log-probabilities is from where IPO wants it.
    fn ipo_gap(&self) -> f64 {
        let chosen = self.chosen_reward / self.chosen_tokens;
        let rejected = self.rejected_reward / self.rejected_tokens;
        (chosen - rejected - 0.5) / self.beta
    }

    fn chosen_nll(&self) -> f64 {
        -self.chosen_log_prob / self.chosen_tokens
    }

    fn loss(&self) -> f64 {
        self.dpo_weight * self.dpo_loss() + self.ftx_weight * self.chosen_nll()
    }

    /// How hard the preference term pulls each answer, the chosen up and the rejected down: `g`
    /// in the formulas.
    fn pulls(&self) -> [f64; 2] {
        match self.loss {
            PreferenceLoss::Sigmoid => {
                let (margin, wrong) = (self.margin(), self.label_smoothing);
                let slope = (1.0 - wrong) * sigmoid(-margin) - wrong * sigmoid(margin);
                [self.dpo_weight * self.beta * slope; 2]
            }
            PreferenceLoss::Ipo => {
                let slope = -2.0 * self.dpo_weight * self.ipo_gap();
                [slope / self.chosen_tokens, slope / self.rejected_tokens]
            }
        }
    }

    /// The names are those of LLaMA-Factory's and TRL's logs, so that curves can be compared.
    fn numbers(&self, share: f64) -> [Number; 8] {
        let accurate = if self.margin() > 0.0 { 1.0 } else { 0.0 };
        [
            ("dpo_loss", self.dpo_loss()),
            ("chosen_nll", self.chosen_nll()),
            ("rewards/chosen", self.chosen_reward),
            ("rewards/rejected", self.rejected_reward),
            ("rewards/margins", self.margin()),
            ("rewards/accuracies", accurate),
            ("logps/chosen", self.chosen_log_prob),
            ("logps/rejected", self.rejected_log_prob),
        ]
        .map(|(name, value)| Number { name, value: share * value })
    }
}

/// Checks the ranges that the fields' documentation gives.
fn check_pair(example: usize, pair: &PreferencePair) -> Result<(), ObjectiveError> {
    let error =
        |field, expected, found| Err(ObjectiveError::Example { example, field, expected, found });
    if !(pair.weight.is_finite() && pair.weight >= 0.0) {
        return error("weight", "finite and at least 0", pair.weight);
    }
    let answers = [
        ("chosen.count", "chosen.reference_log_prob", &pair.chosen),
        ("rejected.count", "rejected.reference_log_prob", &pair.rejected),
    ];
    for (count, reference, answer) in answers {
        if answer.count == 0 {
            return error(count, "at least 1", 0.0);
        }
        if !answer.reference_log_prob.is_finite() {
            return error(reference, "finite", answer.reference_log_prob);
        }
    }
    Ok(())
}

/// Sums in f64: over a thousand tokens f32 would lose what the preference term lives on.
fn sum(log_probs: &[f32]) -> f64 {
    log_probs.iter().copied().map(f64::from).sum()
}

/// ln(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x), without overflow.
fn sigmoid(x: f64) -> f64 {
    let small = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::largest_derivative_error;

    const LN_2: f64 = std::f64::consts::LN_2;

    fn objective(beta: f64, pref_ftx: f64, weight_scope: WeightScope) -> HsDpo {
        HsDpo::new(HsDpoOptions { beta, pref_ftx, weight_scope, ..HsDpoOptions::default() })
            .unwrap()
    }

    fn assert_close(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
    }

    fn number(part: &Contribution, name: &str) -> f64 {
        part.numbers.iter().find(|number| number.name == name).unwrap().value
    }

    /// Two pairs of unlike lengths and weights, and their log-probabilities.
    fn two_pairs() -> ([PreferencePair; 2], [f32; 8]) {
        let first = PreferencePair::new(AnswerTokens::new(2, -3.5), AnswerTokens::new(3, -3.0))
            .with_weight(0.8);
        let second = PreferencePair::new(AnswerTokens::new(1, -2.25), AnswerTokens::new(2, -4.5))
            .with_weight(1.2);
        ([first, second], [-1.0, -1.5, -0.25, -2.0, -3.0, -4.0, -0.5, -1.25])
    }

    fn contribute(objective: &HsDpo, pairs: &[PreferencePair], log_probs: &[f32]) -> Contribution {
        objective.contribute(pairs, log_probs, Window::of(objective, pairs)).unwrap()
    }

    /// Four pairs of answers of one token: log-probability under the trained and the frozen
    /// model, chosen then rejected. For the first pair d = (-3 + 5) - (-2.8 + 3.2) = 1.6, and
    /// -ln sigmoid(0.01 x 1.6) = ln(1 + e^-0.016) = 0.685179.
    #[test]
    fn losses_are_those_of_the_published_trainers() {
        let answers = [
            ((-3.0, -2.8), (-5.0, -3.2)),
            ((-2.5, -2.3), (-3.5, -2.7)),
            ((-4.0, -3.8), (-6.0, -4.2)),
            ((-1.5, -1.4), (-2.5, -1.8)),
        ];
        let golden = [
            (0.01, [0.685_179_18, 0.690_151_68, 0.685_179_18, 0.690_151_68]),
            (0.1, [0.616_343_77, 0.663_597_11, 0.616_343_77, 0.663_597_11]),
        ];
        for (beta, losses) in golden {
            let objective = objective(beta, 0.0, WeightScope::Dpo);
            for (((chosen, chosen_ref), (rejected, rejected_ref)), loss) in
                answers.into_iter().zip(losses)
            {
                let pair = PreferencePair::new(
                    AnswerTokens::new(1, chosen_ref),
                    AnswerTokens::new(1, rejected_ref),
                );
                let part = contribute(&objective, &[pair], &[chosen, rejected]);
                assert_close(part.loss, loss, 5e-9);
                assert_close(number(&part, "dpo_loss"), loss, 5e-9);
            }
        }
    }

    #[test]
    fn coefficients_are_the_derivatives_of_the_loss() {
        let (pairs, log_probs) = two_pairs();
        let whole = Window { examples: 2, target_tokens: 8 };
        let larger = Window { examples: 7, target_tokens: 40 };
        for scope in [WeightScope::Dpo, WeightScope::Total] {
            for (beta, pref_ftx) in [(0.01, 2.0), (0.5, 0.0), (0.5, 2.0)] {
                let objective = objective(beta, pref_ftx, scope);
                for window in [whole, larger] {
                    let error =
                        largest_derivative_error(&objective, &pairs, &log_probs, window).unwrap();
                    assert!(error < 1e-7, "{objective:?} is off by {error}");
                }
            }
        }
    }

    #[test]
    fn before_the_first_update_the_preference_term_is_w_ln_2() {
        let (mut pairs, log_probs) = two_pairs();
        // The reference is what the model says now.
        pairs[0].chosen.reference_log_prob = -2.5; // -1 - 1.5
        pairs[0].rejected.reference_log_prob = -5.25; // -0.25 - 2 - 3
        pairs[1].chosen.reference_log_prob = -4.0;
        pairs[1].rejected.reference_log_prob = -1.75; // -0.5 - 1.25
        let part = contribute(&HsDpo::default(), &pairs, &log_probs);
        // ((0.8 ln 2 + 2 x 2.5 / 2) + (1.2 ln 2 + 2 x 4 / 1)) / 2
        assert_close(part.loss, LN_2 + 5.25, 1e-12);
        let total = contribute(&objective(0.01, 2.0, WeightScope::Total), &pairs, &log_probs);
        // (0.8 (ln 2 + 2.5) + 1.2 (ln 2 + 8)) / 2
        assert_close(total.loss, LN_2 + 5.8, 1e-12);
        for name in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
        {
            assert_eq!(number(&part, name), 0.0, "{name}");
        }
        assert_close(number(&part, "chosen_nll"), 2.625, 1e-12); // (2.5 / 2 + 4) / 2
        // g = 0.8 x 0.01 / 2; chosen (g + 2 / 2) / 2, rejected -g / 2.
        assert_close(part.coefficients[0].into(), 0.502, 1e-7);
        assert_close(part.coefficients[2].into(), -0.002, 1e-9);
    }

    #[test]
    fn numbers_are_means_over_the_pairs() {
        let (pairs, log_probs) = two_pairs();
        let part = contribute(&objective(0.5, 2.0, WeightScope::Dpo), &pairs, &log_probs);
        // Chosen: 0.5 (-2.5 + 3.5) = 0.5 and 0.5 (-4 + 2.25) = -0.875.
        assert_close(number(&part, "rewards/chosen"), -0.1875, 1e-12);
        // Rejected: 0.5 (-5.25 + 3) = -1.125 and 0.5 (-1.75 + 4.5) = 1.375.
        assert_close(number(&part, "rewards/rejected"), 0.125, 1e-12);
        assert_close(number(&part, "rewards/margins"), -0.3125, 1e-12);
        assert_close(number(&part, "rewards/accuracies"), 0.5, 1e-12);
        assert_close(number(&part, "logps/chosen"), -3.25, 1e-12); // (-2.5 - 4) / 2
        assert_close(number(&part, "logps/rejected"), -3.5, 1e-12); // (-5.25 - 1.75) / 2
    }

    #[test]
    fn equal_weights_scale_what_they_multiply_and_nothing_else() {
        let (pairs, log_probs) = two_pairs();
        let with_weight = |weight| pairs.map(|pair| pair.with_weight(weight));
        let total = objective(0.5, 2.0, WeightScope::Total);
        let one = contribute(&total, &with_weight(1.0), &log_probs);
        let twice = contribute(&total, &with_weight(2.0), &log_probs);
        assert_close(twice.loss, 2.0 * one.loss, 1e-12);
        // With weight 1 the scope makes no difference.
        let dpo = objective(0.5, 2.0, WeightScope::Dpo);
        assert_eq!(contribute(&dpo, &with_weight(1.0), &log_probs), one);
        // Weight 0 leaves fine-tuning only, and no pull on the rejected answers.
        let none = contribute(&dpo, &with_weight(0.0), &log_probs);
        assert_close(none.loss, 5.25, 1e-12); // (2 x 1.25 + 2 x 4) / 2
        assert_eq!(none.coefficients, [0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let nothing = contribute(&total, &with_weight(0.0), &log_probs);
        assert_eq!((nothing.loss, nothing.coefficients), (0.0, vec![0.0; 8]));
    }

    #[test]
    fn splitting_a_window_changes_nothing() {
        let (pairs, log_probs) = two_pairs();
        let objective = HsDpo::default();
        let window = Window::of(&objective, &pairs);
        let whole = contribute(&objective, &pairs, &log_probs);
        let first = objective.contribute(&pairs[..1], &log_probs[..5], window).unwrap();
        let second = objective.contribute(&pairs[1..], &log_probs[5..], window).unwrap();
        assert_close(first.loss + second.loss, whole.loss, 1e-12);
        let mut numbers = first.numbers;
        add_numbers(&mut numbers, &second.numbers);
        assert_eq!(numbers, whole.numbers);
        assert_eq!([first.coefficients, second.coefficients].concat(), whole.coefficients);
    }

    #[test]
    fn far_apart_answers_neither_overflow_nor_vanish() {
        let objective = objective(10.0, 0.0, WeightScope::Dpo);
        let pair = PreferencePair::new(AnswerTokens::new(1, 0.0), AnswerTokens::new(1, 0.0));
        let right = contribute(&objective, &[pair], &[-1.0, -1e6]);
        assert_eq!((right.loss, right.coefficients), (0.0, vec![0.0, -0.0]));
        // -ln sigmoid(-x) is x for large x, and its slope is beta.
        let wrong = contribute(&objective, &[pair], &[-1e6, -1.0]);
        assert_close(wrong.loss, 10.0 * (1e6 - 1.0), 1e-6);
        assert_eq!(wrong.coefficients, [10.0, -10.0]);
    }

    #[test]
    fn no_pairs_are_no_update_and_no_nan() {
        let part = contribute(&HsDpo::default(), &[], &[]);
        assert_eq!(part, Contribution::default());
    }

    #[test]
    fn pairs_out_of_range_are_named() {
        let answer = AnswerTokens::new(1, -1.0);
        let good = PreferencePair::new(answer, answer);
        let refused = |pair: PreferencePair| {
            let pairs = [good, pair];
            let objective = HsDpo::default();
            let window = Window::of(&objective, &pairs);
            let log_probs = vec![-1.0; window.target_tokens];
            match objective.contribute(&pairs, &log_probs, window) {
                Err(ObjectiveError::Example { example: 1, field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        for weight in [f64::NAN, f64::INFINITY, -0.1] {
            assert_eq!(refused(good.with_weight(weight)), "weight");
        }
        // Without a token the mean loss of the chosen answer would be 0 / 0.
        let empty = AnswerTokens::new(0, 0.0);
        assert_eq!(refused(PreferencePair::new(empty, answer)), "chosen.count");
        assert_eq!(refused(PreferencePair::new(answer, empty)), "rejected.count");
        let lost = AnswerTokens::new(1, f64::NAN);
        assert_eq!(refused(PreferencePair::new(lost, answer)), "chosen.reference_log_prob");
        assert_eq!(refused(PreferencePair::new(answer, lost)), "rejected.reference_log_prob");
    }

    #[test]
    fn weights_beyond_f32_are_an_error() {
        let pair = PreferencePair::new(AnswerTokens::new(1, 0.0), AnswerTokens::new(1, 0.0))
            .with_weight(1e300);
        let objective = HsDpo::default();
        let window = Window::of(&objective, &[pair]);
        let error = objective.contribute(&[pair], &[-1.0, -1.0], window).unwrap_err();
        assert!(matches!(error, ObjectiveError::Overflow { what: "coefficient", .. }), "{error}");
    }

    #[test]
    fn options_are_the_papers_and_are_checked() {
        let defaults = HsDpoOptions::default();
        assert_eq!((defaults.beta, defaults.pref_ftx), (0.01, 2.0));
        assert_eq!(defaults.weight_scope, WeightScope::Dpo);
        assert_eq!(HsDpo::new(defaults), Ok(HsDpo::default()));
        for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = HsDpo::new(HsDpoOptions { beta, ..defaults }).unwrap_err();
            assert_eq!(error.option, "beta");
        }
        for pref_ftx in [-1.0, f64::NAN, f64::INFINITY] {
            let error = HsDpo::new(HsDpoOptions { pref_ftx, ..defaults }).unwrap_err();
            assert_eq!(error.option, "pref_ftx");
        }
    }
}
