//! The models that a run leaves: as transformers and vLLM load them, and as PEFT does.

use std::fs;
use std::path::{Path, PathBuf};

use guard_infer::{GuardSettings, Llama, SaveOptions, Tokenizer};
use guard_train::{Best, with_checkpoint};
use serde_json::{Map, Value};

use super::{RunConfig, TrainArguments};
use crate::lines::{self, Outcome};
use crate::model::write_settings;

/// Files that other programs want beside the weights and that training does not change. They may
/// be missing.
const BESIDE: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

const GENERATION: &str = "generation_config.json";

/// Writes the models of a run.
pub(super) struct Export<'a> {
    arguments: &'a TrainArguments,
    config: &'a RunConfig,
    tokenizer: &'a Tokenizer,
    options: SaveOptions,
    /// How the model at the start is asked.
    settings: GuardSettings,
}

impl<'a> Export<'a> {
    pub(super) fn new(
        arguments: &'a TrainArguments,
        config: &'a RunConfig,
        tokenizer: &'a Tokenizer,
        settings: GuardSettings,
    ) -> Outcome<Self> {
        let template = config.encoding.template(tokenizer)?;
        let mut options = SaveOptions::default();
        // What the model learns to end with is often no end token of the model that it began as.
        options.end_token = tokenizer.control_id(template.end());
        Ok(Self { arguments, config, tokenizer, options, settings })
    }

    /// The model at the end of the run, and its adapters where it has some. Gives its folder.
    pub(super) fn last(&self, model: &Llama) -> Outcome<PathBuf> {
        if let Some(lora) = &self.config.lora {
            let folder = self.arguments.output.join("adapter");
            model.save_adapters(
                folder,
                lora,
                self.arguments.model.path().and_then(Path::to_str),
            )?;
        }
        self.write(model, "model")
    }

    /// The model of the best checkpoint. Gives its folder.
    pub(super) fn best(&self, model: Llama, best: Best) -> Outcome<PathBuf> {
        let model = with_checkpoint(model, self.arguments.checkpoint_folder(), best.windows)?;
        self.write(&model, "best")
    }

    fn write(&self, model: &Llama, name: &str) -> Outcome<PathBuf> {
        let folder = self.arguments.output.join(name);
        model.save_folder(&folder, Some(self.tokenizer), self.options)?;
        self.write_generation_config(&folder)?;
        write_settings(self.settings.without_scores(), &folder)?;
        for name in BESIDE {
            let Some(start) = self.arguments.model.path() else { break };
            if let Err(error) = copy(&start.join(name), &folder.join(name)) {
                lines::warn(&error);
            }
        }
        Ok(folder)
    }

    /// That of the model at the start, with the end tokens of the new `config.json`:
    /// transformers and vLLM stop at those of this file alone where there is one.
    fn write_generation_config(&self, folder: &Path) -> Outcome<()> {
        let start = self.arguments.model.path().map(|model| model.join(GENERATION));
        let start = start.filter(|start| start.is_file());
        let mut generation = start.map_or_else(|| Ok(Map::new()), |start| read_json(&start))?;
        let mut config = read_json(&folder.join("config.json"))?;
        generation.insert("eos_token_id".to_owned(), config["eos_token_id"].take());
        generation.entry("bos_token_id").or_insert_with(|| config["bos_token_id"].take());
        let path = folder.join(GENERATION);
        let written = fs::write(&path, serde_json::to_string_pretty(&generation)? + "\n");
        written.map_err(|error| format!("cannot write {}: {error}", path.display()).into())
    }
}

fn read_json(path: &Path) -> Outcome<Map<String, Value>> {
    let told = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| told(&error))?;
    Ok(serde_json::from_str(&text).map_err(|error| told(&error))?)
}

/// Copies a file that is there, unless it is the same one: a copy would empty that.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let same = from.canonicalize().is_ok_and(|from| to.canonicalize().is_ok_and(|to| from == to));
    if from.is_file() && !same {
        fs::copy(from, to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_not_copied_over_itself() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, other] = ["file", "link", "other"].map(|name| folder.path().join(name));
        fs::write(&file, "text").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for to in [&file, &link, &other] {
            copy(&file, to).unwrap();
            assert_eq!(fs::read_to_string(to).unwrap(), "text");
        }
        copy(&folder.path().join("none"), &other).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "text");
    }
}
