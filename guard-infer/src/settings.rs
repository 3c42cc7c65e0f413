//! The settings in a model's folder.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use guard_core::GuardSettings;

use crate::error::BuildError;

/// More bytes than any settings have.
const LIMIT: u64 = 1 << 20;

/// The settings of `guard.json`, or the defaults where there is no such file.
pub(crate) fn of_folder(folder: &Path) -> Result<GuardSettings, BuildError> {
    let path = folder.join(GuardSettings::FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        // A lone file of weights has none beside it.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(GuardSettings::default());
        }
        Err(source) => return Err(BuildError::Settings { path, source: source.into() }),
    };
    let mut text = String::new();
    let read = file.take(LIMIT).read_to_string(&mut text).map_err(serde_json::Error::io);
    let settings = read.and_then(|_| serde_json::from_str::<GuardSettings>(&text));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return Err(BuildError::Settings { path, source: error.into() }),
    };
    match settings.calibration.unwrap_or_default().validate() {
        Ok(()) => Ok(settings),
        Err(error) => Err(BuildError::Settings { path, source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_used_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder(folder.path()).unwrap(), GuardSettings::default());
        let path = folder.path().join("guard.json");
        std::fs::write(&path, r#"{"style": "compact"}"#).unwrap();
        assert_eq!(of_folder(folder.path()).unwrap().style, guard_core::PromptStyle::Compact);
        assert_eq!(of_folder(&path).unwrap(), GuardSettings::default(), "a file has no folder");
        let cold = r#"{"calibration": {"request": {"temperature": 0}}}"#;
        for bad in ["", "{", r#"{"style": "loud"}"#, cold] {
            std::fs::write(&path, bad).unwrap();
            let error = of_folder(folder.path()).unwrap_err().to_string();
            assert!(error.contains("guard.json"), "{error}");
        }
    }
}
