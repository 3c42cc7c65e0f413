//! A training loop of one's own, watched like ours: a table of bigrams that counts.
//!
//! `cargo run --release --example custom_trainer`

use std::convert::Infallible;
use std::ops::ControlFlow;

use guard_examples::lines::{self, Outcome};
use guard_train::{StepReport, TrainObserver, Trained, Trainer, Window};

/// The smallest language model: how often a letter follows another, each pair once beforehand.
struct Bigrams {
    counts: [[f64; 27]; 27],
    words_per_step: usize,
}

/// Letters as numbers, from a space to a space.
fn letters(word: &str) -> Vec<usize> {
    let number = |letter: u8| usize::from(letter.to_ascii_lowercase().wrapping_sub(b'a' - 1)) % 27;
    let inside = word.bytes().map(number);
    std::iter::once(0).chain(inside).chain(std::iter::once(0)).collect()
}

impl Bigrams {
    fn nll(&self, from: usize, to: usize) -> f64 {
        -(self.counts[from][to] / self.counts[from].iter().sum::<f64>()).ln()
    }

    /// The mean loss of some words, and then the counts with them.
    fn step(&mut self, step: u64, words: &[String]) -> StepReport {
        let rows: Vec<_> = words.iter().map(|word| letters(word)).collect();
        let pairs = || rows.iter().flat_map(|row| row.windows(2).map(|pair| (pair[0], pair[1])));
        let mut window = Window::default();
        (window.examples, window.target_tokens) = (words.len(), pairs().count());
        let mut report = StepReport::new(step, window);
        report.loss = pairs().map(|(from, to)| self.nll(from, to)).sum::<f64>();
        report.loss /= window.target_tokens as f64;
        pairs().for_each(|(from, to)| self.counts[from][to] += 1.0);
        report
    }
}

impl Trainer for Bigrams {
    type Example = String;
    type Error = Infallible;

    fn train(
        &mut self,
        words: &[String],
        observer: &mut dyn TrainObserver,
    ) -> Result<Trained, Infallible> {
        let mut trained = Trained::new();
        for words in words.chunks(self.words_per_step) {
            let report = self.step(trained.steps + 1, words);
            if trained.record(&report, observer).is_break() {
                break;
            }
        }
        Ok(trained)
    }
}

fn main() -> Outcome<()> {
    let text = include_str!("../LICENSE-APACHE");
    let words: Vec<String> = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let mut trainer = Bigrams { counts: [[1.0; 27]; 27], words_per_step: 256 };
    // Any observer of our trainers watches this one as well.
    let mut watch = |report: &StepReport| {
        let _ = lines::print(&format!("step {}: loss {:.3}\n", report.step, report.loss));
        ControlFlow::Continue(())
    };
    trainer.train(&words, &mut watch)?;
    Ok(())
}
