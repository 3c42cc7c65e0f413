//! The few things that checkpoints ask of a file system, so that tests can let each of them fail.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use guard_core::{NamedTensor, WeightsError, write_tensors};
use sha2::{Digest, Sha256};

use super::manifest::Part;
use crate::fingerprint::hex;

/// A file system.
pub(crate) trait Storage: std::fmt::Debug + Send {
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Writes a file of tensors, whole and on the disk.
    fn write_tensors(&self, path: &Path, tensors: &[NamedTensor]) -> Result<(), WeightsError>;
    /// Writes a small file, whole and on the disk.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes sure that the names in a folder are on the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// The folders in a folder.
    fn folders(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// The size and hash of a file.
    fn part(&self, path: &Path) -> io::Result<Part>;
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// The file system that there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk;

/// More than any manifest has.
const LONGEST_MANIFEST: u64 = 1 << 20;

impl Storage for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn write_tensors(&self, path: &Path, tensors: &[NamedTensor]) -> Result<(), WeightsError> {
        write_tensors(path, tensors)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Only Unix opens folders, and only there is a name lost without this.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn folders(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        entries.retain(|entry| entry.is_dir());
        Ok(entries)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn part(&self, path: &Path) -> io::Result<Part> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Part { bytes, sha256: hex(hash) }),
                count => {
                    hash.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(LONGEST_MANIFEST).read_to_string(&mut text)?;
        Ok(text)
    }
}
