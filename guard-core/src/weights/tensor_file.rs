//! Files of named tensors: what models, adapters and checkpoints are written as.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::safetensors::{Dtype, SafeTensorError, View};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_pack::AtomicFile;

use super::error::{LoadReport, SafetensorsFault, ShapeMismatch, WeightsError};
use super::file::FileAccess;
use super::safetensors::open;
use super::store::TensorStore;
use crate::model::{Llama, Parameter};

/// A tensor under a name; it stays on its device until it is written.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values row by row, as many as the shape says.
    pub values: Tensor<1>,
}

impl NamedTensor {
    pub(super) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.values.dtype().size()
    }

    /// The values in little-endian order, read back from the device.
    fn read(&self) -> Result<Vec<u8>, DeviceError> {
        let data = self.values.clone().try_into_data().map_err(|error| format!("{error:?}"))?;
        let bytes = data.as_bytes().to_vec();
        match (bytes.len(), self.bytes()) {
            (found, expected) if found == expected => Ok(bytes),
            (found, expected) => Err(format!("expected {expected} bytes, found {found}").into()),
        }
    }
}

impl Llama {
    /// All parameters with their values, adapters included.
    #[must_use]
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        self.tensors_that(|_| true)
    }

    /// The parameters that training changes, with their values.
    #[must_use]
    pub fn trained_tensors(&self) -> Vec<NamedTensor> {
        self.tensors_that(|parameter| parameter.trained)
    }

    fn tensors_that(&self, wanted: impl Fn(&Parameter) -> bool) -> Vec<NamedTensor> {
        let mut all = Vec::new();
        self.visit_parameters(&mut |parameter, values| {
            if wanted(parameter) {
                let Parameter { name, shape, .. } = parameter.clone();
                all.push(NamedTensor { name, shape, values });
            }
        });
        all
    }
}

type DeviceError = Box<dyn std::error::Error + Send + Sync>;

/// A tensor that is read from its device when the safetensors writer asks for it, so that
/// writing takes memory for one tensor only. The writer knows no failure: it is kept aside and
/// the file dropped.
struct Lazy<'a> {
    tensor: &'a NamedTensor,
    failure: &'a Mutex<Option<WeightsError>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.values.dtype() {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.tensor.read().unwrap_or_else(|source| {
            let tensor = self.tensor.name.clone();
            if let Ok(mut failure) = self.failure.lock() {
                *failure = Some(WeightsError::Device { tensor, source });
            }
            vec![0; self.data_len()]
        }))
    }

    fn data_len(&self) -> usize {
        self.tensor.bytes()
    }
}

/// Writes a safetensors file, in which the tensors appear in the order of their names. It is
/// there whole or not at all.
///
/// # Errors
///
/// [`WeightsError`] names the file that could not be written, or the tensor that could not be
/// read from its device.
pub fn write_tensors(path: &Path, tensors: &[NamedTensor]) -> Result<(), WeightsError> {
    let failure = Mutex::new(None);
    let views =
        tensors.iter().map(|tensor| (tensor.name.as_str(), Lazy { tensor, failure: &failure }));
    // transformers refuses files whose metadata does not name the framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    atomically(path, |scratch| {
        let written = ::safetensors::serialize_to_file(views, Some(metadata), scratch);
        written.map_err(|error| match error {
            SafeTensorError::IoError(source) => WeightsError::io("write", path, source),
            other => WeightsError::Safetensors {
                path: path.to_owned(),
                fault: SafetensorsFault::Format(other),
            },
        })?;
        let failure = failure.lock().ok().and_then(|mut failure| failure.take());
        failure.map_or(Ok(()), Err)
    })
}

/// Lets `write` fill a scratch file beside `path` and then moves it there.
pub(super) fn atomically(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let failed = |error: burn_pack::Error| {
        WeightsError::io("write", path, std::io::Error::other(error.to_string()))
    };
    let (scratch, handle) = AtomicFile::create(path).map_err(failed)?;
    drop(handle);
    write(scratch.path())?;
    scratch.commit().map_err(failed)
}

/// A safetensors file that is open for reading.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    store: TensorStore,
}

impl TensorFile {
    /// Reads the header of a file.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] when the file cannot be read or breaks a rule of the format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Ok(Self { path: path.to_owned(), store: open(path, FileAccess::default())? })
    }

    /// The names and shapes of the tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.store.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
    }

    /// The values of a tensor of this shape, row by row, in 32-bit floats.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Mismatch`] when there is no such tensor, or it has another shape.
    pub fn read(
        &self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor<1>, WeightsError> {
        let mut report = LoadReport::default();
        match self.store.tensors.get(name) {
            Some(stored) if stored.shape == shape => {
                let values = self.store.read::<f32>(stored)?;
                let count = values.len();
                return Ok(Tensor::from_data(TensorData::new(values, [count]), device));
            }
            Some(stored) => report.mismatched.push(ShapeMismatch {
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: stored.shape.clone(),
            }),
            None => report.missing.push(name.to_owned()),
        }
        Err(WeightsError::Mismatch(Box::new(report)))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
