//! How traces are made.

use super::prompt::MissingLabels;

/// How traces are made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SynthesisOptions {
    /// The name of the teacher's model.
    pub model: String,
    /// The most tokens of a reply. Default 2,048.
    pub max_tokens: usize,
    /// The temperature of the teacher. Default 0 (released code); `None` leaves it to the service.
    pub temperature: Option<f64>,
    /// The seed, for services that take one. Default none.
    pub seed: Option<u64>,
    /// What to do about labels that a sample lacks.
    pub missing: MissingLabels,
    /// Requests at a time, at least 1. Default 8.
    pub workers: usize,
    /// Whether rows whose reply was put aside are asked for again. Default no.
    pub retry_rejected: bool,
    /// The largest share of replies that may be put aside, once there are 100. Default 0.5.
    pub most_rejected: f64,
}

impl SynthesisOptions {
    /// The default options for this model.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            max_tokens: 2048,
            temperature: Some(0.0),
            seed: None,
            missing: MissingLabels::default(),
            workers: 8,
            retry_rejected: false,
            most_rejected: 0.5,
        }
    }

    /// The same options with another limit for replies.
    #[must_use]
    pub fn with_max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// The same options with another temperature.
    #[must_use]
    pub fn with_temperature(mut self, temperature: Option<f64>) -> Self {
        self.temperature = temperature;
        self
    }

    /// The same options with a seed.
    #[must_use]
    pub fn with_seed(mut self, seed: Option<u64>) -> Self {
        self.seed = seed;
        self
    }

    /// The same options with another rule for missing labels.
    #[must_use]
    pub fn with_missing(mut self, missing: MissingLabels) -> Self {
        self.missing = missing;
        self
    }

    /// The same options with so many requests at a time, at least 1.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// The same options, asking again for rows whose reply was put aside.
    #[must_use]
    pub fn retrying_rejected(mut self) -> Self {
        self.retry_rejected = true;
        self
    }

    /// The same options with another share of replies that may be put aside.
    #[must_use]
    pub fn with_most_rejected(mut self, share: f64) -> Self {
        self.most_rejected = share;
        self
    }
}
