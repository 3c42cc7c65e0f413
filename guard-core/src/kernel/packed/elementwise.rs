//! What happens to rows between products.

use super::lanes::{LANES, Lanes, Pair};
use super::matrix::{BLOCK, InputBlock};

/// `e^x` for `x` from -87 to 88, with a relative error under 3e-7; beyond them that of the end. What is no
/// number stays that.
#[inline(always)]
pub(super) fn exp<L: Lanes>(lanes: L, x: L::F) -> L::F {
    let x = lanes.min(lanes.splat(88.0), lanes.max(lanes.splat(-87.0), x));
    // A number so large that its last bit is worth 1.
    let large = lanes.splat(12_582_912.0);
    let sum = lanes.mul_add(x, lanes.splat(std::f32::consts::LOG2_E), large);
    let power = lanes.add(sum, lanes.splat(-12_582_912.0));
    let rest = lanes.mul_add(power, lanes.splat(-0.693_359_4), x);
    let rest = lanes.mul_add(power, lanes.splat(2.121_944_4e-4), rest);
    let mut value = lanes.splat(1.0 / 5040.0);
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        value = lanes.mul_add(value, rest, lanes.splat(term));
    }
    lanes.scale(value, power)
}

/// The largest of what are numbers.
#[inline(always)]
fn highest<L: Lanes>(lanes: L, values: &[f32]) -> f32 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let mut largest = lanes.splat(f32::NEG_INFINITY);
    for vector in vectors {
        largest = lanes.max(lanes.load(vector), largest);
    }
    rest.iter().copied().fold(lanes.largest(largest), f32::max)
}

/// The logarithm of the sum of the exponentials, summed up in 64 bits but for runs of 1,024.
#[inline(always)]
pub(super) fn log_sum_exp<L: Lanes>(lanes: L, values: &[f32], out: &mut f64) {
    let highest = highest(lanes, values);
    let lift = lanes.splat(-highest);
    let mut total = 0.0;
    for run in values.chunks(64 * LANES) {
        let (vectors, rest) = run.as_chunks::<LANES>();
        let mut sums = lanes.splat(0.0);
        for vector in vectors {
            sums = lanes.add(sums, exp(lanes, lanes.add(lanes.load(vector), lift)));
        }
        total += f64::from(lanes.sum(sums));
        total += rest.iter().map(|value| f64::from(value - highest).exp()).sum::<f64>();
    }
    *out = f64::from(highest) + total.ln();
}

/// Exponentials of what logits are below the highest, divided by a temperature, and then by their sum.
#[inline(always)]
pub(super) fn softmax<L: Lanes>(lanes: L, logits: &[f32], temperature: f32, out: &mut [f32]) {
    let lift = lanes.splat(-highest(lanes, logits));
    // Next to 0 the inverse is beyond the floats, and 0 times it no number.
    let inverse = lanes.splat(temperature.recip().min(f32::MAX));
    let mut total = 0.0;
    for (run, out) in logits.chunks(64 * LANES).zip(out.chunks_mut(64 * LANES)) {
        let (vectors, rest) = run.as_chunks::<LANES>();
        let (places, rest_places) = out.as_chunks_mut::<LANES>();
        let mut sums = lanes.splat(0.0);
        for (vector, place) in vectors.iter().zip(places) {
            let below = lanes.add(lanes.load(vector), lift);
            let power = exp(lanes, lanes.mul(below, inverse));
            sums = lanes.add(sums, power);
            lanes.store(power, place);
        }
        total += f64::from(lanes.sum(sums));
        let mut tail = [f32::NEG_INFINITY; LANES];
        tail[..rest.len()].copy_from_slice(rest);
        let mut powers = [0.0; LANES];
        let below = lanes.add(lanes.load(&tail), lift);
        lanes.store(exp(lanes, lanes.mul(below, inverse)), &mut powers);
        for (place, power) in rest_places.iter_mut().zip(powers) {
            *place = power;
            total += f64::from(power);
        }
    }
    let share = lanes.splat((1.0 / total) as f32);
    let (vectors, rest) = out.as_chunks_mut::<LANES>();
    for vector in vectors {
        lanes.store(lanes.mul(lanes.load(vector), share), vector);
    }
    rest.iter_mut().for_each(|value| *value *= (1.0 / total) as f32);
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(super) fn silu<L: Lanes>(lanes: L, x: L::F) -> L::F {
    let one = lanes.splat(1.0);
    let negative = lanes.mul(x, lanes.splat(-1.0));
    lanes.div(x, lanes.add(one, exp(lanes, negative)))
}

/// The row divided by the root of its mean square, times the weights.
#[inline(always)]
pub(super) fn rms_norm<L: Lanes>(
    lanes: L,
    row: &[f32],
    weights: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut squares = lanes.splat(0.0);
    for values in whole {
        let values = lanes.load(values);
        squares = lanes.mul_add(values, values, squares);
    }
    let rest: f32 = rest.iter().map(|value| value * value).sum();
    let mean = (lanes.sum(squares) + rest) / row.len() as f32;
    // Beyond the floats there is no norm, rather than one of 0.
    let factor = if mean.is_finite() { 1.0 / (mean + epsilon).sqrt() } else { f32::NAN };
    for ((out, value), weight) in out.iter_mut().zip(row).zip(weights) {
        *out = value * factor * weight;
    }
}

/// Inputs in bytes, blocks of 32.
#[inline(always)]
pub(super) fn quantize<L: Lanes>(_: L, row: &[f32], blocks: &mut [InputBlock]) {
    let (whole, rest) = row.as_chunks::<BLOCK>();
    for (values, block) in whole.iter().zip(blocks.iter_mut()) {
        quantize_block(values, block);
    }
    if let (false, Some(block)) = (rest.is_empty(), blocks.get_mut(whole.len())) {
        let mut values = [0.0; BLOCK];
        values[..rest.len()].copy_from_slice(rest);
        quantize_block(&values, block);
    }
}

/// Rounds inputs to brain floats, where they are.
#[inline(always)]
pub(super) fn round<L: Lanes>(_: L, row: &mut [f32]) {
    for value in row {
        *value = Pair::nearest([*value, 0.0]).floats()[0];
    }
}

/// Rounds inputs to brain floats, in pairs; a last one without another stands beside 0.
#[inline(always)]
pub(super) fn pair_up<L: Lanes>(_: L, row: &[f32], pairs: &mut [Pair]) {
    let (whole, rest) = row.as_chunks::<2>();
    for (values, pair) in whole.iter().zip(pairs.iter_mut()) {
        *pair = Pair::nearest(*values);
    }
    if let (&[last], Some(pair)) = (rest, pairs.get_mut(whole.len())) {
        *pair = Pair::nearest([last, 0.0]);
    }
}

#[inline(always)]
fn quantize_block(values: &[f32; BLOCK], block: &mut InputBlock) {
    // The bits of floats without their signs are in the order of the floats, NaN above all.
    let bits =
        values.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(bits);
    block.scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0;
    for (step, value) in block.steps.iter_mut().zip(values) {
        // Added to a number whose last bit is worth 1, a float is rounded, and its low bits are the integer.
        // Of what is no number the step is of no account: the scale is none either.
        *step = (value * inverse + 12_582_912.0).to_bits() as i8;
        sum += i32::from(*step);
    }
    block.sum = sum;
}

/// Rotates the pairs of one head, half by half, and multiplies by `scale`.
#[inline(always)]
pub(super) fn rotate(head: &[f32], cos: &[f32], sin: &[f32], scale: f32, out: &mut [f32]) {
    let half = cos.len();
    let (first, second) = head.split_at(half);
    let (low, high) = out.split_at_mut(half);
    for at in 0..half {
        low[at] = (first[at] * cos[at] - second[at] * sin[at]) * scale;
        high[at] = (second[at] * cos[at] + first[at] * sin[at]) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::{self, Level};
    use super::super::lanes::Portable;
    use super::super::matrix::tests::noise;
    use super::*;

    #[test]
    fn powers_are_those_of_the_library() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let found = f64::from(exp(Portable, [x; LANES])[0]);
            let expected = f64::from(x).exp();
            assert!((found / expected - 1.0).abs() < 3e-7, "{x}: {found} {expected}");
        }
        assert!(exp(Portable, [f32::NEG_INFINITY; LANES])[0] < 2e-38);
        assert!(exp(Portable, [f32::NAN; LANES])[0].is_nan());
        assert_eq!(silu(Portable, [0.0; LANES])[0], 0.0);
        assert!((silu(Portable, [-1.0; LANES])[0] + 0.268_941_43).abs() < 1e-7);
    }

    #[test]
    fn logarithms_of_sums_are_those_of_the_library() {
        for level in Level::all() {
            for size in [1, 16, 1000, 5003] {
                let values: Vec<f32> = noise(size, 4).iter().map(|value| value * 40.0).collect();
                let expected = values.iter().map(|value| f64::from(*value).exp()).sum::<f64>().ln();
                let mut found = f64::NAN;
                kernels::log_sum_exp(level, &values, &mut found);
                assert!((found - expected).abs() < 1e-5, "{level:?} {size}: {found} {expected}");
            }
            for (values, is_so) in [
                (vec![f32::NAN; 3], f64::is_nan as fn(f64) -> bool),
                (vec![f32::NEG_INFINITY; 40], f64::is_nan),
                (vec![0.0, f32::NAN], f64::is_nan),
                (vec![f32::INFINITY, 1.0], f64::is_nan),
            ] {
                let mut found = 0.0;
                kernels::log_sum_exp(level, &values, &mut found);
                assert!(is_so(found), "{level:?} {values:?}: {found}");
            }
        }
    }

    #[test]
    fn probabilities_are_those_of_the_library() {
        for level in Level::all() {
            for (size, temperature) in [(1, 1.0), (16, 0.5), (1000, 1.0), (5003, 2.0)] {
                let logits: Vec<f32> = noise(size, 5).iter().map(|value| value * 20.0).collect();
                let power = |logit: &f32| (f64::from(*logit) / f64::from(temperature)).exp();
                let sum: f64 = logits.iter().map(power).sum();
                let mut found = vec![f32::NAN; size];
                kernels::softmax(level, &logits, temperature, &mut found);
                for (found, logit) in found.iter().zip(&logits) {
                    let apart = f64::from(*found) / (power(logit) / sum) - 1.0;
                    assert!(apart.abs() < 4e-6, "{level:?} {size}: {apart}");
                }
            }
            let mut found = [f32::NAN; 20];
            let mut logits = [-3.0; 20];
            logits[18] = 5.0;
            for temperature in [1e-3, f32::MIN_POSITIVE, f32::from_bits(1)] {
                kernels::softmax(level, &logits, temperature, &mut found);
                assert!((found[18] - 1.0).abs() < 1e-6 && found[19] < 1e-30, "{level:?}");
            }
            logits[7] = f32::NAN;
            kernels::softmax(level, &logits, 1.0, &mut found);
            assert!(found.iter().all(|value| value.is_nan()), "{level:?}");
        }
    }

    #[test]
    fn norms_are_those_of_the_schoolbook() {
        for level in Level::all() {
            for size in [1, 15, 16, 40, 576] {
                let (row, weights) = (noise(size, 1), noise(size, 2));
                let mut out = vec![f32::NAN; size];
                kernels::rms_norm(level, &row, &weights, 1e-5, &mut out);
                let squares: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
                let root = (squares / size as f64 + 1e-5).sqrt();
                for ((found, value), weight) in out.iter().zip(&row).zip(&weights) {
                    let expected = f64::from(*value) / root * f64::from(*weight);
                    assert!((f64::from(*found) - expected).abs() < 1e-5, "{level:?} {size}");
                }
            }
        }
    }

    #[test]
    fn inputs_come_back_within_half_a_step() {
        for level in Level::all() {
            for size in [1, 31, 32, 100] {
                let row: Vec<f32> = noise(size, 3).iter().map(|value| value * 7.0).collect();
                let mut blocks = vec![InputBlock::ZERO; size.div_ceil(BLOCK)];
                kernels::quantize(level, &row, &mut blocks);
                for (at, value) in row.iter().enumerate() {
                    let block = &blocks[at / BLOCK];
                    let found = f32::from(block.steps[at % BLOCK]) * block.scale;
                    assert!((found - value).abs() <= block.scale * 0.501, "{found} {value}");
                }
                for block in &blocks {
                    let sum: i32 = block.steps.iter().map(|&step| i32::from(step)).sum();
                    assert_eq!(block.sum, sum);
                    assert!(!block.steps.contains(&i8::MIN));
                }
            }
        }
        let mut block = [InputBlock::ZERO];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            kernels::quantize(Level::Portable, &[1.0, bad], &mut block);
            assert!(!block[0].scale.is_finite());
        }
        kernels::quantize(Level::Portable, &[0.0; 5], &mut block);
        assert_eq!((block[0].scale, block[0].sum), (0.0, 0));
    }
}
