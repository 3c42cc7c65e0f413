//! Adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::error::{AdapterFault, LoadReport, WeightsError};
use super::export::write_atomically;
use super::file::read_small_file;
use super::tensor_file::{TensorFile, write_tensors};
use crate::model::{AdapterParts, Llama, LoraOptions, Projection};

/// What PEFT puts before the names of the model's own modules.
const PREFIX: &str = "base_model.model.";

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The fields of `adapter_config.json` that say how the adapter computes.
#[derive(Debug, Serialize, Deserialize)]
struct PeftConfig {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: TargetModules,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default = "none")]
    bias: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modules_to_save: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers_to_transform: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rank_pattern: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alpha_pattern: Option<serde_json::Map<String, serde_json::Value>>,
    inference_mode: bool,
}

fn none() -> String {
    "none".to_owned()
}

/// PEFT takes a list of names, or one pattern.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum TargetModules {
    Names(BTreeSet<String>),
    Pattern(String),
}

impl PeftConfig {
    fn of(options: &LoraOptions, base: Option<&str>) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: base.map(str::to_owned),
            r: options.rank,
            lora_alpha: options.alpha,
            lora_dropout: 0.0,
            target_modules: TargetModules::Names(
                options.targets.iter().map(|target| target.name().to_owned()).collect(),
            ),
            use_rslora: options.rank_stabilised,
            use_dora: false,
            fan_in_fan_out: false,
            bias: none(),
            modules_to_save: None,
            layers_to_transform: None,
            rank_pattern: None,
            alpha_pattern: None,
            inference_mode: true,
        }
    }

    /// The options, if the adapter computes as ours do.
    fn options(&self) -> Result<LoraOptions, AdapterFault> {
        let patterns = [&self.rank_pattern, &self.alpha_pattern];
        let other = [
            (self.peft_type != "LORA", "a peft_type other than LORA"),
            (self.use_dora, "use_dora"),
            (self.fan_in_fan_out, "fan_in_fan_out"),
            (self.bias != "none", "trained biases"),
            (self.modules_to_save.as_ref().is_some_and(|m| !m.is_empty()), "modules_to_save"),
            (self.layers_to_transform.is_some(), "layers_to_transform"),
            (
                patterns.iter().any(|p| p.as_ref().is_some_and(|p| !p.is_empty())),
                "patterns of rank or alpha",
            ),
        ];
        if let Some((_, feature)) = other.into_iter().find(|(used, _)| *used) {
            return Err(AdapterFault::Unsupported { feature });
        }
        let TargetModules::Names(names) = &self.target_modules else {
            return Err(AdapterFault::Unsupported { feature: "a pattern of target_modules" });
        };
        let targets = names.iter().map(|name| name.parse::<Projection>());
        let mut options = LoraOptions::default()
            .with_rank(self.r)
            .with_alpha(self.lora_alpha)
            .with_targets(targets.collect::<Result<Vec<_>, _>>()?);
        options.rank_stabilised = self.use_rslora;
        options.validate()?;
        Ok(options)
    }
}

struct StoredAdapters<'a> {
    file: &'a TensorFile,
    rank: usize,
    device: &'a Device,
    read: usize,
}

impl AdapterParts for StoredAdapters<'_> {
    type Error = WeightsError;

    fn parts(
        &mut self,
        layer: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<[Tensor<2>; 2], WeightsError> {
        let mut read = |part: &str, shape: [usize; 2]| {
            self.read += 1;
            let name = format!("{PREFIX}{layer}.{part}.weight");
            Ok::<_, WeightsError>(self.file.read(&name, &shape, self.device)?.reshape(shape))
        };
        Ok([read("lora_A", [self.rank, inputs])?, read("lora_B", [outputs, self.rank])?])
    }
}

impl Llama {
    /// Writes the adapters as PEFT reads them. `options` are those that they were made with, and
    /// `base` names the model that they belong to. The configuration comes last.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file that could not be written, or says that there is no
    /// adapter.
    pub fn save_adapters(
        &self,
        folder: impl AsRef<Path>,
        options: &LoraOptions,
        base: Option<&str>,
    ) -> Result<(), WeightsError> {
        let folder = folder.as_ref();
        let path = folder.join(CONFIG);
        let fault = |fault| WeightsError::Adapter { path: path.clone(), fault };
        if !self.has_adapters() {
            return Err(fault(AdapterFault::None));
        }
        let mut tensors = self.trained_tensors();
        for tensor in &mut tensors {
            tensor.name.insert_str(0, PREFIX);
        }
        let config = serde_json::to_string_pretty(&PeftConfig::of(options, base))
            .map_err(|error| fault(error.into()))?;
        fs::create_dir_all(folder).map_err(|source| WeightsError::io("write", folder, source))?;
        write_tensors(&folder.join(WEIGHTS), &tensors)?;
        write_atomically(&path, config.as_bytes())
    }

    /// The model with the adapters of a folder, in 32-bit floats, and their options. Those that
    /// it had are dropped.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] when a file cannot be read, the adapter computes in a way that is not
    /// supported, or its tensors are not those of this model.
    pub fn load_adapters(
        self,
        folder: impl AsRef<Path>,
    ) -> Result<(Self, LoraOptions), WeightsError> {
        let path = folder.as_ref().join(CONFIG);
        let fault = |fault| WeightsError::Adapter { path: path.clone(), fault };
        let config: PeftConfig =
            serde_json::from_str(&read_small_file(&path)?).map_err(|error| fault(error.into()))?;
        let options = config.options().map_err(fault)?;
        let file = TensorFile::open(folder.as_ref().join(WEIGHTS))?;
        let device = self.device();
        let mut parts =
            StoredAdapters { file: &file, rank: options.rank, device: &device, read: 0 };
        let model = self.with_adapters(&options, &mut parts)?;
        if parts.read == file.tensors().count() {
            return Ok((model, options));
        }
        let ours: BTreeSet<String> =
            model.parameters().into_iter().map(|p| format!("{PREFIX}{}", p.name)).collect();
        let unused = file.tensors().map(|(name, _)| name.to_owned());
        let unused = unused.filter(|name| !ours.contains(name)).collect();
        Err(WeightsError::Mismatch(Box::new(LoadReport { unused, ..LoadReport::default() })))
    }
}
