//! Adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{AdapterFault, LoadReport, WeightsError};
use super::export::write_atomically;
use super::file::read_small_file;
use super::tensor_file::{TensorFile, write_tensors};
use crate::model::{AdapterParts, AdapterShape, Llama, LoraOptions, Projection};

/// What PEFT puts before the names of the model's own modules.
const PREFIX: &str = "base_model.model.";

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// `adapter_config.json`: the fields that say how the adapter computes, and all others.
#[derive(Debug, Serialize, Deserialize)]
struct PeftConfig {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    /// Of training only.
    #[serde(default)]
    lora_dropout: f64,
    target_modules: TargetModules,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    inference_mode: bool,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
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
        // What PEFT takes for granted; other readers of the file may not.
        let plain = [
            ("bias", Value::from("none")),
            ("fan_in_fan_out", Value::from(false)),
            ("use_dora", Value::from(false)),
        ];
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
            inference_mode: true,
            others: plain.map(|(field, value)| (field.to_owned(), value)).into(),
        }
    }

    /// The options, if the adapter computes as ours do.
    fn options(&self) -> Result<LoraOptions, AdapterFault> {
        if self.peft_type != "LORA" {
            let found = self.peft_type.as_str().into();
            return Err(unsupported("peft_type", "\"LORA\"", &found));
        }
        for (field, value) in &self.others {
            if let Some(expected) = expected_instead(field, value) {
                return Err(unsupported(field, expected, value));
            }
        }
        let names = match &self.target_modules {
            TargetModules::Names(names) => names,
            TargetModules::Pattern(pattern) => {
                let found = pattern.as_str().into();
                return Err(unsupported("target_modules", "a list of names", &found));
            }
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

/// Fields that say where an adapter comes from or how it began, whatever their value.
const NOTES: [&str; 8] = [
    "auto_mapping",
    "eva_config",
    "layers_pattern",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// What a field should be, if with this value the adapter may compute otherwise. PEFT goes on
/// adding variants, each with a field that is null, false or empty where it is not used, so any
/// other value of a field that is not known is taken for one.
fn expected_instead(field: &str, value: &Value) -> Option<&'static str> {
    let unset = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match field {
        _ if unset || NOTES.contains(&field) => None,
        "bias" => (value != "none").then_some("\"none\""),
        // Others change the weights beneath the adapter as well.
        "init_lora_weights" => {
            let harmless =
                [Value::from(true), "gaussian".into(), "eva".into(), "orthogonal".into()];
            (!harmless.contains(value)).then_some("true, \"gaussian\", \"eva\" or \"orthogonal\"")
        }
        _ => Some("null, false or nothing in it"),
    }
}

fn unsupported(field: &str, expected: &'static str, found: &Value) -> AdapterFault {
    const SHOWN: usize = 60;
    let found = found.to_string().chars().take(SHOWN).collect();
    AdapterFault::Unsupported { field: field.to_owned(), expected, found }
}

/// Whether the adapters of a model are those that the options describe.
fn check(model: &Llama, options: &LoraOptions) -> Result<(), AdapterFault> {
    let wanted = AdapterShape { rank: options.rank, scale: options.scale() };
    let told = |shape: Option<AdapterShape>| match shape {
        Some(AdapterShape { rank, scale }) => {
            format!("an adapter of rank {rank} and scale {scale}")
        }
        None => "no adapter".to_owned(),
    };
    for (layer, projection, found) in model.adapter_shapes() {
        let expected = options.targets.contains(&projection).then_some(wanted);
        if found != expected {
            let (expected, found) = (told(expected), told(found));
            return Err(AdapterFault::Differs { layer, expected, found });
        }
    }
    Ok(())
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
    /// `base` names the model that they belong to: its path, or its id on the hub. The
    /// configuration comes last.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file that could not be written, or says that there is no
    /// adapter, or which differs from the options.
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
        check(self, options).map_err(fault)?;
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
