//! The TOML file of a run. A key that is not known is an error.

use std::path::Path;

use guard_infer::guard_core::{LoraOptions, Tokenizer};
use guard_train::{ChatTemplate, Cut, HsDpoOptions, TrainOptions};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::lines::Outcome;

/// The stage of training that a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reasoning fine-tuning.
    RSft,
    /// Hard-sample preference tuning.
    HsDpo,
}

impl Stage {
    /// The paper's options.
    fn preset(self) -> TrainOptions {
        match self {
            Self::RSft => TrainOptions::r_sft(),
            Self::HsDpo => TrainOptions::hs_dpo(),
        }
    }
}

/// Everything that a run can be told.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The table `[train]`: how the model is trained.
    pub train: TrainOptions,
    /// The table `[lora]`: adapters instead of all weights.
    pub lora: Option<LoraOptions>,
    /// The table `[encoding]`.
    pub encoding: Encoding,
    /// The table `[checkpoints]`.
    pub checkpoints: Checkpoints,
    /// The table `[hs_dpo]`: the preference loss. Refused where it would change nothing.
    pub hs_dpo: HsDpoOptions,
}

/// How texts become tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Encoding {
    /// The most tokens of a row.
    pub cutoff: usize,
    /// What is cut from longer rows: `reference` or `keep_verdict`.
    pub cut: Cut,
    /// `llama3`, `chat_ml` or `auto`, which looks for the tokens of the two.
    pub template: Template,
}

/// The chat template of a model.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// That of the tokens which the tokenizer has.
    #[default]
    Auto,
    /// LLaMA 3's.
    Llama3,
    /// ChatML.
    ChatMl,
}

impl Default for Encoding {
    fn default() -> Self {
        Self { cutoff: 2048, cut: Cut::Reference, template: Template::Auto }
    }
}

impl Encoding {
    /// The template for this tokenizer.
    ///
    /// # Errors
    ///
    /// When none was named and the tokenizer has the tokens of none that is known.
    pub fn template(&self, tokenizer: &Tokenizer) -> Outcome<ChatTemplate> {
        let known = [ChatTemplate::llama3(), ChatTemplate::chat_ml()];
        let [llama3, chat_ml] = known.clone();
        match self.template {
            Template::Llama3 => Ok(llama3),
            Template::ChatMl => Ok(chat_ml),
            Template::Auto => known
                .into_iter()
                .find(|template| tokenizer.control_id(template.end()).is_some())
                .ok_or_else(|| "the tokenizer has no <|eot_id|> and no <|im_end|>".into()),
        }
    }
}

/// How often checkpoints are written, and how many are kept.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoints {
    /// Steps between two.
    pub every: u64,
    /// The newest that are kept.
    pub keep_last: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 100, keep_last: 2 }
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    train: Map<String, Value>,
    lora: Option<Map<String, Value>>,
    encoding: Encoding,
    checkpoints: Checkpoints,
    hs_dpo: Option<HsDpoOptions>,
}

impl RunConfig {
    /// The options of a file over those of the stage; of the stage alone without one. `rank` asks
    /// for adapters, and goes before the file's.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is no TOML, or has a key that is not known or of another
    /// stage.
    pub fn read(path: Option<&Path>, stage: Stage, rank: Option<usize>) -> Outcome<Self> {
        let Some(path) = path else { return Self::new(File::default(), stage, rank) };
        let told = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
        let file: File = toml::from_str(&text).map_err(|error| told(&error))?;
        Self::new(file, stage, rank).map_err(|error| told(&error).into())
    }

    fn new(file: File, stage: Stage, rank: Option<usize>) -> Outcome<Self> {
        if stage == Stage::RSft && file.hs_dpo.is_some() {
            return Err("[hs_dpo] changes nothing in R-SFT: it is for train_hsdpo".into());
        }
        let mut train = serde_json::to_value(stage.preset())?;
        if let Value::Object(fields) = &mut train {
            fields.extend(file.train);
        }
        let train = serde_json::from_value(train).map_err(|error| format!("[train]: {error}"))?;
        let lora = lora(file.lora, rank).map_err(|error| format!("[lora]: {error}"))?;
        let File { encoding, checkpoints, hs_dpo, .. } = file;
        Ok(Self { train, lora, encoding, checkpoints, hs_dpo: hs_dpo.unwrap_or_default() })
    }
}

/// The options of adapters, if the file or the flag asks for some. Where nobody gave alpha, it is
/// twice the rank.
fn lora(
    table: Option<Map<String, Value>>,
    rank: Option<usize>,
) -> serde_json::Result<Option<LoraOptions>> {
    let Some(mut table) = table.or_else(|| rank.map(|_| Map::new())) else { return Ok(None) };
    if let Some(rank) = rank {
        table.insert("rank".to_owned(), rank.into());
    }
    let has_alpha = table.contains_key("alpha");
    let lora: LoraOptions = serde_json::from_value(table.into())?;
    let alpha = if has_alpha { lora.alpha } else { 2.0 * lora.rank as f64 };
    Ok(Some(lora.with_alpha(alpha)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RunConfig, String> {
        read_for(Stage::HsDpo, text, None)
    }

    fn read_for(stage: Stage, text: &str, rank: Option<usize>) -> Result<RunConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        RunConfig::read(Some(&path), stage, rank).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_changes_the_preset() {
        let config = read(
            "[train]\nepochs = 1\nprecision = \"bf16\"\n[lora]\nrank = 4\ntargets = [\"q_proj\"]\n\
             [encoding]\ncut = \"keep_verdict\"\n[hs_dpo]\nbeta = 0.1\n",
        )
        .unwrap();
        assert_eq!((config.train.epochs, config.train.examples_per_step), (1, 256));
        let lora = config.lora.unwrap();
        assert_eq!((lora.rank, lora.alpha, lora.targets.len()), (4, 8.0, 1));
        assert_eq!((config.hs_dpo.beta, config.hs_dpo.pref_ftx), (0.1, 2.0));
        assert_eq!((config.encoding.cut, config.encoding.cutoff), (Cut::KeepVerdict, 2048));
        assert!(read("").unwrap().lora.is_none());
    }

    #[test]
    fn the_flag_of_adapters_changes_their_rank_only() {
        let lora = |text, rank| {
            let lora = read_for(Stage::RSft, text, rank).unwrap().lora.unwrap();
            (lora.rank, lora.alpha, lora.targets.len())
        };
        assert_eq!(lora("", Some(4)), (4, 8.0, 7));
        assert_eq!(lora("[lora]\n", None), (8, 16.0, 7));
        assert_eq!(lora("[lora]\ntargets = [\"q_proj\"]\n", Some(4)), (4, 8.0, 1));
        assert_eq!(lora("[lora]\nrank = 16\nalpha = 10\n", Some(4)), (4, 10.0, 7));
        assert!(RunConfig::read(None, Stage::RSft, None).unwrap().lora.is_none());
    }

    #[test]
    fn a_table_that_would_change_nothing_is_refused() {
        let error = read_for(Stage::RSft, "[hs_dpo]\nbeta = 0.1\n", None).unwrap_err();
        assert!(error.contains("[hs_dpo]") && error.contains("run.toml"), "{error}");
    }

    #[test]
    fn keys_that_are_not_known_are_named() {
        for (text, name) in [
            ("[train]\nlearning_rat = 1.0\n", "learning_rat"),
            ("[training]\n", "training"),
            ("[lora]\nr = 8\n", "`r`"),
            ("[lora]\ntargets = [\"c_attn\"]\n", "c_attn"),
            ("[encoding]\ntemplate = \"vicuna\"\n", "vicuna"),
            ("[hs_dpo]\ngamma = 1.0\n", "gamma"),
            ("[checkpoints]\nkeep = 1\n", "keep"),
            ("epochs = 3\n", "epochs"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(name) && error.contains("run.toml"), "{text}: {error}");
        }
    }
}
