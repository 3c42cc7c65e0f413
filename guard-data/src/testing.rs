//! Doubles of the public traits, for tests of code that asks a teacher.
//!
//! ```
//! use guard_data::testing::ScriptedChat;
//! use guard_data::{ChatClient, ChatFinish, ChatReply, ChatRequest, Message, Role};
//!
//! let teacher = ScriptedChat::new(|_| Ok(ChatReply::new("Answers:", ChatFinish::Stop)));
//! let request = ChatRequest::new("teacher", vec![Message::new(Role::User, "Think.")]);
//! assert_eq!(teacher.chat(&request).unwrap().text, "Answers:");
//! assert_eq!(teacher.requests(), [request]);
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::teacher::{ChatClient, ChatError, ChatReply, ChatRequest, Clock};

/// A chat client that replies what a function says, and remembers what it was asked.
pub struct ScriptedChat<F> {
    script: F,
    requests: Mutex<Vec<ChatRequest>>,
}

impl<F> fmt::Debug for ScriptedChat<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedChat").finish_non_exhaustive()
    }
}

impl<F> ScriptedChat<F>
where
    F: Fn(&ChatRequest) -> Result<ChatReply, ChatError> + Send + Sync,
{
    /// A client whose reply to a request is what `script` returns.
    pub fn new(script: F) -> Self {
        Self { script, requests: Mutex::default() }
    }

    /// The requests so far, in order.
    pub fn requests(&self) -> Vec<ChatRequest> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<F> ChatClient for ScriptedChat<F>
where
    F: Fn(&ChatRequest) -> Result<ChatReply, ChatError> + Send + Sync,
{
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        (self.script)(request)
    }
}

/// A clock that stands still but for the time that is slept. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
///
/// use guard_data::Clock;
/// use guard_data::testing::PausedClock;
///
/// let clock = PausedClock::default();
/// clock.sleep(Duration::from_secs(60));
/// assert_eq!(clock.now(), Duration::from_secs(60));
/// assert_eq!(clock.sleeps(), [Duration::from_secs(60)]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct PausedClock {
    sleeps: Arc<Mutex<Vec<Duration>>>,
}

impl PausedClock {
    /// How long was slept so far, each time.
    #[must_use]
    pub fn sleeps(&self) -> Vec<Duration> {
        self.sleeps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Duration {
        self.sleeps.lock().unwrap_or_else(PoisonError::into_inner).iter().sum()
    }

    fn sleep(&self, time: Duration) {
        self.sleeps.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    }
}
