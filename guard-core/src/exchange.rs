//! What is judged: a request, and the response to it when there is one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::redacted::Redacted;

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The operator of the assistant.
    System,
    /// The person, or program, that talks to the assistant.
    User,
    /// The assistant.
    Assistant,
}

/// One turn of a conversation. Its text is untrusted, whoever wrote it; `Debug` shows its length
/// only.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// What was written.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("content", &Redacted(&self.content))
            .finish()
    }
}

/// A conversation and the turn in it that is judged.
///
/// When the judged turn is the user's, only the request is judged. When it is the
/// assistant's, it is judged as the response to the user's turn before it.
///
/// ```
/// use guard_core::Exchange;
///
/// let request_only = Exchange::prompt("How do I pick a lock?");
/// assert_eq!(request_only.response(), None);
///
/// let pair = Exchange::pair("How do I pick a lock?", "I can't help with that.");
/// assert_eq!(pair.request(), "How do I pick a lock?");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Exchange {
    messages: Vec<Message>,
    request: usize,
    response: Option<usize>,
}

impl Exchange {
    /// A request without a response.
    pub fn prompt(request: impl Into<String>) -> Self {
        Self { messages: vec![Message::new(Role::User, request)], request: 0, response: None }
    }

    /// A request and the response to it.
    pub fn pair(request: impl Into<String>, response: impl Into<String>) -> Self {
        Self {
            messages: vec![
                Message::new(Role::User, request),
                Message::new(Role::Assistant, response),
            ],
            request: 0,
            response: Some(1),
        }
    }

    /// A conversation of which the turn at index `judged` is judged.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`] when there is no such turn, when it is a system turn, or when no user
    /// turn stands directly before an assistant turn that is judged.
    pub fn conversation(messages: Vec<Message>, judged: usize) -> Result<Self, ExchangeError> {
        let count = messages.len();
        let role = |index: usize| messages.get(index).map(|message| message.role);
        let (request, response) = match role(judged) {
            None => return Err(ExchangeError::NoSuchTurn { judged, count }),
            Some(Role::User) => (judged, None),
            Some(Role::Assistant) => match judged.checked_sub(1) {
                Some(before) if role(before) == Some(Role::User) => (before, Some(judged)),
                _ => return Err(ExchangeError::NoRequest { judged }),
            },
            Some(role) => return Err(ExchangeError::NotJudgeable { judged, role }),
        };
        Ok(Self { messages, request, response })
    }

    /// The request: the text of the judged user turn, or of the turn before the judged response.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.messages[self.request].content
    }

    /// The response that is judged, if there is one.
    #[must_use]
    pub fn response(&self) -> Option<&str> {
        self.response.map(|index| self.messages[index].content.as_str())
    }

    /// The turns before the judged request, oldest first.
    #[must_use]
    pub fn history(&self) -> &[Message] {
        &self.messages[..self.request]
    }

    /// The same request and response without what came before: the explicit way to judge a
    /// late turn with a guard that reads no history.
    #[must_use]
    pub fn without_history(mut self) -> Self {
        let end = self.response.unwrap_or(self.request) + 1;
        self.messages.truncate(end);
        self.messages.drain(..self.request);
        self.response = self.response.map(|_| 1);
        self.request = 0;
        self
    }
}

/// Why a conversation cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The index is beyond the conversation.
    #[error("turn {judged} is to be judged, but the conversation has {count} turns")]
    NoSuchTurn {
        /// The index that was asked for, from 0.
        judged: usize,
        /// How many turns there are.
        count: usize,
    },
    /// The judged turn is an assistant's, and no user's turn stands before it.
    #[error("turn {judged} is an assistant turn without a user turn directly before it")]
    NoRequest {
        /// The index that was asked for, from 0.
        judged: usize,
    },
    /// Turns of this role are not judged.
    #[error("turn {judged} is a {role:?} turn: only user and assistant turns are judged")]
    NotJudgeable {
        /// The index that was asked for, from 0.
        judged: usize,
        /// The role of that turn.
        role: Role,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue() -> Vec<Message> {
        vec![
            Message::new(Role::System, "be kind"),
            Message::new(Role::User, "first"),
            Message::new(Role::Assistant, "answer"),
            Message::new(Role::User, "second"),
            Message::new(Role::Assistant, "reply"),
        ]
    }

    #[test]
    fn the_judged_turn_decides_request_and_response() {
        let user = Exchange::conversation(dialogue(), 3).unwrap();
        assert_eq!((user.request(), user.response()), ("second", None));
        assert_eq!(user.history().len(), 3);
        let assistant = Exchange::conversation(dialogue(), 2).unwrap();
        assert_eq!((assistant.request(), assistant.response()), ("first", Some("answer")));
    }

    #[test]
    fn history_can_be_dropped_by_name_only() {
        let late = Exchange::conversation(dialogue(), 4).unwrap().without_history();
        assert_eq!(late, Exchange::pair("second", "reply"));
        let middle = Exchange::conversation(dialogue(), 1).unwrap().without_history();
        assert_eq!(middle, Exchange::prompt("first"));
    }

    #[test]
    fn impossible_turns_are_refused() {
        let refused = |judged| Exchange::conversation(dialogue(), judged).unwrap_err();
        assert_eq!(refused(9), ExchangeError::NoSuchTurn { judged: 9, count: 5 });
        assert_eq!(refused(0), ExchangeError::NotJudgeable { judged: 0, role: Role::System });
        let orphan = vec![Message::new(Role::Assistant, "hello")];
        assert_eq!(
            Exchange::conversation(orphan, 0).unwrap_err(),
            ExchangeError::NoRequest { judged: 0 }
        );
    }
}
