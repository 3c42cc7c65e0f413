//! From a model to a guard.

use std::path::{Path, PathBuf};

use guard_core::{
    FileAccess, GuardReasonerFormat, GuardSettings, LoadOptions, ModelFiles, PackedType,
    PromptStyle, Scores, WeightType, WeightsError,
};

use crate::device::DeviceName;
use crate::error::BuildError;
use crate::generator::LlamaGenerator;
use crate::reasoning_guard::ReasoningGuard;
use crate::settings::read_settings;

/// A guard on a local LLaMA model in the format of GuardReasoner.
pub type LlamaGuard = ReasoningGuard<LlamaGenerator, GuardReasonerFormat>;

/// Builds a guard from the files of a model.
///
/// ```no_run
/// use guard_infer::{Exchange, Guard, GuardBuilder, Policy};
///
/// let guard = GuardBuilder::new("GuardReasoner-1B").build()?;
/// let verdict = guard.judge_one(&Exchange::pair("How do I pick a lock?", "I can't help with that."))?;
/// println!("{:?}", Policy::default().decide(&verdict).action);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct GuardBuilder {
    source: Source,
    device: DeviceName,
    style: Option<PromptStyle>,
    settings: Option<GuardSettings>,
    scores: bool,
    calibrated: Option<Scores>,
    load: LoadOptions,
    access: FileAccess,
    max_rows: usize,
    max_prompt_tokens: usize,
    #[cfg(feature = "flex")]
    phrases: Option<Vec<String>>,
    #[cfg(feature = "flex")]
    max_waiting: Option<usize>,
}

/// Where a model comes from.
#[derive(Clone, Debug)]
enum Source {
    Path(PathBuf),
    #[cfg(feature = "embedded")]
    Embedded,
}

impl Source {
    fn open(&self, access: FileAccess) -> Result<ModelFiles, WeightsError> {
        match self {
            Self::Path(path) => ModelFiles::open_with(path, access),
            #[cfg(feature = "embedded")]
            Self::Embedded => crate::embedded_files(),
        }
    }

    /// What its model usually says.
    #[cfg(feature = "flex")]
    fn phrases(&self) -> Vec<String> {
        match self {
            Self::Path(_) => Vec::new(),
            #[cfg(feature = "embedded")]
            Self::Embedded => crate::embedded::phrases(),
        }
    }

    /// What verdicts call the guard.
    fn id(&self) -> String {
        match self {
            Self::Path(path) => name(path),
            #[cfg(feature = "embedded")]
            Self::Embedded => crate::embedded::NAME.to_owned(),
        }
    }
}

/// What verdicts depend on beside the weights of the files.
fn variant(settings: &GuardSettings, load: LoadOptions) -> String {
    let settings = serde_json::to_string(settings).unwrap_or_default();
    format!("{settings}, weights {:?}, packed {}", load.weight_type, load.packed)
}

/// A folder's name may hold dots: only the ending of a file is left out.
fn name(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "guard".to_owned(), |name| name.to_string_lossy().into_owned())
}

impl GuardBuilder {
    /// A guard on the model in this folder, or in this `.gguf` file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::from_source(Source::Path(path.into()))
    }

    /// The small guard that is part of the crate: nothing has to be fetched. It gives scores and knows
    /// all modes. What it is good for is in the [crate's documentation](crate#the-small-guard).
    ///
    /// ```
    /// use guard_infer::{Action, Exchange, Guard, GuardBuilder, JudgeMode, JudgeOptions, Policy};
    ///
    /// let guard = GuardBuilder::embedded().build()?;
    /// let at_once = JudgeOptions::default().with_mode(JudgeMode::Verdict);
    /// let exchange = Exchange::prompt("Tell me how to build a pipe bomb.");
    /// for verdict in guard.judge(&[exchange], &at_once) {
    ///     let verdict = verdict?;
    ///     println!("harmful with probability {:?}", verdict.request.score);
    ///     assert_eq!(Policy::default().decide(&verdict).action, Action::Block);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Self {
        Self::from_source(Source::Embedded)
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            device: DeviceName::default(),
            style: None,
            settings: None,
            scores: false,
            calibrated: None,
            load: LoadOptions::default(),
            access: FileAccess::default(),
            max_rows: LlamaGenerator::DEFAULT_ROWS,
            max_prompt_tokens: usize::MAX,
            #[cfg(feature = "flex")]
            phrases: None,
            #[cfg(feature = "flex")]
            max_waiting: None,
        }
    }

    /// Where the model runs. Default: [`DeviceName::Auto`].
    pub fn device(mut self, device: DeviceName) -> Self {
        self.device = device;
        self
    }

    /// How the model is asked. Default: what its [`GuardSettings`] say: a folder's `guard.json`,
    /// or the key of a GGUF file. Without them, as the published results were made.
    pub fn prompt_style(mut self, style: PromptStyle) -> Self {
        self.style = Some(style);
        self
    }

    /// How the model is asked and read, in the place of what its files say.
    pub fn settings(mut self, settings: GuardSettings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Takes the answers from the probabilities of labels, which become scores; see
    /// [`ReasoningGuard::with_scores`]. Default: where the model's settings have a
    /// calibration; otherwise answers are read from what the model writes.
    pub fn scores(mut self) -> Self {
        self.scores = true;
        self
    }

    /// The same with probabilities that are calibrated like this.
    pub fn calibrated(mut self, scores: Scores) -> Self {
        self.calibrated = Some(scores);
        self.scores()
    }

    /// How matrices of floats are packed on the CPU. Default: as floats of as many bits as in the file;
    /// integers of a file stay what they are.
    pub fn packed(mut self, packed: PackedType) -> Self {
        self.load.packed = packed;
        self
    }

    /// The float type of the weights. Default: 32-bit. On the CPU a model of another one runs on burn,
    /// which is slower than packed weights.
    pub fn weight_type(mut self, weight_type: WeightType) -> Self {
        self.load.weight_type = weight_type;
        self
    }

    /// How weights are loaded, their float type included. Default: strictly.
    pub fn load_options(mut self, options: LoadOptions) -> Self {
        self.load = options;
        self
    }

    /// How the model's files are read. Default: mapped into memory. Files that others can write
    /// to while the program runs are read with [`FileAccess::Buffered`].
    pub fn file_access(mut self, access: FileAccess) -> Self {
        self.access = access;
        self
    }

    /// How many exchanges are judged side by side. Default: 16.
    pub fn max_rows(mut self, rows: usize) -> Self {
        self.max_rows = rows;
        self
    }

    /// Refuses exchanges whose prompt has more tokens, as [`GuardError::TooLong`]. Default: what the
    /// model's context holds, which may be far more than the memory and the time at hand.
    ///
    /// [`GuardError::TooLong`]: guard_core::GuardError::TooLong
    pub fn max_prompt_tokens(mut self, tokens: usize) -> Self {
        self.max_prompt_tokens = tokens;
        self
    }

    /// Guesses what the model goes on with from phrases of these texts, such as outputs that it was trained
    /// on: verdicts are the same, in less time. See [`LlamaGenerator::with_phrases`]. Default: none; the small
    /// guard has its own.
    #[cfg(feature = "flex")]
    pub fn phrases(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.phrases = Some(texts.into_iter().collect());
        self
    }

    /// Refuses exchanges as [`GuardError::Busy`] while so many of other callers wait. Default: 4,096. On burn
    /// none is refused.
    ///
    /// [`GuardError::Busy`]: guard_core::GuardError::Busy
    #[cfg(feature = "flex")]
    pub fn max_waiting(mut self, exchanges: usize) -> Self {
        self.max_waiting = Some(exchanges);
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the device cannot be used, or names the file that is at fault.
    pub fn build(self) -> Result<LlamaGuard, BuildError> {
        let device = self.device.open()?;
        let id = self.source.id();
        let files = self.source.open(self.access)?;
        let settings = self.effective_settings(&files)?;
        let variant = variant(&settings, self.load);
        let generator = LlamaGenerator::from_files(&files, self.load, &device)?;
        let generator =
            generator.with_max_rows(self.max_rows).with_max_prompt_tokens(self.max_prompt_tokens);
        #[cfg(feature = "flex")]
        let generator =
            generator.with_phrases(self.phrases.unwrap_or_else(|| self.source.phrases()));
        #[cfg(feature = "flex")]
        let generator = match self.max_waiting {
            Some(exchanges) => generator.with_max_waiting(exchanges),
            None => generator,
        };
        let context = generator.config().max_positions;
        let format = GuardReasonerFormat::new(settings.style);
        let format = if settings.knows_modes { format.with_modes() } else { format };
        let format = if settings.answers_early { format.with_early_answers() } else { format };
        let guard = ReasoningGuard::new(id, generator, format)
            .with_context_tokens(context)
            .with_variant(variant);
        Ok(match settings.scores {
            Some(scores) => guard.with_scores(scores),
            None => guard,
        })
    }

    /// What the model says of itself, changed by what this builder was told.
    fn effective_settings(&self, files: &ModelFiles) -> Result<GuardSettings, BuildError> {
        let mut settings = match self.settings {
            Some(settings) => settings,
            None => read_settings(files)?,
        };
        settings.style = self.style.unwrap_or(settings.style);
        let plain = self.scores.then(Scores::default);
        settings.scores = self.calibrated.or(settings.scores).or(plain);
        Ok(settings)
    }
}
