//! A teacher behind HTTP: any server that speaks the OpenAI chat protocol.

mod config;
mod reply;

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use guard_core::Role;
use reqwest::Url;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::redirect::Policy;
use serde_json::{Value, json};

use super::chat::{ChatClient, ChatError, ChatReply, ChatRequest, ReplyFault, TransportFault};
use reply::{is_quota, read_reply, retry_after};

pub use config::{ApiKey, HttpConfigError};

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
}

/// The body, if it is no longer than the limit. The time of the request bounds it as well.
fn read(response: Response, limit: u64) -> Result<Vec<u8>, ChatError> {
    let mut body = Vec::new();
    let mut response = response.take(limit.saturating_add(1));
    response.read_to_end(&mut body).map_err(|error| cut(&error))?;
    match body.len() as u64 > limit {
        true => Err(ChatError::Malformed(ReplyFault::TooLarge { limit })),
        false => Ok(body),
    }
}

impl ChatClient for HttpChat {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        /// What is read of the body of an error.
        const ERROR_LIMIT: u64 = 64 << 10;
        let response = self.post(request)?;
        let wait = retry_after(response.headers(), SystemTime::now());
        match ChatError::from_status(response.status().as_u16(), wait) {
            None => read_reply(&read(response, self.reply_limit)?),
            // Only there does the body say more than the status, and a body may be slow.
            Some(error @ ChatError::RateLimited { .. }) => {
                let body = read(response, ERROR_LIMIT).unwrap_or_default();
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
