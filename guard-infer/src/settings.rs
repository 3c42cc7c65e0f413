//! The settings that a model brings along.

use std::path::PathBuf;

use guard_core::{GuardSettings, ModelFiles};

use crate::error::BuildError;

/// The settings of a model: of a folder those of its `guard.json`, of a GGUF file those under its
/// key, and the defaults where there are none.
///
/// # Errors
///
/// [`BuildError`] when they cannot be read, have an unknown key or a value out of range.
pub fn read_settings(files: &ModelFiles) -> Result<GuardSettings, BuildError> {
    let (path, text) = match files.note(GuardSettings::KEY) {
        Some(text) => (files.path().to_owned(), Some(text.to_owned())),
        None => (files.path().join(GuardSettings::FILE), files.read_beside(GuardSettings::FILE)?),
    };
    let Some(text) = text else { return Ok(GuardSettings::default()) };
    serde_json::from_str(&text).map_err(|error| unusable(path, error))
}

fn unusable(path: PathBuf, error: serde_json::Error) -> BuildError {
    BuildError::Settings { path, source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use guard_core::burn::tensor::Device;
    use guard_core::{GgufOptions, GgufType, LoadOptions, PromptStyle, SaveOptions};

    #[test]
    fn settings_are_read_from_a_folder_and_from_one_file() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../guard-core/testdata/models/tied-gqa-llama3");
        let source = ModelFiles::open(source).unwrap();
        let (model, _) = source.load(LoadOptions::default(), &Device::default()).unwrap();
        let tokenizer = source.tokenizer().unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save_folder(folder.path(), Some(&tokenizer), SaveOptions::default()).unwrap();
        let read = |path: &Path| read_settings(&ModelFiles::open(path).unwrap());
        assert_eq!(read(folder.path()).unwrap(), GuardSettings::default());

        let file = folder.path().join("guard.json");
        let compact = r#"{"style": "compact", "scores": {}}"#;
        std::fs::write(&file, compact).unwrap();
        let settings = read(folder.path()).unwrap();
        assert_eq!((settings.style, settings.scores.is_some()), (PromptStyle::Compact, true));
        let gguf = folder.path().join("model.gguf");
        let options = GgufOptions::new(GgufType::F32);
        model.save_gguf(&gguf, &tokenizer, &options).unwrap();
        assert_eq!(read(&gguf).unwrap(), GuardSettings::default());
        let options = options.with_note(GuardSettings::KEY, compact);
        model.save_gguf(&gguf, &tokenizer, &options).unwrap();
        assert_eq!(read(&gguf).unwrap(), settings);

        let cold = r#"{"scores": {"at_once": {"request": {"temperature": 0}}}}"#;
        for bad in ["", "{", r#"{"style": "loud"}"#, cold] {
            std::fs::write(&file, bad).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("guard.json"), "{error}");
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(read(folder.path()).is_err(), "a folder in its place");
    }
}
