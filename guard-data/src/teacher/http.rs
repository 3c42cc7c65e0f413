//! A teacher behind HTTP: any server that speaks the OpenAI chat protocol.

use std::env::VarError;
use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use guard_core::Role;
use reqwest::Url;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::chat::{
    ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, ReplyFault, TokenCount,
    TransportFault,
};

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
    /// The system gives no TLS or no threads.
    #[error("cannot set up an HTTP client")]
    Client,
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
/// A call waits for its reply. The HTTP library panics where that would block an async runtime: make
/// and call clients on other threads.
///
/// ```no_run
/// use guard_data::{ApiKey, HttpChat};
///
/// let client = HttpChat::new("https://api.openai.com/v1")?
///     .with_key(ApiKey::from_env("OPENAI_API_KEY")?);
/// # Ok::<(), guard_data::HttpConfigError>(())
/// ```
pub struct HttpChat {
    client: Client,
    address: Url,
    key: Option<ApiKey>,
    timeout: Duration,
    reply_limit: u64,
    token_limit_field: TokenLimitField,
}

impl fmt::Debug for HttpChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpChat")
            .field("address", &self.address.as_str())
            .field("key", &self.key.is_some())
            .field("timeout", &self.timeout)
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
        match is_local(&client.address) || client.address.scheme() == "https" {
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
        let mut address: Url = address.parse().map_err(|_| HttpConfigError::Address)?;
        if !address.username().is_empty() || address.password().is_some() {
            return Err(HttpConfigError::Credentials);
        }
        let is_http = matches!(address.scheme(), "http" | "https") && address.has_host();
        if !is_http || address.query().is_some() || address.fragment().is_some() {
            return Err(HttpConfigError::Address);
        }
        let path = format!("{}/chat/completions", address.path().trim_end_matches('/'));
        address.set_path(&path);
        Ok(Self {
            client: client(is_local(&address))?,
            address,
            key: None,
            timeout: Duration::from_secs(300),
            reply_limit: 8 << 20,
            token_limit_field: TokenLimitField::default(),
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
        self.timeout = timeout;
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

    fn post(&self, request: &ChatRequest) -> Result<Response, ChatError> {
        let post = self.client.post(self.address.clone()).timeout(self.timeout);
        let mut post = post.header(CONTENT_TYPE, "application/json").body(self.body(request));
        if let Some(header) = self.key.as_ref().and_then(ApiKey::header) {
            post = post.header(AUTHORIZATION, header);
        }
        post.send().map_err(|error| transport(&error))
    }

    /// The body, if it is no longer than the limit and ends in time.
    fn read(
        response: &mut Response,
        limit: u64,
        end: Option<Instant>,
    ) -> Result<Vec<u8>, ChatError> {
        let mut body = Vec::new();
        let mut block = [0; 16 << 10];
        loop {
            let read = match response.read(&mut block) {
                Ok(0) => return Ok(body),
                Ok(read) => read,
                Err(error) => return Err(cut(&error)),
            };
            body.extend_from_slice(&block[..read]);
            if body.len() as u64 > limit {
                return Err(ChatError::Malformed(ReplyFault::TooLarge { limit }));
            }
            // A server that drips would be read to the end otherwise.
            if end.is_some_and(|end| Instant::now() > end) {
                return Err(ChatError::Transport(TransportFault::Timeout));
            }
        }
    }
}

impl ChatClient for HttpChat {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        /// What is read of the body of an error.
        const ERROR_LIMIT: u64 = 64 << 10;
        let end = Instant::now().checked_add(self.timeout);
        let mut response = self.post(request)?;
        let wait = retry_after(response.headers(), SystemTime::now());
        match ChatError::from_status(response.status().as_u16(), wait) {
            None => read_reply(&Self::read(&mut response, self.reply_limit, end)?),
            // Only there does the body say more than the status, and a body may be slow.
            Some(error @ ChatError::RateLimited { .. }) => {
                let body = Self::read(&mut response, ERROR_LIMIT, end).unwrap_or_default();
                Err(if is_quota(&body) { ChatError::QuotaExhausted } else { error })
            }
            Some(error) => Err(error),
        }
    }
}

fn client(is_local: bool) -> Result<Client, HttpConfigError> {
    // Fails where the program has chosen its cryptography already, and that is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .timeout(None)
        .connect_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(64);
    if is_local {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|_| HttpConfigError::Client)
}

fn is_local(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Keeps the kind of an error and drops its message, which quotes the address.
fn transport(error: &reqwest::Error) -> ChatError {
    ChatError::Transport(if error.is_connect() {
        TransportFault::Connect
    } else if error.is_timeout() {
        TransportFault::Timeout
    } else {
        TransportFault::Cut
    })
}

/// The same for an error in the middle of a body.
fn cut(error: &io::Error) -> ChatError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
    let timed_out = error.kind() == io::ErrorKind::TimedOut;
    ChatError::Transport(match timed_out || inner.is_some_and(reqwest::Error::is_timeout) {
        true => TransportFault::Timeout,
        false => TransportFault::Cut,
    })
}

/// How long the service asks to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        let too_long = seconds > 1e9;
        return if too_long {
            Some(Duration::MAX)
        } else {
            Duration::try_from_secs_f64(seconds).ok()
        };
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
    let text = match choice["message"].get("content") {
        Some(Value::String(text)) => text,
        // Filtered replies, refusals and those that only reasoned come without a text.
        Some(Value::Null) => "",
        _ => return Err(missing("content")),
    };
    let mut reply = ChatReply::new(text, finish);
    reply.usage = usage(&json["usage"]);
    Ok(reply)
}

/// The tokens, where the service counted some: 0 for a request, or more than any request has, is no
/// count. Some services leave hidden reasoning out of all but the total.
fn usage(json: &Value) -> Option<TokenCount> {
    let count = |field: &str| json[field].as_u64().filter(|tokens| *tokens <= u32::MAX.into());
    let prompt = count("prompt_tokens").filter(|tokens| *tokens > 0)?;
    let completion = count("completion_tokens")?;
    let rest = count("total_tokens").unwrap_or(0).saturating_sub(prompt);
    Some(TokenCount { prompt, completion: completion.max(rest) })
}
