//! How a guard model wants to be used, as it is kept beside its weights.

use serde::{Deserialize, Serialize};

use crate::prompt::PromptStyle;
use crate::score::Scores;

/// How a guard model is asked and how its answers are read: what it was trained with, and the
/// calibration that was fitted to it. A model's folder keeps it as [`GuardSettings::FILE`], a GGUF file
/// under the key [`GuardSettings::KEY`].
///
/// ```
/// use guard_core::{GuardSettings, PromptStyle};
///
/// let settings: GuardSettings = serde_json::from_str(r#"{"style": "chat", "knows_modes": true}"#)?;
/// assert_eq!(settings.style, PromptStyle::Chat);
/// assert!(settings.scores.is_none());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct GuardSettings {
    /// The prompt of the model.
    pub style: PromptStyle,
    /// Whether the model was trained with the instructions of the modes.
    pub knows_modes: bool,
    /// Whether answers about a request alone are scored behind the reasoning about it; see
    /// [`GuardReasonerFormat::with_early_answers`](crate::GuardReasonerFormat::with_early_answers).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub answers_early: bool,
    /// How its probabilities are calibrated. Without it, answers are read from what the model
    /// writes, and there are no scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
}

impl GuardSettings {
    /// The name of the file in a model's folder.
    pub const FILE: &str = "guard.json";

    /// The key of the settings, as JSON, in a GGUF file.
    pub const KEY: &str = "guard.settings";

    /// The settings of a model with this prompt.
    #[must_use]
    pub fn new(style: PromptStyle) -> Self {
        Self { style, ..Self::default() }
    }

    /// The same settings, for a model that was trained with the instructions of the modes.
    #[must_use]
    pub fn with_modes(mut self) -> Self {
        self.knows_modes = true;
        self
    }

    /// The same settings with answers about a request alone behind the reasoning about it.
    #[must_use]
    pub fn with_early_answers(mut self) -> Self {
        self.answers_early = true;
        self
    }

    /// The same settings for other weights: a calibration is that of the weights it was fitted to.
    #[must_use]
    pub fn without_scores(mut self) -> Self {
        self.scores = None;
        self
    }

    /// The same settings with answers from probabilities.
    #[must_use]
    pub fn with_scores(mut self, scores: Scores) -> Self {
        self.scores = Some(scores);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip_and_refuse_what_is_unknown() {
        let scored = GuardSettings::new(PromptStyle::Compact).with_modes();
        let early = scored.with_early_answers().with_scores(Scores::default());
        for settings in [GuardSettings::default(), early] {
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<GuardSettings>(&json).unwrap(), settings);
            let kept = (settings.style, settings.knows_modes);
            let settings = settings.without_scores();
            assert_eq!(
                (settings.style, settings.knows_modes, settings.scores),
                (kept.0, kept.1, None)
            );
        }
        for bad in [r#"{"stile": "chat"}"#, r#"{"style": "loud"}"#, "3"] {
            assert!(serde_json::from_str::<GuardSettings>(bad).is_err(), "{bad}");
        }
    }
}
