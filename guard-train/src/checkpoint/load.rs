//! The weights of one checkpoint, for other ends than going on from it.

use std::collections::BTreeMap;
use std::path::Path;

use guard_core::{Llama, TensorFile};
use serde::Deserialize;

use super::error::{CheckpointError, CheckpointFault};
use super::manifest::Part;
use super::storage::{Disk, Storage};

const MANIFEST: &str = "manifest.json";
const WEIGHTS: &str = "weights.safetensors";

/// The model with the weights that the checkpoint of this step has of it. The step of the best
/// checkpoint is in [`Progress::best`](crate::Progress::best). Weights that training left as they
/// were are the model's own.
///
/// # Errors
///
/// [`CheckpointError`] when there is no such checkpoint in the folder, when its weights were
/// damaged, or when they are another model's.
pub fn with_checkpoint(
    model: Llama,
    folder: impl AsRef<Path>,
    step: u64,
) -> Result<Llama, CheckpointError> {
    let (folder, name) = (folder.as_ref(), format!("step-{step}"));
    let checkpoint = folder.join(&name);
    check(&checkpoint).map_err(|fault| CheckpointError::NoneWhole {
        path: folder.to_owned(),
        reasons: format!("{name}: {fault}"),
    })?;
    let file = TensorFile::open(checkpoint.join(WEIGHTS))?;
    let device = model.device();
    let mut failure = None;
    // One after the other, so that there is never a second copy of all weights.
    let model = model.map_parameters(&mut |parameter, old| {
        if !parameter.trained || failure.is_some() {
            return old;
        }
        match file.read(&parameter.name, &parameter.shape, &device) {
            Ok(values) => values.cast(old.dtype()),
            Err(error) => {
                failure = Some(error);
                old
            }
        }
    });
    failure.map_or(Ok(model), |error| Err(error.into()))
}

/// Whether the weights are those that were written.
fn check(checkpoint: &Path) -> Result<(), CheckpointFault> {
    #[derive(Deserialize)]
    struct Parts {
        parts: BTreeMap<String, Part>,
    }

    let unreadable = |error: &dyn std::error::Error| CheckpointFault::Unreadable(error.to_string());
    let json = Disk.read(&checkpoint.join(MANIFEST)).map_err(|error| unreadable(&error))?;
    let Parts { mut parts } = serde_json::from_str(&json).map_err(|error| unreadable(&error))?;
    let part = WEIGHTS.to_owned();
    let nameless = || CheckpointFault::Unreadable(format!("it does not name {WEIGHTS}"));
    let expected = parts.remove(WEIGHTS).ok_or_else(nameless)?;
    let missing = Part { bytes: 0, sha256: String::new() };
    let found = Disk.part(&checkpoint.join(WEIGHTS)).unwrap_or(missing);
    match (expected.bytes == found.bytes, expected.sha256 == found.sha256) {
        (true, true) => Ok(()),
        (false, _) => {
            Err(CheckpointFault::Size { part, expected: expected.bytes, found: found.bytes })
        }
        (true, false) => {
            Err(CheckpointFault::Content { part, expected: expected.sha256, found: found.sha256 })
        }
    }
}
