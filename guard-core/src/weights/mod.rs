//! wip
use std::path::{Path, PathBuf};
/// wip
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// wip
    #[error("{path}: config")]
    Config {
        /// p
        path: PathBuf,
        /// s
        source: crate::config::ConfigError,
    },
    /// wip
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
pub(crate) fn read_small_file(path: &Path) -> Result<String, WeightsError> {
    Ok(std::fs::read_to_string(path)?)
}
