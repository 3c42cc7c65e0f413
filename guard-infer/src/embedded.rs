//! The small guard that is part of the crate.

use guard_core::{ModelFiles, WeightsError};

/// What verdicts and errors call it.
pub(crate) const NAME: &str = "small-guard";

static MODEL: &[u8] = include_bytes!("../assets/small-guard.gguf");

/// Outputs that it was trained on, chosen by `scripts/small_guard/phrases.py`. Without them it only takes longer.
#[cfg(feature = "flex")]
pub(crate) fn phrases() -> Vec<String> {
    serde_json::from_str(include_str!("../assets/small-guard-phrases.json")).unwrap_or_default()
}

/// The files of the small guard that is part of the crate: what [`GuardBuilder::embedded`] loads.
///
/// Its weights are packed to four bits and take 9 MB of the program. What it is good for is in the
/// [crate's documentation](crate#the-small-guard).
///
/// ```
/// let files = guard_infer::embedded_files()?;
/// assert_eq!(files.config().layers, 7);
/// # Ok::<(), guard_infer::WeightsError>(())
/// ```
///
/// [`GuardBuilder::embedded`]: crate::GuardBuilder::embedded
///
/// # Errors
///
/// None that a build of this crate should ever see: its tests open the same bytes.
pub fn embedded_files() -> Result<ModelFiles, WeightsError> {
    ModelFiles::from_gguf_bytes(NAME, MODEL)
}
