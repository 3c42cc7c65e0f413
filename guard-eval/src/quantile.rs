//! Quantiles by linear interpolation, as numpy's `percentile` has them.

/// The value below which the share `share`, from 0 to 1, of `values` lies. `None` without values.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile_of_sorted(&sorted, share)
}

/// The same of values in rising order.
pub(crate) fn quantile_of_sorted(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = last as f64 * share.clamp(0.0, 1.0);
    let below = place.floor();
    let (low, high) = (sorted[below as usize], sorted[(below as usize + 1).min(last)]);
    let part = place - below;
    // From the nearer side, so that both ends are met exactly.
    let step = high - low;
    Some(if part >= 0.5 { high - step * (1.0 - part) } else { low + step * part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_worked_quantiles() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 2.5), (0.25, 1.75), (1.0, 4.0), (7.0, 4.0)] {
            assert_eq!(quantile(&values, share), Some(expected));
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0], 0.99), Some(3.0));
    }
}
