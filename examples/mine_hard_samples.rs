//! Finds the samples that a model gets right in some attempts only, and makes weighted pairs of them.
//!
//! cargo run --release --example mine_hard_samples -- --model PATH --data traces.jsonl --output pairs.jsonl

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use guard_data::{
    Chosen, EnsembleMember, GenerationFiles, MergeRule, Mined, Mining, ReasonedFile,
    ReasonedSample, SampleSource, Selection, Unparsed, check_pair_path, merge_ensemble, read_pairs,
    write_pairs,
};
use guard_examples::lines::{self, Outcome, Output};
use guard_examples::model::ModelArguments;
use guard_examples::progress;
use guard_infer::{GenerateOptions, GuardReasonerFormat, Sampling};

/// Mine hard samples with a model.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Traces, whose answers are the labels: JSON lines, a JSON array or Parquet.
    #[arg(long)]
    data: PathBuf,
    /// Where the pairs go, as LLaMA-Factory's ranking format. Its dataset_info.json is beside it.
    #[arg(long)]
    output: PathBuf,
    /// The folder of the generations, one file for each sample number; a stopped run goes on from
    /// them. Default: OUTPUT.generations.
    #[arg(long)]
    generations: Option<PathBuf>,
    /// Completions a prompt (4 in the released code).
    #[arg(long, default_value_t = 4)]
    samples: usize,
    /// Divides the logits (1.0 in the paper, 0.7 in the released code).
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// The probability mass that is sampled from.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// The most tokens of a completion.
    #[arg(long, default_value_t = 2048)]
    max_tokens: usize,
    /// The seed of all draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Which of several right and wrong texts make the pair: longest, random or shortest.
    #[arg(long, default_value_t = Selection::Random)]
    selection: Selection,
    /// Choose only texts that are right on every labelled task.
    #[arg(long)]
    right_on_all: bool,
    /// Count texts without answers as wrong, where they would be left out.
    #[arg(long)]
    unparsed_is_wrong: bool,
    /// Weights are from 1 - gamma to 1 + gamma.
    #[arg(long, default_value_t = 0.2)]
    gamma: f64,
    /// Pairs of another model to merge with: the sets that it was not trained on, and the file, as
    /// AegisTrain=PAIRS. May be given several times.
    #[arg(long)]
    ensemble: Vec<String>,
    /// How pairs of several models are merged.
    #[arg(long, value_enum, default_value_t = Rule::Paper)]
    merge_rule: Rule,
    /// The most rows of the data. Default: all.
    #[arg(long)]
    limit: Option<usize>,
    /// Write the counts as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Rule {
    /// The model's own pairs, and those of all others.
    Paper,
    /// For a set that some model left out, the pairs of those that did not; for others its own.
    Released,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    check_pair_path(&arguments.output)?;
    let mining = mining(arguments)?;
    let members = arguments.ensemble.iter().map(|member| read_member(member));
    let members = members.collect::<Outcome<Vec<_>>>()?;
    let rows = read_rows(arguments)?;
    let files = generate(arguments, &rows)?;
    let mut broken = None;
    let generations =
        files.read(rows)?.map_while(|one| one.map_err(|error| broken = Some(error)).ok());
    let Mined { pairs, report, .. } = mining.mine(generations);
    if let Some(error) = broken {
        return Err(error.into());
    }
    let rule = match arguments.merge_rule {
        Rule::Paper => MergeRule::Paper,
        Rule::Released => MergeRule::Released,
    };
    let merged = merge_ensemble(pairs, members, rule);
    if !merged.unknown_sets.is_empty() {
        let sets = merged.unknown_sets.join(", ");
        return Err(format!("no pair is of {sets}: see the `source` of the data").into());
    }
    write_pairs(&arguments.output, &merged.pairs)?;
    let (count, duplicates) = (merged.pairs.len(), merged.duplicates);
    if arguments.json {
        let json = serde_json::json!({"mining": report, "pairs": count, "duplicates": duplicates});
        return Output::Terminal.write(&json);
    }
    let output = arguments.output.display();
    lines::print(&format!(
        "{report}\n{count} pairs in {output}, {duplicates} duplicates left out\n"
    ))
}

/// The rows that can be read, each with the name of its set.
fn read_rows(arguments: &Arguments) -> Outcome<Vec<ReasonedSample>> {
    let file = ReasonedFile::open(&arguments.data)?;
    let mut rows = Vec::new();
    for (_, row) in file.rows()?.take(arguments.limit.unwrap_or(usize::MAX)) {
        match row {
            Ok(mut row) => {
                row.source.get_or_insert_with(|| file.name().to_owned());
                rows.push(row);
            }
            Err(error) if error.is_of_row() => lines::warn(&error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rows)
}

fn mining(arguments: &Arguments) -> Outcome<Mining> {
    let mut mining = Mining::paper(arguments.seed)
        .with_selection(arguments.selection)
        .with_gamma(arguments.gamma)?;
    if arguments.right_on_all {
        mining = mining.with_chosen(Chosen::RightOnAll);
    }
    if arguments.unparsed_is_wrong {
        mining = mining.with_unparsed(Unparsed::Wrong);
    }
    Ok(mining)
}

/// The files with all generations, made as far as they are not there.
fn generate(arguments: &Arguments, rows: &[ReasonedSample]) -> Outcome<GenerationFiles> {
    let Arguments { temperature, top_p, .. } = *arguments;
    let mut options = GenerateOptions::default()
        .with_max_tokens(arguments.max_tokens)
        .with_samples(arguments.samples)
        .with_seed(arguments.seed)
        .with_sampling(Sampling::TopP { temperature, top_p });
    options.stop = Some(GuardReasonerFormat::whole_output());
    let folder = arguments.generations.clone().unwrap_or_else(|| {
        let mut folder = arguments.output.clone().into_os_string();
        folder.push(".generations");
        folder.into()
    });
    // The whole path: two runs of training often end in folders of one name.
    let model = arguments.model.identity()?;
    let mut files = GenerationFiles::open(folder, &stem(&arguments.data), &model, &options)?;
    if files.done() < rows.len() as u64 {
        let generator = arguments.model.open()?;
        let mut watch = progress::Watch::new();
        let batch = arguments.model.place.rows().div_ceil(arguments.samples.max(1));
        let run = files.generate(rows, &generator, batch, &mut watch)?;
        if run.failed > 0 {
            let failed = run.failed;
            lines::warn(&std::io::Error::other(format!(
                "{failed} rows without a text: see the generations"
            )));
        }
    }
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// AegisTrain=PAIRS, several sets parted by commas.
fn read_member(argument: &str) -> Outcome<EnsembleMember> {
    let (sets, path) = argument.split_once('=').ok_or_else(|| {
        format!("`{argument}`: expected SETS=PAIRS, such as AegisTrain=pairs.jsonl")
    })?;
    let sets: Vec<&str> = sets.split(',').filter(|set| !set.is_empty()).collect();
    Ok(EnsembleMember::new(&sets, read_pairs(path)?))
}
