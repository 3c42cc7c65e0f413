//! Logits as probabilities.

#[cfg(feature = "flex")]
use super::packed;

/// The logarithm of the sum of the exponentials of logits: what a logit is above its log-probability. No number
/// where one of them is none.
///
/// ```
/// let logits = [2.0, 2.0, f32::ln(2.0) + 2.0];
/// assert!((guard_core::log_sum_exp(&logits) - (2.0 + 4.0_f64.ln())).abs() < 1e-6);
/// ```
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    #[cfg(feature = "flex")]
    return packed::log_sum_exp(logits);
    #[cfg(not(feature = "flex"))]
    {
        let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
        highest + sum.ln()
    }
}

/// The probabilities of tokens by their logits, divided by a temperature above 0. No numbers where one of the
/// logits is none. What lies 87 or more below the highest counts as if it lay 87 below.
///
/// The memory of `probabilities` is used again.
///
/// ```
/// let mut probabilities = Vec::new();
/// guard_core::softmax(&[0.0, f32::ln(9.0)], 2.0, &mut probabilities);
/// assert!((probabilities[0] - 0.25).abs() < 1e-6 && (probabilities[1] - 0.75).abs() < 1e-6);
/// ```
pub fn softmax(logits: &[f32], temperature: f32, probabilities: &mut Vec<f32>) {
    probabilities.clear();
    probabilities.resize(logits.len(), 0.0);
    #[cfg(feature = "flex")]
    packed::softmax(logits, temperature, probabilities);
    #[cfg(not(feature = "flex"))]
    {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (to, logit) in probabilities.iter_mut().zip(logits) {
            *to = ((logit - highest) / temperature).exp();
            sum += f64::from(*to);
        }
        probabilities.iter_mut().for_each(|value| *value = (f64::from(*value) / sum) as f32);
    }
}
