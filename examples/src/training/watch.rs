//! Watching a run: its log, a bar or lines, and signals.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guard_train::{StepLog, StepLogError, StepReport, TrainEvent, TrainObserver};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::lines::{self, Outcome};

/// How often a run without a terminal tells where it is.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Writes the log, shows the progress, and ends the run on a signal.
pub(super) struct RunWatch {
    log: StepLog,
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
    /// When a line was last written, where there is no terminal for a bar.
    told: Option<Instant>,
    #[cfg(feature = "dashboard")]
    dashboard: Option<guard_train::Dashboard>,
}

impl RunWatch {
    /// From now on the first SIGINT or SIGTERM ends the run after the step, with a checkpoint; a
    /// second one ends the process at once.
    pub(super) fn new(log: StepLog, dashboard: bool) -> Outcome<Self> {
        if dashboard && cfg!(not(feature = "dashboard")) {
            return Err(
                "--dashboard needs the feature `dashboard`: build with --features dashboard".into(),
            );
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: this one acts only when the flag was set before.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop))?;
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left {msg}");
        let bar =
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Ok(Self {
            log,
            bar,
            stop,
            told: None,
            #[cfg(feature = "dashboard")]
            dashboard: dashboard.then(guard_train::Dashboard::new),
        })
    }

    /// Whether every step was logged.
    pub(super) fn finish(self) -> Result<(), StepLogError> {
        self.bar.finish_and_clear();
        self.log.finish()
    }

    fn show(&mut self, report: &StepReport) {
        let total = report.total_steps.unwrap_or(report.step);
        let seconds = report.elapsed.as_secs_f64();
        let speed = if seconds > 0.0 { report.tokens as f64 / seconds } else { 0.0 };
        let skipped = if report.skipped.is_some() { ", skipped" } else { "" };
        let line = format!("loss {:.4}, {speed:.0} tokens/s{skipped}", report.loss);
        if std::io::stderr().is_terminal() {
            if self.bar.length() != Some(total) {
                self.bar.set_length(total);
                self.bar.set_position(report.step.saturating_sub(1));
                self.bar.reset_eta();
            }
            self.bar.set_position(report.step);
            self.bar.set_message(line);
        } else if report.step == total || self.told.is_none_or(|at| at.elapsed() > BETWEEN_LINES) {
            self.told = Some(Instant::now());
            lines::tell(&format!("step {}/{total}: {line}", report.step));
        }
    }
}

impl TrainObserver for RunWatch {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        let logged = self.log.on_step(report);
        #[cfg(feature = "dashboard")]
        if let Some(dashboard) = &mut self.dashboard {
            let answer = dashboard.on_step(report);
            return if answer.is_break() || self.stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                logged
            };
        }
        self.show(report);
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => logged,
        }
    }

    fn on_event(&mut self, event: &TrainEvent<'_>) {
        if !matches!(event, TrainEvent::CheckpointSaved { .. }) {
            self.bar.suspend(|| lines::tell(&event.to_string()));
        }
    }
}
