//! The options of a training run, with the paper's presets.

use guard_core::{OptionsError, Precision, Recompute, RecordOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How a model is trained. The default is R-SFT of the paper (section 4.2 and its released
/// scripts); [`TrainOptions::hs_dpo`] is the second stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainOptions {
    /// How often each example is seen; at least 1. Default 3.
    pub epochs: u32,
    /// The window: examples between two steps of the optimiser, at least 1. Default 384.
    pub examples_per_step: usize,
    /// Tokens that go through the model together, at least 1; an example with more goes alone.
    /// It decides memory and speed, and nothing else. Default 4096.
    pub tokens_per_batch: usize,
    /// The most examples that go through the model together; memory and speed again. Default no
    /// limit but the tokens'.
    pub examples_per_batch: Option<usize>,
    /// The highest learning rate; finite and at least 0. Default 5e-5.
    pub learning_rate: f64,
    /// How the learning rate falls. Default cosine.
    pub schedule: Schedule,
    /// Steps in which the learning rate rises from 0. Default 0.
    pub warmup_steps: u64,
    /// The last step, if that comes before the epochs end. The schedule ends there as well.
    pub max_steps: Option<u64>,
    /// The first beta of AdamW, from 0 to below 1. Default 0.9.
    pub beta1: f64,
    /// The second beta of AdamW, from 0 to below 1. Default 0.999.
    pub beta2: f64,
    /// The epsilon of AdamW, above 0. Default 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices, at least 0; norms never decay. Default 0.
    pub weight_decay: f64,
    /// The largest norm of all gradients together, above 0; none does not clip. Default 1.
    pub max_gradient_norm: Option<f64>,
    /// The first blocks that are not trained, and the embedding with them, if there are any; at
    /// most as many as the model has. A tied head is frozen with the embedding. Default 0.
    pub frozen_blocks: usize,
    /// The seed of the order of examples. Default 42.
    pub seed: u64,
    /// The order of examples. Default shuffled anew in each epoch.
    pub order: Order,
    /// What becomes of the examples at an epoch's end that fill no whole window. Default kept.
    pub last_window: LastWindow,
    /// The float type of matrix products. Default 32 bits.
    #[serde(with = "names::precision")]
    pub precision: Precision,
    /// What is computed twice to save memory. Default the projections.
    #[serde(with = "names::recompute")]
    pub recompute: Recompute,
    /// Target tokens whose logits are in memory at a time, at least 1. Default 512.
    pub head_chunk: usize,
    /// Windows in a row that may be skipped because they are not finite before the run ends with
    /// an error. Default 3.
    pub max_skipped: u32,
}

/// How the learning rate falls from its highest value at the first step to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Schedule {
    /// Half a cosine, to 0 behind the last step.
    #[default]
    Cosine,
    /// A line, to 0 behind the last step.
    Linear,
    /// Not at all.
    Constant,
}

/// The order in which an epoch goes through the examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// A permutation that depends on the seed and the number of the epoch.
    #[default]
    Shuffled,
    /// As they were given.
    AsGiven,
}

/// What becomes of the examples at an epoch's end that fill no whole window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LastWindow {
    /// They make a smaller window, whose mean is over what it has.
    #[default]
    Kept,
    /// They wait for another epoch.
    Dropped,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            epochs: 3,
            examples_per_step: 384,
            tokens_per_batch: 4096,
            examples_per_batch: None,
            learning_rate: 5e-5,
            schedule: Schedule::Cosine,
            warmup_steps: 0,
            max_steps: None,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_gradient_norm: Some(1.0),
            frozen_blocks: 0,
            seed: 42,
            order: Order::Shuffled,
            last_window: LastWindow::Kept,
            precision: Precision::F32,
            recompute: Recompute::Projections,
            head_chunk: 512,
            max_skipped: 3,
        }
    }
}

impl TrainOptions {
    /// R-SFT of the paper: 3 epochs of windows of 384 at 5e-5. It is the same for 1B, 3B and 8B.
    #[must_use]
    pub fn r_sft() -> Self {
        Self::default()
    }

    /// HS-DPO of the paper: 2 epochs of windows of 256 pairs at 5e-6. It is the same for 1B, 3B
    /// and 8B.
    #[must_use]
    pub fn hs_dpo() -> Self {
        Self { epochs: 2, examples_per_step: 256, learning_rate: 5e-6, ..Self::default() }
    }

    pub(crate) fn record(&self) -> RecordOptions {
        RecordOptions::default().with_precision(self.precision).with_recompute(self.recompute)
    }

    /// What a gradient of this norm is multiplied by, as torch's `clip_grad_norm_` does.
    pub(crate) fn clipping(&self, norm: f64) -> f64 {
        let most = self.max_gradient_norm.unwrap_or(f64::INFINITY);
        (most / (norm + 1e-6)).min(1.0)
    }

    /// What decides memory, speed or when to give up, and no step but for its rounding: a resumed
    /// run may have it otherwise.
    pub(crate) const MAY_CHANGE: [&str; 5] =
        ["tokens_per_batch", "examples_per_batch", "recompute", "head_chunk", "max_skipped"];

    /// The options by name, as configuration files have them.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            // A struct of numbers and names is always an object.
            _ => Map::new(),
        }
    }

    /// Checks the ranges. Numbers that the optimiser takes as 32-bit floats are checked as such.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let counts = [
            ("epochs", self.epochs as usize),
            ("examples_per_step", self.examples_per_step),
            ("tokens_per_batch", self.tokens_per_batch),
            ("examples_per_batch", self.examples_per_batch.unwrap_or(1)),
            ("head_chunk", self.head_chunk),
            ("max_steps", usize::from(self.max_steps != Some(0))),
        ];
        for (option, count) in counts {
            check(count > 0, option, "at least 1", 0.0)?;
        }
        let at_least_0 = |x: f64| (x as f32).is_finite() && x >= 0.0;
        let above_0 = |x: f64| (x as f32).is_finite() && x as f32 > 0.0;
        let share = |x: f64| x >= 0.0 && (x as f32) < 1.0;
        check(at_least_0(self.learning_rate), "learning_rate", AT_LEAST_0, self.learning_rate)?;
        check(share(self.beta1), "beta1", BELOW_1, self.beta1)?;
        check(share(self.beta2), "beta2", BELOW_1, self.beta2)?;
        check(above_0(self.epsilon), "epsilon", ABOVE_0, self.epsilon)?;
        check(at_least_0(self.weight_decay), "weight_decay", AT_LEAST_0, self.weight_decay)?;
        let norm = self.max_gradient_norm.unwrap_or(1.0);
        check(above_0(norm), "max_gradient_norm", ABOVE_0, norm)
    }
}

const AT_LEAST_0: &str = "finite and at least 0 as a 32-bit float";
const ABOVE_0: &str = "finite and above 0 as a 32-bit float";
const BELOW_1: &str = "from 0 to below 1 as a 32-bit float";

fn check(
    fits: bool,
    option: &'static str,
    expected: &'static str,
    found: f64,
) -> Result<(), OptionsError> {
    match fits {
        true => Ok(()),
        false => Err(OptionsError { option, expected, found: found.to_string() }),
    }
}

/// The words for the model's options in configuration files.
mod names {
    /// `f32`, `bf16` or `bf16x3`.
    pub(super) mod precision {
        use guard_core::Precision;
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Name {
            F32,
            Bf16,
            Bf16x3,
        }

        pub(in super::super) fn serialize<S: Serializer>(
            precision: &Precision,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match precision {
                Precision::F32 => Name::F32,
                Precision::Bf16 => Name::Bf16,
                Precision::Bf16x3 => Name::Bf16x3,
            }
            .serialize(serializer)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Precision, D::Error> {
            Ok(match Name::deserialize(deserializer)? {
                Name::F32 => Precision::F32,
                Name::Bf16 => Precision::Bf16,
                Name::Bf16x3 => Precision::Bf16x3,
            })
        }
    }

    /// `projections` or `nothing`.
    pub(super) mod recompute {
        use guard_core::Recompute;
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Name {
            Projections,
            Nothing,
        }

        pub(in super::super) fn serialize<S: Serializer>(
            recompute: &Recompute,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match recompute {
                Recompute::Projections => Name::Projections,
                Recompute::Nothing => Name::Nothing,
            }
            .serialize(serializer)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Recompute, D::Error> {
            Ok(match Name::deserialize(deserializer)? {
                Name::Projections => Recompute::Projections,
                Name::Nothing => Recompute::Nothing,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_in_range_and_bad_options_are_named() {
        assert_eq!(TrainOptions::r_sft().validate(), Ok(()));
        assert_eq!(TrainOptions::hs_dpo().validate(), Ok(()));
        let refused = |option: &str, bad: TrainOptions| {
            assert_eq!(bad.validate().unwrap_err().option, option);
        };
        let fine = TrainOptions::default;
        refused("epochs", TrainOptions { epochs: 0, ..fine() });
        refused("examples_per_step", TrainOptions { examples_per_step: 0, ..fine() });
        refused("examples_per_batch", TrainOptions { examples_per_batch: Some(0), ..fine() });
        refused("max_steps", TrainOptions { max_steps: Some(0), ..fine() });
        refused("learning_rate", TrainOptions { learning_rate: f64::NAN, ..fine() });
        refused("beta2", TrainOptions { beta2: 1.0, ..fine() });
        refused("epsilon", TrainOptions { epsilon: 0.0, ..fine() });
        refused("weight_decay", TrainOptions { weight_decay: -0.1, ..fine() });
        refused("max_gradient_norm", TrainOptions { max_gradient_norm: Some(0.0), ..fine() });
    }

    /// In 64 bits each of these is in range.
    #[test]
    fn what_32_bits_make_of_an_option_counts() {
        let refused = |option: &str, bad: TrainOptions| {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.option, option);
            assert!(error.expected.contains("32-bit"), "{error}");
        };
        let fine = TrainOptions::default;
        refused("learning_rate", TrainOptions { learning_rate: 1e300, ..fine() });
        refused("beta1", TrainOptions { beta1: 0.999_999_99, ..fine() });
        refused("beta2", TrainOptions { beta2: 0.999_999_99, ..fine() });
        refused("epsilon", TrainOptions { epsilon: 1e-60, ..fine() });
        refused("weight_decay", TrainOptions { weight_decay: 1e39, ..fine() });
        refused("max_gradient_norm", TrainOptions { max_gradient_norm: Some(1e-60), ..fine() });
    }

    #[test]
    fn unknown_keys_are_refused() {
        let read = |json: &str| serde_json::from_str::<TrainOptions>(json);
        let options = read(r#"{"epochs": 1, "precision": "bf16", "schedule": "linear"}"#).unwrap();
        assert_eq!((options.epochs, options.precision), (1, Precision::Bf16));
        assert_eq!(options.schedule, Schedule::Linear);
        assert!(read(r#"{"epoch": 1}"#).unwrap_err().to_string().contains("unknown field `epoch`"));
        let written = serde_json::to_string(&options).unwrap();
        assert_eq!(read(&written).unwrap(), options);
    }
}
