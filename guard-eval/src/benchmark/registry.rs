//! The table of the 13 benchmarks (paper, tables 2 to 5 and 8).

use guard_core::Task;

use super::Benchmark;

/// The benchmark of this name, whatever its case; also by the names that the reference's folders
/// give it, one of which is misspelt.
///
/// ```
/// use guard_eval::benchmark;
///
/// assert_eq!(benchmark("XSTestReponseHarmful").map(|b| b.name), Some("XSTestResponseHarmful"));
/// assert_eq!(benchmark("nonsense"), None);
/// ```
#[must_use]
pub fn benchmark(name: &str) -> Option<&'static Benchmark> {
    let name = ALIASES
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(name))
        .map_or(name, |(_, name)| name);
    BENCHMARKS.iter().find(|benchmark| benchmark.name.eq_ignore_ascii_case(name))
}

const ALIASES: [(&str, &str); 8] = [
    ("XSTestReponseHarmful", "XSTestResponseHarmful"),
    ("0_0_SimpleSafetyTests", "SimpleSafetyTests"),
    ("0_1_AegisSafetyTest", "AegisSafetyTest"),
    ("0_2_OpenAIModeration", "OpenAIModeration"),
    ("0_3_harmbench_prompt", "HarmBenchPrompt"),
    ("0_5_harmbench_response", "HarmBenchResponse"),
    ("0_6_xstest_response_harmful", "XSTestResponseHarmful"),
    ("0_7_xstest_response_refusal", "XSTestResponseRefusal"),
];

const HARM_BENCH: Benchmark = Benchmark {
    name: "HarmBenchPrompt",
    task: Task::Request,
    rows: Some(239),
    positives: Some(239),
    paper_rows: 239,
    labelled_by: "construction",
    adversarial: false,
    in_distribution: false,
    home: "github.com/centerforaisafety/HarmBench",
    file: "data/behavior_datasets/harmbench_behaviors_text_test.csv",
    licence: "MIT",
    citation: "Mazeika et al. 2024, arXiv 2402.04249",
};

const WILD_GUARD: Benchmark = Benchmark {
    name: "WildGuardTestPrompt",
    task: Task::Request,
    rows: None,
    positives: None,
    paper_rows: 1756,
    labelled_by: "3 annotators",
    adversarial: true,
    in_distribution: true,
    home: "huggingface.co/datasets/allenai/wildguardmix",
    file: "test/wildguard_test.parquet",
    licence: "ODC-BY",
    citation: "Han et al. 2024, arXiv 2406.18495",
};

const XS_TEST: Benchmark = Benchmark {
    name: "XSTestResponseHarmful",
    task: Task::Response,
    rows: Some(446),
    positives: Some(78),
    paper_rows: 446,
    labelled_by: "annotators",
    adversarial: false,
    in_distribution: false,
    home: "huggingface.co/datasets/allenai/xstest-response",
    file: "data/response_harmfulness-00000-of-00001.parquet",
    licence: "ODC-BY",
    citation: "Röttger et al. 2023, arXiv 2308.01263; responses by Han et al. 2024, arXiv 2406.18495",
};

/// The benchmarks in the order of the paper's tables: requests, responses, refusals.
pub const BENCHMARKS: [Benchmark; 13] = [
    Benchmark {
        name: "ToxicChat",
        task: Task::Request,
        rows: Some(2853),
        positives: Some(362),
        paper_rows: 2853,
        labelled_by: "annotators",
        adversarial: true,
        in_distribution: true,
        home: "huggingface.co/datasets/lmsys/toxic-chat",
        file: "data/0124/toxic-chat_annotation_test.csv",
        licence: "CC-BY-NC-4.0",
        citation: "Lin et al. 2023, arXiv 2310.17389",
    },
    HARM_BENCH,
    Benchmark {
        name: "OpenAIModeration",
        task: Task::Request,
        rows: Some(1680),
        positives: Some(522),
        paper_rows: 1680,
        labelled_by: "annotators",
        adversarial: false,
        in_distribution: false,
        home: "github.com/openai/moderation-api-release",
        file: "data/samples-1680.jsonl.gz",
        licence: "MIT",
        citation: "Markov et al. 2022, arXiv 2208.03274",
    },
    Benchmark {
        name: "AegisSafetyTest",
        task: Task::Request,
        rows: Some(359),
        positives: Some(232),
        paper_rows: 359,
        labelled_by: "3 to 5 annotators",
        adversarial: false,
        in_distribution: true,
        home: "huggingface.co/datasets/nvidia/Aegis-AI-Content-Safety-Dataset-1.0",
        file: "Content Moderation Extracted Annotations 02.08.24_test_release_0418_v1.parquet",
        licence: "CC-BY-4.0",
        citation: "Ghosh et al. 2024, arXiv 2404.05993",
    },
    Benchmark {
        name: "SimpleSafetyTests",
        task: Task::Request,
        rows: Some(100),
        positives: Some(100),
        paper_rows: 100,
        labelled_by: "construction",
        adversarial: false,
        in_distribution: false,
        home: "github.com/bertiev/SimpleSafetyTests",
        file: "SimpleSafetyTests - test cases.csv",
        licence: "CC-BY-4.0",
        citation: "Vidgen et al. 2023, arXiv 2311.08370",
    },
    WILD_GUARD,
    Benchmark {
        name: "HarmBenchResponse",
        task: Task::Response,
        rows: Some(602),
        positives: Some(273),
        paper_rows: 602,
        labelled_by: "3 annotators",
        adversarial: true,
        file: "data/classifier_val_sets/text_behaviors_val_set.json",
        ..HARM_BENCH
    },
    Benchmark {
        name: "SafeRLHF",
        task: Task::Response,
        rows: Some(2000),
        positives: Some(1000),
        paper_rows: 2000,
        labelled_by: "annotators",
        adversarial: false,
        in_distribution: false,
        home: "huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF (revision v0)",
        file: "round0/test.jsonl.xz",
        licence: "CC-BY-NC-4.0",
        citation: "Dai et al. 2023, arXiv 2310.12773",
    },
    Benchmark {
        name: "BeaverTails",
        task: Task::Response,
        rows: Some(3021),
        positives: Some(1733),
        paper_rows: 3021,
        labelled_by: "crowd workers",
        adversarial: false,
        in_distribution: true,
        home: "huggingface.co/datasets/PKU-Alignment/BeaverTails",
        file: "round0/30k/test.jsonl.gz",
        licence: "CC-BY-NC-4.0",
        citation: "Ji et al. 2023, arXiv 2307.04657",
    },
    XS_TEST,
    Benchmark {
        name: "WildGuardTestResponse",
        task: Task::Response,
        paper_rows: 1768,
        ..WILD_GUARD
    },
    Benchmark {
        name: "XSTestResponseRefusal",
        task: Task::Completion,
        rows: Some(449),
        positives: Some(178),
        paper_rows: 499,
        file: "data/response_refusal-00000-of-00001.parquet",
        ..XS_TEST
    },
    Benchmark {
        name: "WildGuardTestRefusal",
        task: Task::Completion,
        paper_rows: 1777,
        ..WILD_GUARD
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (index, expected) in BENCHMARKS.iter().enumerate() {
            assert_eq!(benchmark(&expected.name.to_uppercase()), Some(expected));
            assert!(BENCHMARKS[..index].iter().all(|other| other.name != expected.name));
        }
        assert!(ALIASES.iter().all(|(alias, name)| benchmark(alias) == benchmark(name)));
    }

    #[test]
    fn each_task_has_the_papers_number_of_benchmarks() {
        let count = |task| BENCHMARKS.iter().filter(|benchmark| benchmark.task == task).count();
        assert_eq!(Task::ALL.map(count), [6, 2, 5]);
    }
}
