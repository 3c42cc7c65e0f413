//! Which model a program runs, or begins with.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use guard_infer::{
    BuildError, FileAccess, GuardBuilder, ModelFiles, embedded_files, read_settings,
};

use crate::lines::Outcome;

/// The small guard of guard-infer, or a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// The small guard that is part of guard-infer.
    Embedded,
    /// A folder as the hub has it, or a .gguf file.
    Path(PathBuf),
}

impl ModelName {
    /// What the small guard is called. A folder of this name is `./embedded`.
    pub const EMBEDDED: &str = "embedded";

    /// Where the model's files are, if it has any.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Embedded => None,
            Self::Path(path) => Some(path),
        }
    }

    /// Opens the model's files.
    ///
    /// # Errors
    ///
    /// When there is no such model.
    pub fn files(&self) -> Result<ModelFiles, BuildError> {
        Ok(match self {
            Self::Embedded => embedded_files()?,
            Self::Path(path) => ModelFiles::open_with(path, FileAccess::default())?,
        })
    }

    /// A guard on the model.
    pub fn builder(&self) -> GuardBuilder {
        match self {
            Self::Embedded => GuardBuilder::embedded(),
            Self::Path(path) => GuardBuilder::new(path),
        }
    }

    /// A name that stays the same wherever it is called from, and is another one once the weights were
    /// written anew: what the old ones said is not taken for what these say.
    ///
    /// # Errors
    ///
    /// When the small guard cannot be opened.
    pub fn identity(&self) -> Outcome<String> {
        let Self::Path(path) = self else {
            // Every small guard has a calibration of its own.
            let settings = read_settings(&self.files()?)?;
            return Ok(format!("{self} {}", serde_json::to_string(&settings)?));
        };
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        let since = written(&path).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(format!("{} of {}", path.display(), since.map_or(0, |since| since.as_millis())))
    }
}

/// When the newest of a model's weights were written.
fn written(model: &Path) -> Option<SystemTime> {
    let modified = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let Ok(files) = model.read_dir() else { return modified(model) };
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let weights = paths.filter(|path| {
        path.extension().is_some_and(|ending| ending == "safetensors" || ending == "gguf")
    });
    weights.filter_map(|path| modified(&path)).max()
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str(Self::EMBEDDED),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl From<OsString> for ModelName {
    fn from(name: OsString) -> Self {
        if name == Self::EMBEDDED { Self::Embedded } else { Self::Path(name.into()) }
    }
}

impl From<&Path> for ModelName {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl FromStr for ModelName {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(OsString::from(name).into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir, write};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_model_that_was_written_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        create_dir(folder.join("inner")).unwrap();
        let [file, weights] = ["a.gguf", "model.safetensors"].map(|name| folder.join(name));
        for model in [&file, &weights] {
            write(model, "").unwrap();
        }
        let identity = |path: &Path| ModelName::Path(path.to_owned()).identity().unwrap();
        for (model, weights) in [(folder, &weights), (&file, &file)] {
            let before = identity(model);
            assert_eq!(before, identity(&folder.join("inner/..").join(model)));
            write(folder.join("guard.json"), "{}").unwrap();
            assert_eq!(before, identity(model));
            let later = SystemTime::now() + Duration::from_secs(86_400);
            File::options().write(true).open(weights).unwrap().set_modified(later).unwrap();
            assert_ne!(before, identity(model));
        }
    }

    #[test]
    fn one_name_is_that_of_the_small_guard() {
        let read = |name: &str| ModelName::from(OsString::from(name));
        assert_eq!(read("embedded"), ModelName::Embedded);
        assert_eq!(read("embedded"), "embedded".parse().unwrap());
        assert_eq!(read("embedded").to_string(), "embedded");
        let folder = read("./embedded");
        assert_eq!(folder.path(), Some(Path::new("./embedded")));
        assert_eq!(folder.to_string(), "./embedded");
        let identity = ModelName::Embedded.identity().unwrap();
        assert!(identity.contains("temperature"), "{identity}");
    }
}
