//! Scoring stored predictions: reading and parsing them, and a whole report with 10,000 resamples.
//!
//! GUARD_BENCH_PREDICTIONS=FOLDER cargo bench -p guard-eval --bench score
//!
//! The same in Python: scripts/bench_eval.py --predictions FOLDER.
#![allow(clippy::print_stderr, clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use guard_eval::{
    Bootstrap, Evaluation, Report, ScoringPolicy, find_predictions, read_predictions,
};

fn evaluations(folder: &Path) -> Vec<Evaluation> {
    let files = find_predictions(folder).unwrap();
    let read = |file: guard_eval::PredictionFile| {
        let predictions = read_predictions(&file.path).unwrap();
        Evaluation::of_predictions(file.system, file.benchmark.unwrap(), &predictions).unwrap()
    };
    files.into_iter().map(read).collect()
}

fn score(criterion: &mut Criterion) {
    let Some(folder) = std::env::var_os("GUARD_BENCH_PREDICTIONS").map(PathBuf::from) else {
        eprintln!("skipped: GUARD_BENCH_PREDICTIONS names no folder of predictions");
        return;
    };
    let read = evaluations(&folder);
    let report = |evaluations: &[Evaluation]| {
        Report::new(evaluations, ScoringPolicy::Strict, Bootstrap::default()).unwrap()
    };
    let mut group = criterion.benchmark_group("score");
    group.sample_size(20);
    group.bench_function("read and parse", |bencher| bencher.iter(|| evaluations(&folder)));
    group.bench_function("report", |bencher| bencher.iter(|| report(&read)));
    group.bench_function("all", |bencher| bencher.iter(|| report(&evaluations(&folder))));
}

criterion_group!(benches, score);
criterion_main!(benches);
