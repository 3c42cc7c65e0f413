//! The teacher: a chat model behind a service, and everything that can go wrong on the way.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use guard_core::Message;

use super::budget::LedgerError;

/// A chat model, most often one behind a paid service.
///
/// A client makes one attempt a call: retries, limits of rate and cost, and records are
/// decorators round it. It keeps its key to itself; requests, replies and errors hold none, so
/// they can be logged as far as their texts may be.
pub trait ChatClient: Send + Sync {
    /// Asks once and waits for the reply.
    ///
    /// # Errors
    ///
    /// [`ChatError`] when there is no reply. A reply that was cut off or filtered is no error:
    /// see [`ChatReply::finish`].
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError>;
}

impl<C: ChatClient + ?Sized> ChatClient for Arc<C> {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        (**self).chat(request)
    }
}

impl<C: ChatClient + ?Sized> ChatClient for Box<C> {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        (**self).chat(request)
    }
}

/// What a chat model is asked. An option that is `None` is left to the service.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChatRequest {
    /// The name of the model, as the service writes it.
    pub model: String,
    /// The conversation so far, oldest turn first.
    pub messages: Vec<Message>,
    /// The most tokens that the reply may have.
    pub max_tokens: Option<usize>,
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f64>,
    /// The probability mass to sample from, above 0 and at most 1.
    pub top_p: Option<f64>,
    /// Makes sampling repeatable, where the service can.
    pub seed: Option<u64>,
}

impl ChatRequest {
    /// A request with the options of the service.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self {
            model: model.into(),
            messages,
            max_tokens: None,
            temperature: None,
            top_p: None,
            seed: None,
        }
    }
}

impl ChatRequest {
    /// The most tokens that the messages can have. A token is at least one byte of the text as the
    /// tokenizer sees it, which for letters beyond ASCII can be three times as long (Unicode's NFC);
    /// and a chat template adds some for each message.
    #[must_use]
    pub fn most_prompt_tokens(&self) -> u64 {
        const TEMPLATE: usize = 16;
        let bytes = |message: &Message| {
            let ascii = message.content.bytes().filter(u8::is_ascii).count();
            ascii + 3 * (message.content.len() - ascii) + TEMPLATE
        };
        (self.messages.iter().map(bytes).sum::<usize>() + 4 * TEMPLATE) as u64
    }
}

/// What a chat model replied. `Debug` shows the length of its text only.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatReply {
    /// The text, as it came.
    pub text: String,
    /// Why it ended.
    pub finish: ChatFinish,
    /// What the service counted. `None` when it did not say: charge the worst case then.
    pub usage: Option<TokenCount>,
}

impl fmt::Debug for ChatReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatReply")
            .field("text", &self.text.len())
            .field("finish", &self.finish)
            .field("usage", &self.usage)
            .finish()
    }
}

impl ChatReply {
    /// A reply without a count of its tokens.
    pub fn new(text: impl Into<String>, finish: ChatFinish) -> Self {
        Self { text: text.into(), finish, usage: None }
    }

    /// The same reply with this count.
    #[must_use]
    pub fn with_usage(mut self, usage: TokenCount) -> Self {
        self.usage = Some(usage);
        self
    }
}

/// Why a reply ended. Only a reply that ended by itself is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChatFinish {
    /// The model was done.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// A filter of the service stepped in.
    ContentFilter,
    /// Something else, or the service did not say.
    Other,
}

/// The tokens that a service counted for one request and its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenCount {
    /// Tokens of the request.
    pub prompt: u64,
    /// Tokens of the reply, hidden reasoning included.
    pub completion: u64,
}

/// Why there is no reply. It holds neither keys nor texts, and so no foreign error either: the
/// messages of HTTP libraries quote addresses, and some services take the key in the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// Too many requests, or tokens, for now.
    #[error("the service limits the rate of requests{}", wait(*retry_after))]
    RateLimited {
        /// How long the service asks to wait, if it says.
        retry_after: Option<Duration>,
    },
    /// The money, or the quota, is used up. Waiting does not help.
    #[error("the quota is used up")]
    QuotaExhausted,
    /// The key is missing, wrong, or not allowed to do this.
    #[error("the service does not accept the key (status {status})")]
    Unauthorised {
        /// The HTTP status.
        status: u16,
    },
    /// The service does not take this request, now or later.
    #[error("the service refused the request (status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The service failed, and may be back soon.
    #[error("the service is unavailable (status {status}){}", wait(*retry_after))]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// How long the service asks to wait, if it says.
        retry_after: Option<Duration>,
    },
    /// The request or the reply was lost on the way.
    #[error("the connection failed: {0}")]
    Transport(TransportFault),
    /// The reply came and cannot be used.
    #[error("malformed reply: {0}")]
    Malformed(ReplyFault),
    /// The request was not made: it cannot be paid for, or not be recorded.
    #[error(transparent)]
    Budget(#[from] LedgerError),
    /// The request was not made: its reply has no limit of tokens, so its cost has none.
    #[error("a request with a cost cap needs a limit of tokens")]
    Unbounded,
}

/// How a message got lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TransportFault {
    /// No connection could be made.
    #[error("no connection")]
    Connect,
    /// No answer in time.
    #[error("timed out")]
    Timeout,
    /// The connection ended before the reply did.
    #[error("the reply was cut short")]
    Cut,
}

/// What makes a reply useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyFault {
    /// It is not JSON, for example a proxy's error page.
    #[error("not JSON")]
    NotJson,
    /// It is JSON and lacks this field, or has another type there.
    #[error("no usable field `{0}`")]
    Field(&'static str),
    /// It is longer than the client reads.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The most bytes that are read.
        limit: u64,
    },
}

impl ChatError {
    /// The error that an HTTP status stands for, if it is no success. `retry_after` is what the
    /// header of that name asks for. A quota that is used up shares its status with a limited
    /// rate: only the body of the reply tells [`ChatError::QuotaExhausted`].
    #[must_use]
    pub fn from_status(status: u16, retry_after: Option<Duration>) -> Option<Self> {
        match status {
            200..=299 => None,
            401 | 403 => Some(Self::Unauthorised { status }),
            402 => Some(Self::QuotaExhausted),
            429 => Some(Self::RateLimited { retry_after }),
            408 | 409 | 500..=599 => Some(Self::Unavailable { status, retry_after }),
            _ => Some(Self::Refused { status }),
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Transport(_))
    }

    /// How long the service asks to wait. Cap it: services send absurd values.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |time| format!(", wait {} s", time.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use guard_core::Role;

    use super::*;

    /// Compiles only while the trait is object-safe and its objects can be shared by threads.
    fn shared(client: impl ChatClient + 'static) -> Arc<dyn ChatClient> {
        Arc::new(client)
    }

    struct Echo;

    impl ChatClient for Echo {
        fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
            let last = request.messages.last().ok_or(ChatError::Refused { status: 400 })?;
            Ok(ChatReply::new(&last.content, ChatFinish::Stop))
        }
    }

    #[test]
    fn a_client_can_be_shared_as_an_object() {
        let client = shared(shared(Echo));
        let request = ChatRequest::new("m", vec![Message::new(Role::User, "hi")]);
        assert_eq!(client.chat(&request).unwrap().text, "hi");
        assert!(client.chat(&ChatRequest::new("m", Vec::new())).is_err());
    }

    #[test]
    fn a_status_says_what_to_do_next() {
        let pause = Some(Duration::from_secs(3));
        let error = |status| ChatError::from_status(status, pause).unwrap();
        for status in [200, 204, 299] {
            assert_eq!(ChatError::from_status(status, pause), None);
        }
        for status in [408, 409, 429, 500, 502, 503, 529] {
            assert!(error(status).is_transient(), "{status}");
            assert_eq!(error(status).retry_after(), pause, "{status}");
        }
        for status in [100, 302, 400, 401, 403, 404, 413, 422] {
            assert!(!error(status).is_transient(), "{status}");
            assert_eq!(error(status).retry_after(), None, "{status}");
        }
        assert_eq!(error(401), ChatError::Unauthorised { status: 401 });
        assert_eq!(error(404), ChatError::Refused { status: 404 });
    }

    #[test]
    fn what_is_lost_is_worth_another_try_and_what_is_useless_is_not() {
        for fault in [TransportFault::Connect, TransportFault::Timeout, TransportFault::Cut] {
            assert!(ChatError::Transport(fault).is_transient());
        }
        assert!(!ChatError::Malformed(ReplyFault::NotJson).is_transient());
        assert!(!ChatError::QuotaExhausted.is_transient());
    }

    #[test]
    fn messages_say_how_long_to_wait() {
        let limited = |retry_after| ChatError::RateLimited { retry_after }.to_string();
        assert_eq!(limited(None), "the service limits the rate of requests");
        let pause = Some(Duration::from_millis(1500));
        assert_eq!(limited(pause), "the service limits the rate of requests, wait 1.5 s");
        let large = ChatError::Malformed(ReplyFault::TooLarge { limit: 10 });
        assert_eq!(large.to_string(), "malformed reply: more than 10 bytes");
    }
}
