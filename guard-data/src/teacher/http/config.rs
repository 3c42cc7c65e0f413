//! The key of a service, and what a client cannot be made of.

use std::env::VarError;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// The key of a service. `Debug` does not show it, and it is wiped from memory when it is dropped,
/// though not the copies that a request under way makes.
///
/// It comes from the environment or from a file: what stands in a command line is seen by every
/// user of the machine.
#[derive(Clone, Debug)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// The key in an environment variable.
    ///
    /// # Errors
    ///
    /// [`HttpConfigError::NoKey`] when it is not set or empty, [`HttpConfigError::BadKey`] when it
    /// cannot stand in a header.
    pub fn from_env(variable: &str) -> Result<Self, HttpConfigError> {
        let text = std::env::var(variable).map_err(|error| match error {
            VarError::NotPresent => HttpConfigError::NoKey { place: variable.to_owned() },
            VarError::NotUnicode(_) => HttpConfigError::BadKey { place: variable.to_owned() },
        })?;
        Self::new(text, variable)
    }

    /// The key in a file, without the white space round it.
    ///
    /// # Errors
    ///
    /// [`HttpConfigError::KeyFile`] when it cannot be read; else as [`ApiKey::from_env`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, HttpConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| HttpConfigError::KeyFile { path: path.to_owned(), source })?;
        Self::new(text, &path.display().to_string())
    }

    fn new(text: String, place: &str) -> Result<Self, HttpConfigError> {
        let secret = SecretString::from(text.trim());
        drop(SecretString::from(text));
        let key = secret.expose_secret();
        if key.is_empty() {
            return Err(HttpConfigError::NoKey { place: place.to_owned() });
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HttpConfigError::BadKey { place: place.to_owned() });
        }
        Ok(Self(secret))
    }

    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", self.0.expose_secret())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Why a client cannot be made. The messages hold no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpConfigError {
    /// There is no key where one should be.
    #[error("no key in {place}")]
    NoKey {
        /// The variable or file.
        place: String,
    },
    /// The key has blanks or other characters that no key has.
    #[error("the key in {place} has characters that cannot stand in a header")]
    BadKey {
        /// The variable or file.
        place: String,
    },
    /// The file of the key cannot be read.
    #[error("cannot read {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address is none.
    #[error("expected an address such as https://api.openai.com/v1")]
    Address,
    /// The address carries a user name or password, which would end up in logs.
    #[error("the address must not hold credentials: give the key by itself")]
    Credentials,
    /// The system gives no TLS or no threads.
    #[error("cannot set up an HTTP client")]
    Client,
    /// The address is not encrypted, and not of this machine.
    #[error("plain http is for this machine only: use https, or allow it by name")]
    PlainHttp,
}
