//! A sample: an exchange, where it comes from, and the labels that are known.

use std::fmt;

use guard_core::{Exchange, Labels};
use serde::{Deserialize, Serialize};

use crate::row::Row;

/// One labelled exchange, and one line of a JSONL file of samples.
///
/// Its texts are untrusted and may be vile: log the id, not the sample.
///
/// ```
/// use guard_data::{Harm, Labels, Sample};
///
/// let labels = Labels { request: Some(Harm::Harmful), ..Labels::default() };
/// let sample = Sample::new("7", "toxic-chat", "How do I pick a lock?").with_labels(labels);
/// assert_eq!(sample.exchange().response(), None);
/// ```
/// `Debug` shows the length of its texts only.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Row")]
#[non_exhaustive]
pub struct Sample {
    /// Its name, unique within its source.
    pub id: String,
    /// The set of data that it comes from.
    pub source: String,
    /// The request.
    pub prompt: String,
    /// The response to it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// What is known about the exchange; tasks without a label are left open.
    pub labels: Labels,
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("prompt", &self.prompt.len())
            .field("response", &self.response.as_ref().map(String::len))
            .field("labels", &self.labels)
            .finish()
    }
}

impl Sample {
    /// A request without a response and without labels.
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        prompt: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            source: source.into(),
            prompt: prompt.into(),
            response: None,
            labels: Labels::default(),
        }
    }

    /// The same sample with this response.
    #[must_use]
    pub fn with_response(mut self, response: impl Into<String>) -> Self {
        self.response = Some(response.into());
        self
    }

    /// The same sample with these labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// What a guard is given to judge: the texts without the labels.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        match &self.response {
            Some(response) => Exchange::pair(&self.prompt, response),
            None => Exchange::prompt(&self.prompt),
        }
    }
}

#[cfg(test)]
mod tests {
    use guard_core::{Completion, Harm};

    use super::*;

    fn full() -> Sample {
        Sample::new("1", "wild-guard", "hi").with_response("hello").with_labels(Labels {
            request: Some(Harm::Unharmful),
            completion: Some(Completion::Compliance),
            response: None,
        })
    }

    #[test]
    fn json_has_the_documented_names_and_leaves_out_what_is_unknown() {
        let json = serde_json::to_string(&full()).unwrap();
        assert_eq!(
            json,
            r#"{"id":"1","source":"wild-guard","prompt":"hi","response":"hello","labels":{"request":"unharmful","completion":"compliance"}}"#
        );
        let bare = serde_json::to_string(&Sample::new("2", "s", "hi")).unwrap();
        assert_eq!(bare, r#"{"id":"2","source":"s","prompt":"hi","labels":{}}"#);
    }

    #[test]
    fn json_round_trips() {
        for sample in [full(), Sample::new("2", "s", "line\nbreak \u{1f600} \"quoted\"")] {
            let json = serde_json::to_string(&sample).unwrap();
            assert_eq!(serde_json::from_str::<Sample>(&json).unwrap(), sample);
        }
    }

    #[test]
    fn the_exchange_has_a_response_only_where_the_sample_has_one() {
        assert_eq!(full().exchange(), Exchange::pair("hi", "hello"));
        assert_eq!(Sample::new("2", "s", "hi").exchange(), Exchange::prompt("hi"));
        let empty = Sample::new("3", "s", "hi").with_response("");
        assert_eq!(empty.exchange().response(), Some(""));
    }
}
