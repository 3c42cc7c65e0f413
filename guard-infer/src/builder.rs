//! From a path to a guard.

use std::path::PathBuf;

use guard_core::{
    FileAccess, GuardReasonerFormat, GuardSettings, LoadOptions, ModelFiles, PromptStyle, Scores,
    WeightType,
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
    path: PathBuf,
    device: DeviceName,
    style: Option<PromptStyle>,
    settings: Option<GuardSettings>,
    scores: bool,
    calibrated: Option<Scores>,
    load: LoadOptions,
    access: FileAccess,
    max_rows: usize,
    max_prompt_tokens: usize,
}

impl GuardBuilder {
    /// A guard on the model in this folder, or in this `.gguf` file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            device: DeviceName::default(),
            style: None,
            settings: None,
            scores: false,
            calibrated: None,
            load: LoadOptions::default(),
            access: FileAccess::default(),
            max_rows: LlamaGenerator::DEFAULT_ROWS,
            max_prompt_tokens: usize::MAX,
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

    /// The float type of the weights. Default: 32-bit.
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

    /// Loads the model.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the device cannot be used, or names the file that is at fault.
    pub fn build(self) -> Result<LlamaGuard, BuildError> {
        let device = self.device.open()?;
        let files = ModelFiles::open_with(&self.path, self.access)?;
        let settings = self.effective_settings(&files)?;
        let generator = LlamaGenerator::from_files(&files, self.load, &device)?;
        let generator =
            generator.with_max_rows(self.max_rows).with_max_prompt_tokens(self.max_prompt_tokens);
        let context = generator.model().config().max_positions;
        let format = GuardReasonerFormat::new(settings.style);
        let format = if settings.knows_modes { format.with_modes() } else { format };
        let guard = ReasoningGuard::new(self.id(), generator, format)
            .with_context_tokens(context)
            .with_variant(serde_json::to_string(&settings).unwrap_or_default());
        Ok(match settings.scores {
            Some(scores) => guard.with_scores(scores),
            None => guard,
        })
    }

    /// What verdicts call the guard.
    fn id(&self) -> String {
        // A folder's name may hold dots: only the ending of a file is left out.
        let path = &self.path;
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.map_or_else(|| "guard".to_owned(), |name| name.to_string_lossy().into_owned())
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
