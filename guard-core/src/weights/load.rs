//! From stored tensors to a model on a device.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};

use super::error::{LoadReport, ShapeMismatch, WeightsError};
use super::names::{EMBEDDING, HEAD, is_derived};
use super::store::{StoredTensor, TensorStore};
use crate::config::LlamaConfig;
use crate::model::{Llama, Parameters};

/// The float type of a loaded model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// 32-bit floats: the fastest on CPUs, and what training keeps.
    #[default]
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit brain floats: half the memory on GPUs that compute with them.
    Bf16,
}

impl WeightType {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// How matrices of floats are packed. Integers of a file stay what they are: `Q8_0`, `Q4_0` and `Q4_1` to
/// the bit, `Q4_K` with the scales of its sub-blocks as 16-bit floats, `Q6_K` in steps of 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackedType {
    /// As they are in the file, as 32-bit floats or as either kind of 16-bit ones: the same numbers, with
    /// which is computed in 32 bits.
    #[default]
    Float,
    /// As brain floats (bfloat16), and the inputs of each product are rounded to such, too; sums have 32 bits.
    /// On processors with AVX-512 BF16, where many tokens are read, this is 1.4 to 1.9 times as fast as
    /// [`Float`](Self::Float). Elsewhere it is worth its loss only for the memory that 32-bit floats take.
    /// Matrices of gate and up that are kept in unlike ways in a file become such, too.
    Bf16,
    /// In blocks of 32 with 8-bit steps of one scale: a quarter of the memory, and two to four times the
    /// speed.
    Q8_0,
    /// In blocks of 32 with 4-bit steps from a minimum on. The loss of a large model is small, that of a
    /// small one is not. Finding the best steps takes a while, about as long as
    /// [`Llama::save_gguf`] does, whose file loads at once.
    Q4_1,
}

/// The name of a packed type that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown type `{0}`: expected float, bf16, q8_0 or q4_1")]
pub struct UnknownPackedType(String);

impl fmt::Display for PackedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float => "float",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
        })
    }
}

impl FromStr for PackedType {
    type Err = UnknownPackedType;

    fn from_str(name: &str) -> Result<Self, UnknownPackedType> {
        [Self::Float, Self::Bf16, Self::Q8_0, Self::Q4_1]
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or_else(|| UnknownPackedType(name.to_owned()))
    }
}

/// How weights are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The float type of the model. Default 32-bit, whatever the file holds.
    pub weight_type: WeightType,
    /// Accepts tensors that the model has no use for. Missing tensors and tensors of another
    /// shape are never accepted. Default no.
    pub allow_unused: bool,
    /// Looks for weights that are not finite and refuses them. Default no.
    pub check_finite: bool,
    /// How matrices of floats are packed where weights are, which is on the CPU. Default as floats.
    pub packed: PackedType,
}

impl LoadOptions {
    /// The same options with another float type.
    #[must_use]
    pub fn with_weight_type(mut self, weight_type: WeightType) -> Self {
        self.weight_type = weight_type;
        self
    }

    /// The same options, accepting tensors that the model has no use for.
    #[must_use]
    pub fn with_unused_allowed(mut self) -> Self {
        self.allow_unused = true;
        self
    }

    /// The same options, refusing weights that are not finite.
    #[must_use]
    pub fn with_finite_check(mut self) -> Self {
        self.check_finite = true;
        self
    }

    /// The same options with matrices of floats packed like this.
    #[must_use]
    pub fn with_packed(mut self, packed: PackedType) -> Self {
        self.packed = packed;
        self
    }
}

/// Loads a model, tensor by tensor: besides the model it takes memory for one tensor at most.
pub(super) fn load(
    store: &TensorStore,
    config: &LlamaConfig,
    options: LoadOptions,
    device: &Device,
) -> Result<(Llama, LoadReport), WeightsError> {
    let mut report = checked(store, config, options, device)?;
    let model = Llama::new(config, &mut StoredParameters { store, options, device })?;
    report.bytes = config.parameter_count() * options.weight_type.bytes();
    Ok((model, report))
}

/// The report of a load that can begin: what the model needs is stored, and nothing that it does not.
pub(super) fn checked(
    store: &TensorStore,
    config: &LlamaConfig,
    options: LoadOptions,
    device: &Device,
) -> Result<LoadReport, WeightsError> {
    let needed = survey(config, device);
    let mut report = compare(store, config, &needed)?;
    let faulty = !report.missing.is_empty() || !report.mismatched.is_empty();
    if faulty || (!options.allow_unused && !report.unused.is_empty()) {
        return Err(WeightsError::Mismatch(Box::new(report)));
    }
    report.loaded = needed.len();
    Ok(report)
}

/// What the model needs against what is stored, before anything is allocated.
fn compare(
    store: &TensorStore,
    config: &LlamaConfig,
    needed: &[(String, Vec<usize>)],
) -> Result<LoadReport, WeightsError> {
    let mut report = LoadReport::default();
    for (name, expected) in needed {
        match store.tensors.get(name) {
            None => report.missing.push(name.clone()),
            Some(stored) if stored.shape != *expected => report.mismatched.push(ShapeMismatch {
                tensor: name.clone(),
                expected: expected.clone(),
                found: stored.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    for (name, stored) in &store.tensors {
        let known = is_derived(name) || needed.iter().any(|(needed, _)| needed == name);
        if !known && !is_copied_head(store, config, name, stored)? {
            report.unused.push(name.clone());
        }
    }
    Ok(report)
}

/// Whether a tensor is the head of a model with a tied head, and the same as the embedding.
/// Some exports store both.
fn is_copied_head(
    store: &TensorStore,
    config: &LlamaConfig,
    name: &str,
    head: &StoredTensor,
) -> Result<bool, WeightsError> {
    let Some(embedding) = store.tensors.get(EMBEDDING) else { return Ok(false) };
    let alike = head.shape == embedding.shape && head.encoding == embedding.encoding;
    if name != HEAD || !config.tied_head || !alike {
        return Ok(false);
    }
    Ok(store.read::<f32>(head)? == store.read::<f32>(embedding)?)
}

/// The names and shapes of a model's parameters, found out by building one that holds nothing.
pub(super) fn survey(config: &LlamaConfig, device: &Device) -> Vec<(String, Vec<usize>)> {
    struct Survey<'a>(Vec<(String, Vec<usize>)>, &'a Device);

    impl Parameters for Survey<'_> {
        type Error = std::convert::Infallible;

        fn take<const D: usize>(
            &mut self,
            name: &str,
            shape: [usize; D],
        ) -> Result<Tensor<D>, Self::Error> {
            self.0.push((name.to_owned(), shape.to_vec()));
            Ok(Tensor::zeros([1; D], self.1))
        }
    }

    let mut survey = Survey(Vec::new(), device);
    match Llama::new(config, &mut survey) {
        Ok(_) => survey.0,
        Err(never) => match never {},
    }
}

struct StoredParameters<'a> {
    store: &'a TensorStore,
    options: LoadOptions,
    device: &'a Device,
}

impl Parameters for StoredParameters<'_> {
    type Error = WeightsError;

    fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, WeightsError> {
        let Some(stored) = self.store.tensors.get(name) else {
            let missing = vec![name.to_owned()];
            let report = LoadReport { missing, ..LoadReport::default() };
            return Err(WeightsError::Mismatch(Box::new(report)));
        };
        let dtype = self.options.weight_type.dtype();
        let data = match self.options.weight_type {
            WeightType::F32 => self.data::<f32>(name, stored, shape)?,
            WeightType::F16 => self.data::<f16>(name, stored, shape)?,
            WeightType::Bf16 => self.data::<bf16>(name, stored, shape)?,
        };
        Ok(Tensor::from_data(data, (self.device, dtype)))
    }
}

impl StoredParameters<'_> {
    fn data<T>(
        &self,
        name: &str,
        stored: &StoredTensor,
        shape: impl Into<burn::tensor::Shape>,
    ) -> Result<TensorData, WeightsError>
    where
        T: super::encoding::WeightFloat + burn::tensor::Element,
    {
        let values = self.store.read::<T>(stored)?;
        if self.options.check_finite && !values.iter().all(|value| value.elem::<f32>().is_finite())
        {
            let path = self.store.path(stored).to_owned();
            return Err(WeightsError::NotFinite { path, tensor: name.to_owned() });
        }
        Ok(TensorData::new(values, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in [PackedType::Float, PackedType::Bf16, PackedType::Q8_0, PackedType::Q4_1] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "q5_0".parse::<PackedType>().unwrap_err().to_string();
        assert!(error.contains("q5_0") && error.contains("q8_0"), "{error}");
    }
}
