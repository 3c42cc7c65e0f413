//! A teacher behind HTTP: any server that speaks the OpenAI chat protocol.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use guard_core::Role;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use ureq::http::{HeaderMap, HeaderValue, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use super::chat::{
    ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, ReplyFault, TokenCount,
    TransportFault,
};

/// The key of a service. It is wiped from memory when it is dropped, and `Debug` does not show it.
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
        let no_key = || HttpConfigError::NoKey { place: variable.to_owned() };
        Self::new(std::env::var(variable).map_err(|_| no_key())?, variable)
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

    fn header(&self) -> Option<HeaderValue> {
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
    /// The address is not encrypted, and not of this machine.
    #[error("plain http is for this machine only: use https, or allow it by name")]
    PlainHttp,
}

/// The name under which a service wants the limit of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TokenLimitField {
    /// `max_tokens`: vLLM, llama.cpp and most others.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: OpenAI's reasoning models.
    MaxCompletionTokens,
}

/// A client of a server that speaks the OpenAI chat protocol: OpenAI, vLLM, llama.cpp and others.
///
/// A call makes one attempt. Redirects are not followed, so that the key stays with its service;
/// replies are read up to a limit; the certificates that count are those of the system. Requests to
/// this machine pass no proxy.
///
/// ```no_run
/// use guard_data::{ApiKey, HttpChat};
///
/// let client = HttpChat::new("https://api.openai.com/v1")?
///     .with_key(ApiKey::from_env("OPENAI_API_KEY")?);
/// # Ok::<(), guard_data::HttpConfigError>(())
/// ```
pub struct HttpChat {
    agent: Agent,
    address: String,
    key: Option<ApiKey>,
    reply_limit: u64,
    token_limit_field: TokenLimitField,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    timeout: Duration,
    is_local: bool,
}

impl fmt::Debug for HttpChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpChat")
            .field("address", &self.address)
            .field("key", &self.key.is_some())
            .field("timeout", &self.settings.timeout)
            .field("reply_limit", &self.reply_limit)
            .finish_non_exhaustive()
    }
}

impl HttpChat {
    /// A client of the server at this address, the part before `/chat/completions`.
    ///
    /// # Errors
    ///
    /// [`HttpConfigError`] for an address that is none, holds credentials, or is plain http to
    /// another machine.
    pub fn new(address: &str) -> Result<Self, HttpConfigError> {
        let client = Self::new_unencrypted(address)?;
        match client.settings.is_local || client.address.starts_with("https:") {
            true => Ok(client),
            false => Err(HttpConfigError::PlainHttp),
        }
    }

    /// The same for an address that may be plain http to another machine: whoever sits between can
    /// read the key, and change labels.
    ///
    /// # Errors
    ///
    /// As [`HttpChat::new`].
    pub fn new_unencrypted(address: &str) -> Result<Self, HttpConfigError> {
        let uri: Uri = address.parse().map_err(|_| HttpConfigError::Address)?;
        let authority = uri.authority().ok_or(HttpConfigError::Address)?;
        if authority.as_str().contains('@') {
            return Err(HttpConfigError::Credentials);
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
            return Err(HttpConfigError::Address);
        }
        let settings =
            Settings { timeout: Duration::from_secs(300), is_local: is_local(authority.host()) };
        Ok(Self {
            agent: agent(settings),
            address: format!("{}/chat/completions", address.trim_end_matches('/')),
            key: None,
            reply_limit: 8 << 20,
            token_limit_field: TokenLimitField::default(),
            settings,
        })
    }

    /// The same client with a key.
    #[must_use]
    pub fn with_key(mut self, key: ApiKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The same client with another time for a whole call. Default 300 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self.agent = agent(self.settings);
        self
    }

    /// The same client with another limit for the bytes of a reply. Default 8 MiB.
    #[must_use]
    pub fn with_reply_limit(mut self, bytes: u64) -> Self {
        self.reply_limit = bytes;
        self
    }

    /// The same client with another name for the limit of tokens.
    #[must_use]
    pub fn with_token_limit_field(mut self, field: TokenLimitField) -> Self {
        self.token_limit_field = field;
        self
    }

    fn body(&self, request: &ChatRequest) -> Vec<u8> {
        let message = |role: Role, content: &str| {
            let role = match role {
                Role::System => "system",
                Role::Assistant => "assistant",
                _ => "user",
            };
            json!({"role": role, "content": content})
        };
        let messages = request.messages.iter().map(|one| message(one.role, &one.content));
        let mut body = json!({"model": request.model, "messages": messages.collect::<Value>()});
        let limit = match self.token_limit_field {
            TokenLimitField::MaxTokens => "max_tokens",
            TokenLimitField::MaxCompletionTokens => "max_completion_tokens",
        };
        let options = [
            (limit, request.max_tokens.map(Value::from)),
            ("temperature", request.temperature.map(Value::from)),
            ("top_p", request.top_p.map(Value::from)),
            ("seed", request.seed.map(Value::from)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body.to_string().into_bytes()
    }

    fn post(&self, request: &ChatRequest) -> Result<Response<Body>, ChatError> {
        let mut post = self.agent.post(&self.address).content_type("application/json");
        if let Some(header) = self.key.as_ref().and_then(ApiKey::header) {
            post = post.header("authorization", header);
        }
        post.send(self.body(request)).map_err(|error| transport(&error))
    }

    fn read(&self, response: &mut Response<Body>, limit: u64) -> Result<Vec<u8>, ChatError> {
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        body.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => {
                ChatError::Malformed(ReplyFault::TooLarge { limit })
            }
            // The status has come: the request was taken.
            error => match transport(&error) {
                ChatError::Transport(TransportFault::Connect) => {
                    ChatError::Transport(TransportFault::Cut)
                }
                error => error,
            },
        })
    }
}

impl ChatClient for HttpChat {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        /// What is read of the body of an error.
        const ERROR_LIMIT: u64 = 64 << 10;
        let mut response = self.post(request)?;
        let wait = retry_after(response.headers(), SystemTime::now());
        match ChatError::from_status(response.status().as_u16(), wait) {
            None => read_reply(&self.read(&mut response, self.reply_limit)?),
            Some(error) => {
                let body = self.read(&mut response, ERROR_LIMIT).unwrap_or_default();
                Err(if is_quota(&body) { ChatError::QuotaExhausted } else { error })
            }
        }
    }
}

fn agent(settings: Settings) -> Agent {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let mut config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(settings.timeout))
        .timeout_connect(Some(settings.timeout.min(Duration::from_secs(20))))
        .max_idle_connections_per_host(64)
        .max_idle_connections(64);
    if settings.is_local {
        config = config.proxy(None);
    }
    config.build().into()
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Keeps the kind of an error and drops its message, which may quote the address.
fn transport(error: &ureq::Error) -> ChatError {
    use io::ErrorKind;
    ChatError::Transport(match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => TransportFault::Connect,
        ureq::Error::Timeout(_) => TransportFault::Timeout,
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::AddrNotAvailable
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable => TransportFault::Connect,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => TransportFault::Timeout,
            _ => TransportFault::Cut,
        },
        _ => TransportFault::Cut,
    })
}

/// How long the service asks to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Whether the body of an error says that the money is used up.
fn is_quota(body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    [&body["error"]["code"], &body["error"]["type"]]
        .into_iter()
        .any(|word| word == "insufficient_quota")
}

fn read_reply(body: &[u8]) -> Result<ChatReply, ChatError> {
    let missing = |field| ChatError::Malformed(ReplyFault::Field(field));
    let json: Value =
        serde_json::from_slice(body).map_err(|_| ChatError::Malformed(ReplyFault::NotJson))?;
    let choice = json["choices"].get(0).ok_or(missing("choices"))?;
    let finish = match choice["finish_reason"].as_str() {
        Some("stop") => ChatFinish::Stop,
        Some("length") => ChatFinish::Length,
        Some("content_filter") => ChatFinish::ContentFilter,
        _ => ChatFinish::Other,
    };
    let text = match choice["message"]["content"].as_str() {
        Some(text) => text,
        // A filtered reply has no text, and is told as such.
        None if finish == ChatFinish::ContentFilter => "",
        None => return Err(missing("content")),
    };
    let mut reply = ChatReply::new(text, finish);
    reply.usage = usage(&json["usage"]);
    Ok(reply)
}

fn usage(json: &Value) -> Option<TokenCount> {
    let prompt = json["prompt_tokens"].as_u64()?;
    Some(TokenCount { prompt, completion: json["completion_tokens"].as_u64()? })
}
