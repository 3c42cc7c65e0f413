//! The shape of a LLaMA model, read from and written to the hub's `config.json`.
//!
//! The file and the type that the program uses are two things: the latter exists only after
//! every check has passed.

use std::path::Path;

use crate::weights::WeightsError;
use hub::HubConfig;

mod hub;

pub(crate) use hub::TokenIds;

/// The shape of a LLaMA model.
///
/// What is read from a file has passed [`LlamaConfig::validate`]. Fields can be changed freely:
/// whatever makes a model of them checks them again.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head, even. `heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// How many positions the model was made for.
    pub max_positions: usize,
    /// Added to the mean square in RMS norm.
    pub rms_norm_eps: f64,
    /// The rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the head shares the embedding matrix.
    pub tied_head: bool,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The tokens that end a text, in the file's order.
    pub eos: Vec<u32>,
}

/// Rotary position embedding, in the rotate-half layout of the hub's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are changed for longer contexts.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all: LLaMA 2 and 3.
    #[default]
    None,
    /// All frequencies are divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, and those between are blended:
    /// LLaMA 3.1 and 3.2.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are scaled in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context before scaling.
        original_max_positions: usize,
    },
    /// Each frequency is divided by its own factor: what a GGUF file stores as `rope_freqs`, where
    /// that is not LLaMA 3's scaling. The hub's format cannot express it.
    PerFrequency {
        /// One factor a pair of dimensions, `head_dim / 2` in all.
        factors: Vec<f64>,
    },
}

/// A `config.json`, or another description of a model, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not the JSON that it should be.
    #[error("not a LLaMA config.json")]
    Json(#[from] serde_json::Error),
    /// The file describes another architecture.
    #[error("`{field}` is `{found}`: only {expected} is supported")]
    Unsupported {
        /// The field of config.json.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// A field is out of range.
    #[error("`{field}` is {found}, expected {expected}")]
    OutOfRange {
        /// The field of config.json.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What is accepted.
        expected: String,
    },
}

fn out_of_range(
    field: &'static str,
    found: &dyn ToString,
    expected: impl Into<String>,
) -> ConfigError {
    ConfigError::OutOfRange { field, found: found.to_string(), expected: expected.into() }
}

/// The largest sizes accepted, several times those of the largest LLaMA: what is beyond them is
/// refused before anything is allocated.
mod limits {
    pub(super) const WIDTH: usize = 1 << 17;
    pub(super) const LAYERS: usize = 1 << 10;
    pub(super) const HEADS: usize = 1 << 10;
    pub(super) const VOCABULARY: usize = 1 << 22;
    pub(super) const POSITIONS: usize = 1 << 24;
}

impl LlamaConfig {
    /// A tiny model for tests and examples: 2 layers of 32, 4 heads on 2, tied head.
    #[must_use]
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            hidden_size: 32,
            intermediate_size: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            vocab_size,
            max_positions: 512,
            rms_norm_eps: 1e-5,
            rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
            tied_head: true,
            bos: None,
            eos: Vec::new(),
        }
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when it is not JSON, not LLaMA, or out of range.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        serde_json::from_str::<HubConfig>(json)?.try_into()
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file and what is wrong with it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let json = crate::weights::read_small_file(path)?;
        Self::from_json(&json)
            .map_err(|source| WeightsError::Config { path: path.to_owned(), source })
    }

    /// The text of a `config.json` that transformers reads, for weights stored in `dtype` (as
    /// `float32`, `float16` or `bfloat16`).
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unsupported`] for a rotary scaling that the hub's format cannot express.
    pub fn to_json(&self, dtype: &str) -> Result<String, ConfigError> {
        Ok(serde_json::to_string_pretty(&HubConfig::new(self, dtype)?)?)
    }

    /// Query heads per key and value head of a configuration that [`LlamaConfig::validate`] accepts.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// How many parameters the model has, a shared head counted once, if
    /// [`LlamaConfig::validate`] accepts the configuration.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads);
        let feed_forward = 3 * self.hidden_size * self.intermediate_size;
        let block = attention + feed_forward + 2 * self.hidden_size;
        let matrices = if self.tied_head { 1 } else { 2 };
        self.layers * block + (matrices * self.vocab_size + 1) * self.hidden_size
    }

    /// Checks every range, so that what follows can compute sizes without overflow.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let size = |field, value, limit| match value {
            1.. if value <= limit => Ok(()),
            _ => Err(out_of_range(field, &value, format!("from 1 to {limit}"))),
        };
        size("hidden_size", self.hidden_size, limits::WIDTH)?;
        size("intermediate_size", self.intermediate_size, limits::WIDTH)?;
        size("num_hidden_layers", self.layers, limits::LAYERS)?;
        size("num_attention_heads", self.heads, limits::HEADS)?;
        size("num_key_value_heads", self.kv_heads, limits::HEADS)?;
        size("head_dim", self.head_dim, limits::WIDTH)?;
        size("vocab_size", self.vocab_size, limits::VOCABULARY)?;
        size("max_position_embeddings", self.max_positions, limits::POSITIONS)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({})", self.heads);
            return Err(out_of_range("num_key_value_heads", &self.kv_heads, expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(out_of_range("head_dim", &self.head_dim, "an even number"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(out_of_range("rms_norm_eps", &self.rms_norm_eps, "above 0 and below 1"));
        }
        self.rope.validate(self.head_dim)?;
        for id in self.eos.iter().chain(&self.bos) {
            if *id as usize >= self.vocab_size {
                let expected = format!("below vocab_size ({})", self.vocab_size);
                return Err(out_of_range("bos_token_id or eos_token_id", &id, expected));
            }
        }
        Ok(())
    }
}

impl RopeConfig {
    fn validate(&self, head_dim: usize) -> Result<(), ConfigError> {
        let at_least_1 = |field, value: f64| match value {
            1.0.. if value.is_finite() => Ok(()),
            _ => Err(out_of_range(field, &value, "finite and at least 1")),
        };
        at_least_1("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => at_least_1("rope_scaling.factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                at_least_1("rope_scaling.factor", *factor)?;
                if !(*low_freq_factor > 0.0
                    && low_freq_factor < high_freq_factor
                    && high_freq_factor.is_finite())
                {
                    let found = format!("{low_freq_factor} and {high_freq_factor}");
                    let expected = "0 < low_freq_factor < high_freq_factor";
                    return Err(out_of_range("rope_scaling", &found, expected));
                }
                match *original_max_positions {
                    1..=limits::POSITIONS => Ok(()),
                    found => Err(out_of_range(
                        "rope_scaling.original_max_position_embeddings",
                        &found,
                        format!("from 1 to {}", limits::POSITIONS),
                    )),
                }
            }
            RopeScaling::PerFrequency { factors } => {
                if factors.len() != head_dim / 2 {
                    let expected = format!("{} factors", head_dim / 2);
                    return Err(out_of_range("rope_freqs", &factors.len(), expected));
                }
                match factors.iter().find(|factor| !(**factor > 0.0 && factor.is_finite())) {
                    Some(factor) => Err(out_of_range("rope_freqs", &factor, "finite and above 0")),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(change: impl Fn(&mut serde_json::Value)) -> String {
        let mut value: serde_json::Value =
            serde_json::from_str(&LlamaConfig::tiny(64).to_json("float32").unwrap()).unwrap();
        change(&mut value);
        value.to_string()
    }

    fn refused(field: &str, value: impl Into<serde_json::Value>) -> String {
        let value = value.into();
        let json = json(|config| config[field] = value.clone());
        LlamaConfig::from_json(&json).unwrap_err().to_string()
    }

    #[test]
    fn json_round_trips() {
        let mut config = LlamaConfig::tiny(64);
        config.eos = vec![1, 2];
        config.bos = Some(3);
        config.rope.scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let json = config.to_json("bfloat16").unwrap();
        assert_eq!(LlamaConfig::from_json(&json).unwrap(), config);
    }

    #[test]
    fn newer_rope_parameters_are_read() {
        let config = LlamaConfig::from_json(&json(|config| {
            config["rope_theta"] = serde_json::Value::Null;
            config["rope_parameters"] =
                serde_json::json!({"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0});
        }))
        .unwrap();
        assert_eq!(config.rope.theta, 5e5);
        assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn fault_t02_sizes_out_of_range_are_named() {
        for field in ["hidden_size", "num_hidden_layers", "vocab_size", "num_key_value_heads"] {
            assert!(refused(field, 0).contains(field), "{field}");
            assert!(refused(field, 1_u64 << 40).contains(field), "{field}");
        }
        assert!(refused("num_attention_heads", 0).contains("num_attention_heads"));
        assert!(refused("num_key_value_heads", 3).contains("divisor"));
        assert!(refused("head_dim", 7).contains("even"));
        assert!(refused("eos_token_id", 64).contains("below vocab_size (64)"));
        assert!(refused("rms_norm_eps", 0.0).contains("rms_norm_eps"));
        assert!(refused("hidden_size", -1).contains("config.json"));
    }

    #[test]
    fn fault_t02_rope_out_of_range_is_named() {
        assert!(refused("rope_theta", 0.0).contains("rope_theta"));
        let huge = json(|_| ()).replace("10000.0", "1e999");
        assert!(LlamaConfig::from_json(&huge).is_err(), "infinite in f64");
        let unknown =
            refused("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 2}));
        assert!(unknown.contains("yarn"), "{unknown}");
        let partial =
            refused("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 8}));
        assert!(partial.contains("low_freq_factor"), "{partial}");
        let mut config = LlamaConfig::tiny(64);
        for theta in [f64::NAN, f64::INFINITY, 0.0] {
            config.rope.theta = theta;
            assert!(config.validate().is_err());
        }
    }

    #[test]
    fn absent_and_null_fields_take_the_hubs_defaults() {
        let config = LlamaConfig::from_json(&json(|config| {
            for field in ["architectures", "tie_word_embeddings", "attention_bias", "head_dim"] {
                config[field] = serde_json::Value::Null;
            }
            config.as_object_mut().unwrap().remove("num_key_value_heads");
        }))
        .unwrap();
        assert!(!config.tied_head);
        assert_eq!((config.kv_heads, config.head_dim), (4, 8));
    }

    #[test]
    fn other_architectures_are_refused() {
        assert!(refused("model_type", "qwen3").contains("qwen3"));
        assert!(refused("attention_bias", true).contains("attention_bias"));
        assert!(refused("hidden_act", "gelu").contains("gelu"));
    }

    #[test]
    fn parameters_are_counted() {
        // Per layer: q and o 2*32*32, k and v 2*32*16, ffn 3*32*64, norms 2*32; embedding 64*32, norm 32.
        let per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32;
        assert_eq!(LlamaConfig::tiny(64).parameter_count(), 2 * per_layer + 64 * 32 + 32);
    }
}
