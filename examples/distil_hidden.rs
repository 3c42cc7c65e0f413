//! Has a small model learn to read as a larger one does: hidden-state distillation.
//!
//! `cargo run --release --example distil_hidden -- --model small --blocks 3 --teacher FOLDER
//! --teacher-blocks 6 --texts rows.jsonl --output read`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model;
use guard_examples::model_name::ModelName;
use guard_examples::progress::Pace;
use guard_examples::training::{RunConfig, Stage};
use guard_infer::DeviceName;
use guard_train::{AlignedText, HiddenError, HiddenTrainer, StepReport, Trainer};

/// Have the first blocks of a small model learn the hidden states of a larger one.
#[derive(Parser)]
struct Arguments {
    /// The small model, as `prune_model` or `narrow_model` makes it of the larger one.
    #[arg(long)]
    model: ModelName,
    /// How many of its blocks learn, from the bottom; the others are left as they are.
    #[arg(long)]
    blocks: usize,
    /// The larger model.
    #[arg(long)]
    teacher: ModelName,
    /// Behind how many of its blocks its hidden states are taken.
    #[arg(long)]
    teacher_blocks: usize,
    /// JSON lines whose strings are read.
    #[arg(long, required = true)]
    texts: Vec<PathBuf>,
    /// The most tokens of a text.
    #[arg(long, default_value_t = 128)]
    longest: usize,
    /// A TOML file, of which the table `train` is read.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where it is trained: auto, cpu, cuda, vulkan, metal, rocm or wgpu.
    #[arg(long, default_value_t)]
    device: DeviceName,
    /// The folder of the model.
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let config = RunConfig::read(arguments.config.as_deref(), Stage::RSft, None)?;
    let device = arguments.device.open()?;
    let (model, tokenizer, settings) = model::load(&arguments.model, &device)?;
    let (teacher, teachers, _) = model::load(&arguments.teacher, &device)?;
    // Not found out only when there is something to lose.
    std::fs::create_dir_all(&arguments.output)?;
    let mut texts = Vec::new();
    for path in &arguments.texts {
        for text in lines::strings(path)? {
            texts.push(AlignedText::new(&text, &tokenizer, &teachers, arguments.longest)?);
        }
    }
    let tokens: usize = texts.iter().map(AlignedText::tokens).sum();
    lines::tell(&format!("{} texts of {tokens} tokens", texts.len()));
    let (student, teacher) = ((model, arguments.blocks), (teacher, arguments.teacher_blocks));
    let mut trainer = HiddenTrainer::new(student, teacher, config.train)?;
    let mut pace = Pace::default();
    let mut watch = |report: &StepReport| {
        let (step, total) = (report.step, report.total_steps.unwrap_or(report.step));
        if pace.is_due() || step == total {
            let speed = report.tokens as f64 / report.elapsed.as_secs_f64().max(1e-3);
            let loss = report.loss;
            lines::tell(&format!("step {step}/{total}: loss {loss:.4}, {speed:.0} tokens/s"));
        }
        ControlFlow::Continue(())
    };
    let steps = trainer.train(&texts, &mut watch)?.steps;
    let model = trainer.into_model().ok_or(HiddenError::Lost)?;
    model::save(&model, &tokenizer, settings, &arguments.output)?;
    lines::print(&format!(
        "trained {steps} steps; the model is in {}\n",
        arguments.output.display()
    ))
}
