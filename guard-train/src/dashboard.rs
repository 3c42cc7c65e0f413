//! burn-train's dashboard in the terminal.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use burn_train::Interrupter;
use burn_train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry,
    SerializedEntry,
};
use burn_train::renderer::{MetricState, MetricsRenderer, default_renderer};

use crate::report::{StepReport, TrainObserver};

/// Shows a run in burn-train's terminal dashboard: a plot for each number, and how long it takes
/// yet. Where standard output is no terminal, burn-train prints lines instead.
///
/// Its key for stopping ends the run in good order after the step. Its key for killing panics in
/// the step that follows, which ends the process; checkpoints stay.
pub struct Dashboard {
    renderer: Box<dyn MetricsRenderer>,
    stop: Interrupter,
    known: BTreeSet<String>,
}

/// Of everything else less is better, or neither.
const HIGHER_IS_BETTER: [&str; 4] =
    ["rewards/chosen", "rewards/margins", "rewards/accuracies", "target_tokens_per_second"];

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Dashboard {
    /// Takes the terminal over.
    #[must_use]
    pub fn new() -> Self {
        let stop = Interrupter::new();
        Self::with_renderer(default_renderer(stop.clone(), None), stop)
    }

    fn with_renderer(renderer: Box<dyn MetricsRenderer>, stop: Interrupter) -> Self {
        Self { renderer, stop, known: BTreeSet::new() }
    }

    fn start(&mut self, report: &StepReport) {
        let total = report.total_steps.unwrap_or(report.step) as usize;
        self.renderer.start(1, 1, Some(total), None);
        self.renderer.start_split("Train", total);
    }

    fn show(&mut self, name: &str, value: f64) {
        let id = MetricId::new(Arc::new(name.to_owned()));
        if self.known.insert(name.to_owned()) {
            self.renderer.register_metric(MetricDefinition {
                metric_id: id.clone(),
                name: Arc::new(name.to_owned()),
                description: None,
                attributes: MetricAttributes::Numeric(NumericAttributes {
                    unit: None,
                    higher_is_better: HIGHER_IS_BETTER.contains(&name),
                }),
            });
        }
        let text = SerializedEntry::new(format!("{value:.5}"), value.to_string());
        let point = value.is_finite().then_some(NumericEntry::Value(value));
        self.renderer.update_train(MetricState::Numeric(MetricEntry::new(id, text), point));
    }
}

impl Default for Dashboard {
    fn default() -> Self {
        Self::new()
    }
}

impl TrainObserver for Dashboard {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        if self.known.is_empty() {
            self.start(report);
        }
        self.show("loss", report.loss);
        let others = [
            ("learning_rate", report.learning_rate),
            ("gradient_norm", report.gradient_norm),
            ("validation_loss", report.validation_loss),
            ("target_tokens_per_second", report.target_tokens_per_second()),
        ];
        for (name, value) in others {
            if let Some(value) = value {
                self.show(name, value);
            }
        }
        for number in &report.numbers {
            self.show(number.name, number.value);
        }
        self.renderer.update_split(report.step as usize);
        if report.total_steps == Some(report.step) {
            self.renderer.end_split();
            self.renderer.end();
        }
        match self.stop.should_stop() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Number, Window};

    /// Off a terminal, as tests are, burn-train prints lines.
    #[test]
    fn it_takes_any_number_and_does_not_end_the_run() {
        let mut dashboard = Dashboard::new();
        let mut report = StepReport::new(1, Window { examples: 1, target_tokens: 4 });
        report.total_steps = Some(2);
        report.numbers.push(Number { name: "my_number", value: f64::NAN });
        assert!(dashboard.on_step(&report).is_continue());
        report.step = 2;
        report.validation_loss = Some(0.5);
        report.numbers.push(Number { name: "rewards/accuracies", value: 0.75 });
        assert!(dashboard.on_step(&report).is_continue());
        for name in ["my_number", "loss", "validation_loss", "rewards/accuracies"] {
            assert!(dashboard.known.contains(name), "{name} is not shown");
        }
        dashboard.stop.stop(None);
        assert!(dashboard.on_step(&report).is_break());
    }
}
