//! Watching a run: its log, a bar or lines, and signals.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guard_train::{StepLog, StepLogError, StepReport, TrainEvent, TrainObserver};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::lines::{self, Outcome};
use crate::progress::Pace;

/// Writes the log, shows the progress, and ends the run on a signal.
pub(super) struct RunWatch {
    log: StepLog,
    bar: ProgressBar,
    signals: Signals,
    /// When lines are written, where there is no terminal for a bar.
    pace: Pace,
    /// What happened while the dashboard had the terminal.
    kept: Vec<String>,
    #[cfg(feature = "dashboard")]
    dashboard: Option<guard_train::Dashboard>,
}

impl RunWatch {
    /// From now on the first SIGINT or SIGTERM ends the run after the step, with a checkpoint; a
    /// second one ends the process at once.
    pub(super) fn new(log: StepLog, dashboard: bool) -> Outcome<Self> {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left {msg}");
        let bar =
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Ok(Self {
            log,
            signals: Signals::new((!dashboard).then(|| bar.clone()))?,
            bar,
            pace: Pace::default(),
            kept: Vec::new(),
            #[cfg(feature = "dashboard")]
            dashboard: dashboard.then(guard_train::Dashboard::new),
        })
    }

    /// Gives the terminal back, and says whether every step was logged. From now on a signal ends
    /// the process at once.
    pub(super) fn finish(mut self) -> Result<(), StepLogError> {
        self.bar.finish_and_clear();
        #[cfg(feature = "dashboard")]
        drop(self.dashboard.take());
        self.kept.drain(..).for_each(|line| lines::tell(&line));
        self.signals.finish();
        self.log.finish()
    }

    /// Whether the terminal is the dashboard's: a line would tear its picture.
    fn has_dashboard(&self) -> bool {
        #[cfg(feature = "dashboard")]
        let has = self.dashboard.is_some();
        #[cfg(not(feature = "dashboard"))]
        let has = false;
        has
    }

    /// Shows a step. The dashboard has a key that ends the run.
    fn show(&mut self, report: &StepReport) -> ControlFlow<()> {
        #[cfg(feature = "dashboard")]
        if let Some(dashboard) = &mut self.dashboard {
            return dashboard.on_step(report);
        }
        self.show_line(report);
        ControlFlow::Continue(())
    }

    fn show_line(&mut self, report: &StepReport) {
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
        } else if self.pace.is_due() || report.step == total {
            lines::tell(&format!("step {}/{total}: {line}", report.step));
        }
    }
}

impl TrainObserver for RunWatch {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        let answers = [self.log.on_step(report), self.show(report)];
        match self.signals.came() || answers.iter().any(ControlFlow::is_break) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn on_event(&mut self, event: &TrainEvent<'_>) {
        self.log.on_event(event);
        if matches!(event, TrainEvent::CheckpointSaved { .. }) {
            return;
        }
        match self.has_dashboard() {
            true => self.kept.push(event.to_string()),
            false => self.bar.suspend(|| lines::tell(&event.to_string())),
        }
    }
}

/// The signals that end a run.
struct Signals {
    /// Whether one came.
    stop: Arc<AtomicBool>,
    /// Whether a step can still be waited for.
    running: Arc<AtomicBool>,
    teller: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches them. The first is told above the bar, if there is one.
    fn new(bar: Option<ProgressBar>) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: this one acts only when the flag was set before.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop))?;
        }
        let running = Arc::new(AtomicBool::new(true));
        let teller = bar.map(|bar| {
            let (stop, running) = (Arc::clone(&stop), Arc::clone(&running));
            thread::spawn(move || tell_once(&stop, &running, &bar))
        });
        Ok(Self { stop, running, teller })
    }

    fn came(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn finish(self) {
        self.running.store(false, Ordering::Relaxed);
        // A panic of the teller was told already.
        let _ = self.teller.map(JoinHandle::join);
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Says that the first signal was heard: the step may take minutes yet. A handler of signals must
/// not write, so a thread looks.
fn tell_once(stop: &AtomicBool, running: &AtomicBool, bar: &ProgressBar) {
    while running.load(Ordering::Relaxed) {
        if stop.load(Ordering::Relaxed) {
            let told = "stopping after this step; once more ends at once";
            return bar.suspend(|| lines::tell(told));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
