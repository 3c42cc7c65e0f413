//! From a path to a guard.

use std::path::PathBuf;

use guard_core::{
    Calibration, FileAccess, GuardReasonerFormat, LoadOptions, ModelFiles,
    PromptStyle, WeightType,
};

use crate::device::DeviceName;
use crate::error::BuildError;
use crate::generator::LlamaGenerator;
use crate::reasoning_guard::ReasoningGuard;
use crate::settings;

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
    calibration: Option<Calibration>,
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
            calibration: None,
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

    /// How the model is asked. Default: what the folder's `guard.json` says, see [`GuardSettings`];
    /// without one, as the published results were made.
    pub fn prompt_style(mut self, style: PromptStyle) -> Self {
        self.style = Some(style);
        self
    }

    /// Takes the answers from the probabilities of labels, which become scores; see
    /// [`ReasoningGuard::with_scores`]. Default: with the calibration of the folder's `guard.json`;
    /// without one, answers are read from what the model writes.
    pub fn scores(mut self, calibration: Calibration) -> Self {
        self.calibration = Some(calibration);
        self
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
        let settings = settings::of_folder(&self.path)?;
        let generator = LlamaGenerator::from_files(&files, self.load, &device)?;
        let generator =
            generator.with_max_rows(self.max_rows).with_max_prompt_tokens(self.max_prompt_tokens);
        let context = generator.model().config().max_positions;
        // A folder's name may hold dots: only the ending of a file is left out.
        let name = if self.path.is_dir() { self.path.file_name() } else { self.path.file_stem() };
        let id = name.map(|name| name.to_string_lossy().into_owned());
        let format = match settings.knows_modes {
            true => GuardReasonerFormat::new(self.style.unwrap_or(settings.style)).with_modes(),
            false => GuardReasonerFormat::new(self.style.unwrap_or(settings.style)),
        };
        let guard =
            ReasoningGuard::new(id.unwrap_or_else(|| "guard".to_owned()), generator, format);
        let guard = guard.with_context_tokens(context);
        Ok(match self.calibration.or(settings.calibration) {
            Some(calibration) => guard.with_scores(calibration),
            None => guard,
        })
    }
}
