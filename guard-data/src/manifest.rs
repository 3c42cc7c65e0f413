//! Which bytes a set of data is: sizes and SHA-256 of its files.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::replace::replace_file;

/// The files of a run's data, pinned. 250 planted documents are enough to poison a set of any size,
/// so a file counts only if its hash is known.
///
/// ```
/// use guard_data::{FileName, Manifest, ManifestError};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("train.jsonl");
/// std::fs::write(&path, "one")?;
/// let name = FileName::local("train.jsonl");
/// let mut manifest = Manifest::default();
/// assert!(matches!(manifest.check(&name, &path), Err(ManifestError::Unknown { .. })));
/// manifest.pin(name.clone(), &path)?;
/// manifest.check(&name, &path)?;
/// std::fs::write(&path, "two")?;
/// assert!(matches!(manifest.check(&name, &path), Err(ManifestError::Changed { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    files: Vec<PinnedFile>,
}

/// What a file is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileName {
    /// The dataset of the hub that it is from, `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The revision there: a commit, a tag or a branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The path in the dataset, or the name of a local file.
    pub path: String,
}

impl FileName {
    /// A file that is not from the hub.
    pub fn local(path: impl Into<String>) -> Self {
        Self { dataset: None, revision: None, path: path.into() }
    }

    /// A file of a dataset of the hub.
    pub fn of_dataset(
        dataset: impl Into<String>,
        revision: impl Into<String>,
        path: impl Into<String>,
    ) -> Self {
        Self { dataset: Some(dataset.into()), revision: Some(revision.into()), path: path.into() }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dataset) = &self.dataset {
            write!(f, "{dataset}@{}:", self.revision.as_deref().unwrap_or("main"))?;
        }
        f.write_str(&self.path)
    }
}

/// A file and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PinnedFile {
    #[serde(flatten)]
    name: FileName,
    bytes: u64,
    sha256: String,
}

/// Why a file does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manifest is no manifest.
    #[error("{}: expected a manifest of files with sizes and SHA-256", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The manifest does not name the file.
    #[error("no hash of {name} is known: look at the file, then pin it")]
    Unknown {
        /// The file.
        name: FileName,
    },
    /// The file has other bytes than it had when it was pinned.
    #[error("{name} is not the pinned file: expected {expected}, found {found}")]
    Changed {
        /// The file.
        name: FileName,
        /// The size and hash that it must have.
        expected: String,
        /// Those that it has.
        found: String,
    },
}

impl Manifest {
    /// Reads a manifest; one that is not there is empty.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] when the file cannot be read or is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let path = path.as_ref();
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            read => read.map_err(io("read", path))?,
        };
        serde_json::from_slice(&bytes).map_err(|_| ManifestError::Format { path: path.to_owned() })
    }

    /// Writes the manifest, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Io`] when it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ManifestError> {
        use std::io::Write;
        let path = path.as_ref();
        let json =
            serde_json::to_vec_pretty(self).map_err(|error| io("write", path)(error.into()))?;
        replace_file(path, io("write", path), |out| out.write_all(&json).map_err(io("write", path)))
    }

    /// The names of the pinned files.
    pub fn names(&self) -> impl Iterator<Item = &FileName> {
        self.files.iter().map(|file| &file.name)
    }

    /// Checks that a file has the bytes that it had when it was pinned.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] when it does not, is not pinned, or cannot be read.
    pub fn check(&self, name: &FileName, path: &Path) -> Result<(), ManifestError> {
        let pinned = self.files.iter().find(|file| file.name == *name);
        let pinned = pinned.ok_or_else(|| ManifestError::Unknown { name: name.clone() })?;
        let (bytes, sha256) = hash(path)?;
        if (bytes, &sha256) == (pinned.bytes, &pinned.sha256) {
            return Ok(());
        }
        Err(ManifestError::Changed {
            name: name.clone(),
            expected: format!("{} bytes, SHA-256 {}", pinned.bytes, pinned.sha256),
            found: format!("{bytes} bytes, SHA-256 {sha256}"),
        })
    }

    /// Writes down the bytes of a file as those that it must have from now on.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Io`] when it cannot be read.
    pub fn pin(&mut self, name: FileName, path: &Path) -> Result<(), ManifestError> {
        let (bytes, sha256) = hash(path)?;
        self.files.retain(|file| file.name != name);
        self.files.push(PinnedFile { name, bytes, sha256 });
        Ok(())
    }
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> ManifestError + 'a {
    move |source| ManifestError::Io { action, path: path.to_owned(), source }
}

/// The size and the SHA-256 of a file.
fn hash(path: &Path) -> Result<(u64, String), ManifestError> {
    let mut file = std::fs::File::open(path).map_err(io("open", path))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut block).map_err(io("read", path))?;
        if read == 0 {
            let digest = hasher.finalize();
            return Ok((bytes, digest.iter().map(|byte| format!("{byte:02x}")).collect()));
        }
        bytes += read as u64;
        hasher.update(&block[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_t56_other_bytes_than_pinned_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a.jsonl");
        std::fs::write(&data, "abc").unwrap();
        let name = FileName::of_dataset("owner/set", "v1", "a.jsonl");
        let mut manifest = Manifest::default();
        manifest.pin(name.clone(), &data).unwrap();
        let path = folder.path().join("manifest.json");
        manifest.write(&path).unwrap();
        let manifest = Manifest::open(&path).unwrap();
        manifest.check(&name, &data).unwrap();
        // The hash of "abc", from the standard.
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(std::fs::read_to_string(&path).unwrap().contains(sha));
        std::fs::write(&data, "abd").unwrap();
        let error = manifest.check(&name, &data).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "owner/set@v1:a.jsonl is not the pinned file: expected 3 bytes, SHA-256 ba78"
            ),
            "{error}"
        );
        let other = FileName::of_dataset("owner/set", "v2", "a.jsonl");
        assert!(matches!(manifest.check(&other, &data), Err(ManifestError::Unknown { .. })));
    }

    #[test]
    fn other_files_are_no_manifests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        assert_eq!(Manifest::open(&path).unwrap(), Manifest::default());
        for text in ["", "[]", "{\"files\":[{\"path\":1}]}", "{\"files\":[],\"more\":1}"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Manifest::open(&path), Err(ManifestError::Format { .. })), "{text}");
        }
    }
}
