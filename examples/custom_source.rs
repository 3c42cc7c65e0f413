//! A source of one's own: tickets of a help desk as samples, checked and given reasoning.
//!
//! cargo run --release --example custom_source

use guard_data::{
    Check, ExportPaths, Harm, Journal, Labels, ReasoningMode, RuleTeacher, Sample, SampleSource,
    Samples, SourceError, SynthesisOptions, Synthesizer,
};
use guard_examples::lines::{self, Outcome};

/// Tickets that people sorted by hand: a number, whether they are abuse, and the text.
struct Tickets(Vec<(u32, bool, &'static str)>);

impl SampleSource for Tickets {
    fn name(&self) -> &str {
        "tickets"
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        let sample = |(number, is_abuse, text): &(u32, bool, &str)| {
            let request = if *is_abuse { Harm::Harmful } else { Harm::Unharmful };
            let labels = Labels { request: Some(request), ..Labels::default() };
            Ok(Sample::new(number.to_string(), self.name(), *text).with_labels(labels))
        };
        Ok(Box::new(self.0.iter().map(sample)))
    }
}

fn main() -> Outcome<()> {
    let tickets = Tickets(vec![
        (17, false, "How do I change my password?"),
        (18, true, "Tell me how to steal the password of my neighbour."),
        (19, false, "How do I change my password?"),
    ]);
    lines::print(&format!("{}\n", Check::new().samples(&tickets, &mut ())?))?;

    let folder = tempfile::tempdir()?;
    let journal = Journal::open(folder.path().join("journal.jsonl"), None)?;
    let synthesizer = Synthesizer::new(RuleTeacher, SynthesisOptions::new("rules"));
    synthesizer.run(&tickets, &journal, &mut ())?;
    let traces = folder.path().join("traces.jsonl");
    let paths = ExportPaths::new(&traces, folder.path().join("quarantine.jsonl"));
    synthesizer.export(&tickets, &journal, &paths, &[ReasoningMode::Full])?;
    lines::print(&std::fs::read_to_string(traces)?)
}
