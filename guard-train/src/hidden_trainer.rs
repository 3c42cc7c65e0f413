//! Distillation of hidden states: a small model learns to read as a larger one does.

use std::time::Instant;

use guard_core::burn::tensor::Tensor;
use guard_core::{
    Gradients, Llama, ModelError, Moments, OptionsError, PackedBatch, Prompt, Tokenizer,
    TokenizerError,
};

use crate::llama_trainer::{batches_by, prepared};
use crate::objective::Window;
use crate::optimizer::{AdamW, numbers};
use crate::options::TrainOptions;
use crate::order::Windows;
use crate::pass::scatter;
use crate::report::{StepReport, TrainObserver};
use crate::trainer::{Trained, Trainer};

/// A text as two tokenizers write it, and where both have come to the end of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlignedText {
    student: Vec<u32>,
    teacher: Vec<u32>,
    /// Of each word its last token, as the student and as the teacher count them.
    places: Vec<[usize; 2]>,
}

impl AlignedText {
    /// The words of a text, each encoded by itself, up to the last one with which the student reads
    /// `longest` tokens at most.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`], when a word cannot be encoded.
    pub fn new(
        text: &str,
        student: &Tokenizer,
        teacher: &Tokenizer,
        longest: usize,
    ) -> Result<Self, TokenizerError> {
        let mut aligned = Self {
            student: student.prefix().to_vec(),
            teacher: teacher.prefix().to_vec(),
            places: Vec::new(),
        };
        for word in words(text) {
            let of_student = encode(student, word)?;
            if aligned.student.len() + of_student.len() > longest {
                break;
            }
            aligned.student.extend(of_student);
            aligned.teacher.extend(encode(teacher, word)?);
            if !aligned.student.is_empty() && !aligned.teacher.is_empty() {
                aligned.places.push([aligned.student.len() - 1, aligned.teacher.len() - 1]);
            }
        }
        Ok(aligned)
    }

    /// The number of words.
    #[must_use]
    pub fn words(&self) -> usize {
        self.places.len()
    }

    /// The number of the student's tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.student.len()
    }
}

/// Words with the white space before each.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let begins = |(at, letter): &(usize, char)| {
        let before = text[..*at].chars().next_back();
        letter.is_whitespace() && before.is_some_and(|before| !before.is_whitespace())
    };
    let ends = text.char_indices().filter(begins).map(|(at, _)| at).chain([text.len()]);
    let mut start = 0;
    let between = ends.map(move |end| {
        let word = &text[start..end];
        start = end;
        word
    });
    between.filter(|word| !word.is_empty())
}

/// The tokens of a word in the middle of a text.
fn encode(tokenizer: &Tokenizer, word: &str) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = tokenizer.encode(&Prompt::text(word))?;
    Ok(ids.split_off(tokenizer.prefix().len().min(ids.len())))
}

/// Why a student could not learn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HiddenError {
    /// No text has a word.
    #[error("there is nothing to learn: none of {texts} texts has a word that fits")]
    Nothing {
        /// The texts that were given.
        texts: usize,
    },
    /// A text is not one of the model's.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A step panicked earlier, and the model went with it.
    #[error("the model was lost in a step that panicked")]
    Lost,
    /// The loss of a step was not finite.
    #[error("the loss of step {step} is not finite: lower the learning rate")]
    NotFinite {
        /// The step, from 1.
        step: u64,
    },
}

/// Trains the first blocks of a model, and its embedding, to have the hidden states that another
/// model has behind some block of its own (hidden-state distillation, as in arXiv 1909.10351).
///
/// The loss is the mean square of the difference at the ends of words, behind the last norm, with
/// each feature of the teacher in units of its standard deviation. A student as wide as the teacher
/// comes to have the same hidden states; it is best made of the teacher by
/// [`Llama::pruned`](guard_core::Llama::pruned). What a student of another width has is mapped to the
/// teacher's by a matrix that is learnt with it, ten times as fast, and then forgotten; see
/// [`Llama::narrowed`](guard_core::Llama::narrowed). The student's last norm, its head and all blocks
/// behind are left as they are, but for a head that is the embedding; so are blocks that the options
/// freeze. There are no checkpoints: a run that is stopped begins anew.
#[derive(Debug)]
pub struct HiddenTrainer {
    /// Away only while a step is made of it.
    student: Option<Llama>,
    /// How many of the student's blocks learn.
    blocks: usize,
    teacher: Teacher,
    options: TrainOptions,
    optimizer: AdamW,
    /// The memory of the last window's gradients.
    cleared: Gradients,
    /// Known from the first window on.
    units: Option<Units>,
    map: Option<Map>,
}

/// A model, and the block behind which its hidden states are taken.
#[derive(Debug)]
struct Teacher {
    model: Llama,
    blocks: usize,
}

/// The mean of each of the teacher's features and one over its standard deviation,
/// `[1, hidden_size]`.
#[derive(Clone, Debug)]
struct Units {
    mean: Tensor<2>,
    scale: Tensor<2>,
}

/// From the student's hidden states to the teacher's.
#[derive(Debug)]
struct Map {
    /// `[teacher's hidden_size, student's]`.
    weight: Tensor<2>,
    moments: Moments,
    gradient: Option<Tensor<2>>,
}

impl HiddenTrainer {
    /// A trainer of a student: its hidden states behind its first `blocks` are to become those of the
    /// teacher behind its own.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names an option that is out of range, or a weight of the student that is no
    /// 32-bit float.
    pub fn new(
        (student, blocks): (Llama, usize),
        (teacher, teacher_blocks): (Llama, usize),
        options: TrainOptions,
    ) -> Result<Self, OptionsError> {
        let student = prepared(student, &options)?;
        check_blocks(&student, blocks, "blocks")?;
        check_blocks(&teacher, teacher_blocks, "teacher_blocks")?;
        let [own, others] = [&student, &teacher].map(|model| model.config().hidden_size);
        Ok(Self {
            map: (own != others).then(|| Map::new([others, own], &student)),
            student: Some(student),
            blocks,
            teacher: Teacher { model: teacher, blocks: teacher_blocks },
            options,
            optimizer: AdamW::default(),
            cleared: Gradients::new(),
            units: None,
        })
    }

    /// The student; `None` after a panic in a step.
    #[must_use]
    pub fn into_model(self) -> Option<Llama> {
        self.student
    }

    fn step(
        &mut self,
        texts: &[&AlignedText],
        (at, total): (u64, u64),
    ) -> Result<StepReport, HiddenError> {
        let began = Instant::now();
        let words: usize = texts.iter().map(|text| text.words()).sum();
        let window = Window { examples: texts.len(), target_tokens: words };
        let mut report = StepReport::new(at + 1, window);
        report.total_steps = Some(total);
        report.tokens = texts.iter().map(|text| text.tokens()).sum();
        let mut gradients = std::mem::take(&mut self.cleared);
        for batch in batches_by(|text: &AlignedText| text.tokens(), texts, &self.options) {
            report.loss += self.learn(&batch, words, &mut gradients)?;
        }
        let model = self.student.as_ref().ok_or(HiddenError::Lost)?;
        let last_norm = model.parameters().into_iter().find(|p| p.name == "model.norm.weight");
        last_norm.and_then(|norm| gradients.take(norm.id));
        let norm = gradients.norm();
        if !report.loss.is_finite() || !norm.is_finite() {
            return Err(HiddenError::NotFinite { step: at + 1 });
        }
        let rate = self.options.learning_rate_at(at, total);
        let scale = self.options.clipping(norm);
        let model = self.student.take().ok_or(HiddenError::Lost)?;
        self.student = Some(self.optimizer.step(model, &gradients, (rate, scale), &self.options));
        gradients.clear();
        self.cleared = gradients;
        if let Some(map) = &mut self.map {
            map.step(self.optimizer.steps(), rate, &self.options);
        }
        (report.learning_rate, report.gradient_norm) = (Some(rate), Some(norm));
        report.elapsed = began.elapsed();
        Ok(report)
    }

    /// Adds the gradients of a part of a window with so many words, and returns what it adds to the
    /// loss.
    fn learn(
        &mut self,
        texts: &[&AlignedText],
        words: usize,
        gradients: &mut Gradients,
    ) -> Result<f64, HiddenError> {
        let target = self.teacher.read(texts, &self.options)?;
        let units = self.units.get_or_insert_with(|| Units::of(&target)).clone();
        let rows: Vec<&[u32]> = texts.iter().map(|text| text.student.as_slice()).collect();
        let options = self.options.record().with_blocks(self.blocks);
        let model = self.student.as_ref().ok_or(HiddenError::Lost)?;
        let recording = model.record(PackedBatch::new(&rows)?, options)?;
        let (hidden, places) = (recording.hidden(), places(texts, 0, |text| &text.student));
        let own = model.gather(hidden.clone(), &places);
        let target = units.measure(target);
        let values = words as f64 * target.dims()[1] as f64;
        let (apart, derivative) = match &mut self.map {
            None => {
                let apart = units.measure(own) - target;
                (apart.clone(), apart * units.scale)
            }
            Some(map) => {
                let apart = own.clone().matmul(map.weight.clone().transpose()) - target;
                map.add(apart.clone().transpose().matmul(own) * (2.0 / values));
                (apart.clone(), apart.matmul(map.weight.clone()))
            }
        };
        let loss = apart.square().sum().try_into_scalar::<f32>();
        let d_hidden = scatter(&hidden, &places, derivative * (2.0 / values));
        drop(hidden);
        model.backward(recording, d_hidden, gradients);
        Ok(loss.map_or(f64::NAN, f64::from) / values)
    }
}

impl Units {
    fn of(values: &Tensor<2>) -> Self {
        let mean = values.clone().mean_dim(0);
        let variance = (values.clone() - mean.clone()).square().mean_dim(0);
        Self { mean, scale: variance.sqrt().clamp_min(1e-4).recip() }
    }

    fn measure(&self, values: Tensor<2>) -> Tensor<2> {
        (values - self.mean.clone()) * self.scale.clone()
    }
}

impl Map {
    /// How many times as fast as the student it learns.
    const FASTER: f64 = 10.0;

    fn new([rows, columns]: [usize; 2], near: &Llama) -> Self {
        let weight = Tensor::zeros([rows, columns], &near.device());
        let moments = Moments::zeros_like(&weight.clone().reshape([-1]));
        Self { weight, moments, gradient: None }
    }

    fn add(&mut self, gradient: Tensor<2>) {
        self.gradient = Some(match self.gradient.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        });
    }

    fn step(&mut self, steps: u64, rate: f64, options: &TrainOptions) {
        let Some(gradient) = self.gradient.take() else { return };
        let shape = self.weight.dims();
        let step = numbers(steps, Self::FASTER * rate, 1.0, 0.0, options);
        let weight = self.weight.clone().reshape([-1]);
        let gradient: Tensor<1> = gradient.reshape([-1]);
        let (weight, moments) = step.step(weight, &gradient, self.moments.clone());
        self.weight = weight.reshape(shape);
        self.moments = moments;
    }
}

fn check_blocks(model: &Llama, blocks: usize, option: &'static str) -> Result<(), OptionsError> {
    match (1..=model.config().layers).contains(&blocks) {
        true => Ok(()),
        false => Err(OptionsError {
            option,
            expected: "at least 1, and at most as many as the model has",
            found: blocks.to_string(),
        }),
    }
}

impl Teacher {
    /// The hidden states at the ends of words, `[words, hidden_size]`.
    fn read(
        &self,
        texts: &[&AlignedText],
        options: &TrainOptions,
    ) -> Result<Tensor<2>, ModelError> {
        let rows: Vec<&[u32]> = texts.iter().map(|text| text.teacher.as_slice()).collect();
        let options = options.record().with_blocks(self.blocks);
        let hidden = self.model.read(&PackedBatch::new(&rows)?, options)?;
        Ok(self.model.gather(hidden, &places(texts, 1, |text| &text.teacher)))
    }
}

impl Trainer for HiddenTrainer {
    type Example = AlignedText;
    type Error = HiddenError;

    /// Texts without a word are left out.
    fn train(
        &mut self,
        data: &[AlignedText],
        observer: &mut dyn TrainObserver,
    ) -> Result<Trained, HiddenError> {
        let texts = data.len();
        let data: Vec<&AlignedText> = data.iter().filter(|text| text.words() > 0).collect();
        if data.is_empty() {
            return Err(HiddenError::Nothing { texts });
        }
        let mut windows = Windows::new(data.len(), &self.options);
        let (total, mut trained) = (windows.total(), Trained::new());
        for at in 0..total {
            let chosen = windows.get(at).iter().filter_map(|&place| data.get(place).copied());
            let report = self.step(&chosen.collect::<Vec<_>>(), (at, total))?;
            if trained.record(&report, observer).is_break() {
                break;
            }
        }
        Ok(trained)
    }
}

/// The ends of words among the tokens of a batch.
fn places(
    texts: &[&AlignedText],
    side: usize,
    tokens: impl Fn(&AlignedText) -> &Vec<u32>,
) -> Vec<usize> {
    let (mut places, mut start) = (Vec::new(), 0);
    for text in texts {
        places.extend(text.places.iter().map(|ends| start + ends[side]));
        start += tokens(text).len();
    }
    places
}
