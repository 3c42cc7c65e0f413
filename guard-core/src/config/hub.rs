//! The hub's `config.json`, as a file: what it may hold, and what becomes of it.

use serde::{Deserialize, Serialize};

use super::{ConfigError, LlamaConfig, RopeConfig, RopeScaling, out_of_range};

/// `config.json` as the hub has it, both with the older `rope_theta` and `rope_scaling` and with
/// the newer `rope_parameters`. Fields that do not concern a LLaMA are ignored, a chat template
/// among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HubConfig {
    /// Written for others; what is read is told by the type of the model.
    #[serde(default)]
    architectures: Option<Vec<String>>,
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default)]
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<HubRope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rope_parameters: Option<HubRope>,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    bos_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: Option<TokenIds>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    torch_dtype: Option<String>,
}

fn silu() -> String {
    "silu".to_owned()
}

/// One token id or several.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct HubRope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    #[serde(default, rename = "type", skip_serializing)]
    older_rope_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rope_theta: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    low_freq_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    high_freq_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original_max_position_embeddings: Option<usize>,
}

impl TryFrom<HubConfig> for LlamaConfig {
    type Error = ConfigError;

    fn try_from(hub: HubConfig) -> Result<Self, ConfigError> {
        hub.check_architecture()?;
        let heads = hub.num_attention_heads;
        if heads == 0 {
            return Err(out_of_range("num_attention_heads", &heads, "at least 1"));
        }
        if hub.head_dim.is_none() && !hub.hidden_size.is_multiple_of(heads) {
            let expected = format!("a multiple of num_attention_heads ({heads})");
            return Err(out_of_range("hidden_size", &hub.hidden_size, expected));
        }
        let config = Self {
            rope: hub.rope()?,
            hidden_size: hub.hidden_size,
            intermediate_size: hub.intermediate_size,
            layers: hub.num_hidden_layers,
            heads,
            kv_heads: hub.num_key_value_heads.unwrap_or(heads),
            head_dim: hub.head_dim.unwrap_or(hub.hidden_size / heads),
            vocab_size: hub.vocab_size,
            max_positions: hub.max_position_embeddings,
            rms_norm_eps: hub.rms_norm_eps,
            tied_head: hub.tie_word_embeddings.unwrap_or(false),
            bos: hub.bos_token_id,
            eos: hub.eos_token_id.map(TokenIds::into_vec).unwrap_or_default(),
        };
        config.validate()?;
        Ok(config)
    }
}

impl HubConfig {
    fn check_architecture(&self) -> Result<(), ConfigError> {
        let unsupported = |field, found: &str, expected| {
            Err(ConfigError::Unsupported { field, found: found.to_owned(), expected })
        };
        if self.model_type != "llama" {
            return unsupported("model_type", &self.model_type, "`llama`");
        }
        if self.hidden_act != "silu" {
            return unsupported("hidden_act", &self.hidden_act, "`silu`");
        }
        for (field, bias) in [("attention_bias", self.attention_bias), ("mlp_bias", self.mlp_bias)]
        {
            if bias == Some(true) {
                return unsupported(field, "true", "`false`");
            }
        }
        Ok(())
    }

    fn rope(&self) -> Result<RopeConfig, ConfigError> {
        const DEFAULT_THETA: f64 = 10_000.0;
        let older = self.rope_scaling.as_ref();
        let newer = self.rope_parameters.as_ref();
        let theta = newer.and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let scaling = match newer.or(older) {
            Some(rope) => rope.scaling()?,
            None => RopeScaling::None,
        };
        Ok(RopeConfig { theta: theta.unwrap_or(DEFAULT_THETA), scaling })
    }

    pub(super) fn new(config: &LlamaConfig, dtype: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            architectures: Some(vec!["LlamaForCausalLM".to_owned()]),
            model_type: "llama".to_owned(),
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.layers,
            num_attention_heads: config.heads,
            num_key_value_heads: Some(config.kv_heads),
            head_dim: Some(config.head_dim),
            vocab_size: config.vocab_size,
            max_position_embeddings: config.max_positions,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: Some(config.rope.theta),
            rope_scaling: HubRope::new(&config.rope.scaling)?,
            rope_parameters: None,
            tie_word_embeddings: Some(config.tied_head),
            bos_token_id: config.bos,
            eos_token_id: match config.eos.as_slice() {
                [] => None,
                [id] => Some(TokenIds::One(*id)),
                ids => Some(TokenIds::Many(ids.to_vec())),
            },
            hidden_act: silu(),
            attention_bias: Some(false),
            mlp_bias: Some(false),
            torch_dtype: Some(dtype.to_owned()),
        })
    }
}

impl HubRope {
    fn scaling(&self) -> Result<RopeScaling, ConfigError> {
        let needed = |field, value: Option<f64>| {
            value.ok_or_else(|| out_of_range(field, &"missing", "a number"))
        };
        match self.rope_type.as_deref().or(self.older_rope_type.as_deref()) {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => {
                Ok(RopeScaling::Linear { factor: needed("rope_scaling.factor", self.factor)? })
            }
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: needed("rope_scaling.factor", self.factor)?,
                low_freq_factor: needed("rope_scaling.low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: needed("rope_scaling.high_freq_factor", self.high_freq_factor)?,
                original_max_positions: self.original_max_position_embeddings.unwrap_or(0),
            }),
            Some(other) => Err(ConfigError::Unsupported {
                field: "rope_scaling.rope_type",
                found: other.to_owned(),
                expected: "`default`, `linear` or `llama3`",
            }),
        }
    }

    fn new(scaling: &RopeScaling) -> Result<Option<Self>, ConfigError> {
        match scaling {
            RopeScaling::None => Ok(None),
            RopeScaling::Linear { factor } => Ok(Some(Self {
                rope_type: Some("linear".to_owned()),
                factor: Some(*factor),
                ..Self::default()
            })),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => Ok(Some(Self {
                rope_type: Some("llama3".to_owned()),
                factor: Some(*factor),
                low_freq_factor: Some(*low_freq_factor),
                high_freq_factor: Some(*high_freq_factor),
                original_max_position_embeddings: Some(*original_max_positions),
                ..Self::default()
            })),
            RopeScaling::PerFrequency { .. } => Err(ConfigError::Unsupported {
                field: "rope_scaling",
                found: "one factor a frequency".to_owned(),
                expected: "a scaling that config.json can express",
            }),
        }
    }
}
