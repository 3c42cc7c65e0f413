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
use std::sync::{Mutex, PoisonError};

use crate::chat::{ChatClient, ChatError, ChatReply, ChatRequest};

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
