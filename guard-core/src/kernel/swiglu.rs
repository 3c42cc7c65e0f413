//! The gate of the feed-forward layer, in one pass and on all threads.

use pulp::Arch;
use rayon::prelude::*;

/// Values a task computes: enough work to be worth handing to another thread.
const VALUES_PER_TASK: usize = 1 << 14;

/// `output = silu(gate) * up`, where `silu(x) = x / (1 + exp(-x))`.
pub(super) fn swiglu(gate: &[f32], up: &[f32], output: &mut [f32]) {
    let arch = Arch::new();
    output
        .par_chunks_mut(VALUES_PER_TASK)
        .zip(gate.par_chunks(VALUES_PER_TASK).zip(up.par_chunks(VALUES_PER_TASK)))
        .for_each(|(output, (gate, up))| {
            // Compiled for the widest vectors that the machine has.
            arch.dispatch(
                #[inline(always)]
                || {
                    for (output, (gate, up)) in output.iter_mut().zip(gate.iter().zip(up)) {
                        *output = gate / (1.0 + exp(-gate)) * up;
                    }
                },
            );
        });
}

/// The derivatives of `silu(gate) * up`: that by `gate` replaces the gate, that by `up` the up.
pub(super) fn swiglu_backward(gate: &mut [f32], up: &mut [f32], derivative: &[f32]) {
    let arch = Arch::new();
    gate.par_chunks_mut(VALUES_PER_TASK)
        .zip(up.par_chunks_mut(VALUES_PER_TASK))
        .zip(derivative.par_chunks(VALUES_PER_TASK))
        .for_each(|((gate, up), derivative)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for ((gate, up), derivative) in gate.iter_mut().zip(up).zip(derivative) {
                        let sigmoid = 1.0 / (1.0 + exp(-*gate));
                        let silu = *gate * sigmoid;
                        *gate = derivative * *up * (sigmoid + silu * (1.0 - sigmoid));
                        *up = derivative * silu;
                    }
                },
            );
        });
}

/// e to the x, within 3 units in the last place, without branches so that it vectorises:
/// x = n ln 2 + r, a polynomial for e^r on [-ln 2 / 2, ln 2 / 2], and n added to the exponent.
/// Below -87 the result is about 1e-38 and above 88 it is infinite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, of which the first has few digits, so that n ln 2 is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let whole = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let rest = clamped - whole * LN_2_HIGH - whole * LN_2_LOW;
    // The Taylor polynomial of degree 7: the next term is below 2e-8 on the interval.
    let mut sum = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * rest + factor;
    }
    let power = f32::from_bits(((whole as i32 + 127) << 23).cast_unsigned());
    if x > 88.0 { f32::INFINITY } else { sum * power }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exp_is_exp(x in -87.0_f32..88.0) {
            let exact = f64::from(x).exp();
            prop_assert!(((f64::from(exp(x)) - exact) / exact).abs() < 4e-7, "{x}");
        }

        #[test]
        fn it_is_the_gate(values in proptest::collection::vec((-30.0_f32..30.0, -3.0_f32..3.0), 1..300)) {
            let (gate, up): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            let mut output = vec![f32::NAN; gate.len()];
            swiglu(&gate, &up, &mut output);
            for ((gate, up), found) in gate.into_iter().zip(up).zip(output) {
                let gate = f64::from(gate);
                let expected = gate / (1.0 + (-gate).exp()) * f64::from(up);
                prop_assert!((expected - f64::from(found)).abs() <= 1e-6 * expected.abs() + 1e-30);
            }
        }
    }

    #[test]
    fn extremes_and_nan_come_through() {
        let gate = [f32::NAN, 200.0, -200.0, f32::MAX, f32::MIN];
        let mut output = [0.0; 5];
        swiglu(&gate, &[1.0; 5], &mut output);
        assert!(output[0].is_nan());
        assert_eq!((output[1], output[3]), (200.0, f32::MAX));
        assert!(output[2].abs() < 1e-35 && output[4] <= 0.0);
    }
}
