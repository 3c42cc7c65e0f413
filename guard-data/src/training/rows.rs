//! The rows of each set.

use guard_core::{Completion, Harm, Label, Labels, Task};

use super::{ReadRow, TrainingSet};
use crate::row::RowFault;
use crate::sample::Sample;
use crate::table::TableRow;

/// What reads the rows of a set.
pub(super) fn reader(set: &TrainingSet) -> ReadRow {
    match set.name {
        "WildGuardTrain" => wild_guard,
        "AegisTrain" => aegis,
        "BeaverTailsTrain" => beaver_tails,
        // The one of the four that is left.
        _ => toxic_chat,
    }
}

fn wild_guard(row: &TableRow) -> Result<Option<Sample>, RowFault> {
    let mut sample = Sample::new("", "WildGuardTrain", row.string("prompt")?);
    sample.response = row.optional_string("response")?;
    sample.labels = Labels {
        request: label(row, "prompt_harm_label", Task::Request)?,
        completion: label::<Completion>(row, "response_refusal_label", Task::Completion)?,
        response: label(row, "response_harm_label", Task::Response)?,
    };
    if sample.response.is_none() {
        let unanswerable = [
            (Task::Completion, sample.labels.completion.is_some()),
            (Task::Response, sample.labels.response.is_some()),
        ];
        if let Some((task, _)) = unanswerable.into_iter().find(|(_, labelled)| *labelled) {
            return Err(RowFault::NothingToLabel { task });
        }
    }
    Ok(Some(sample))
}

/// The label in this column, where it has one.
fn label<L: Label>(row: &TableRow, field: &'static str, task: Task) -> Result<Option<L>, RowFault> {
    let Some(word) = row.optional_string(field)? else { return Ok(None) };
    let expected = [L::POSITIVE.word(), L::NEGATIVE.word()];
    L::from_word(word.trim()).map(Some).ok_or(RowFault::UnknownLabel { task, expected })
}

fn aegis(row: &TableRow) -> Result<Option<Sample>, RowFault> {
    const ANNOTATORS: [&str; 5] = ["labels_0", "labels_1", "labels_2", "labels_3", "labels_4"];
    let mut votes: Vec<(String, usize)> = Vec::new();
    for annotator in ANNOTATORS {
        let Some(annotation) = row.optional_string(annotator)? else { continue };
        let annotation = annotation.trim();
        match votes.iter_mut().find(|(known, _)| known == annotation) {
            _ if annotation.is_empty() => {}
            Some((_, count)) => *count += 1,
            None => votes.push((annotation.to_owned(), 1)),
        }
    }
    let most = votes.iter().map(|(_, count)| *count).max();
    let winner = votes.iter().find(|(_, count)| Some(*count) == most);
    let (winner, _) = winner.ok_or(RowFault::Missing { field: ANNOTATORS[0] })?;
    let sample = Sample::new("", "AegisTrain", row.string("text")?);
    Ok(Some(
        sample.with_labels(Labels { request: Some(harm(winner != "Safe")), ..Labels::default() }),
    ))
}

fn beaver_tails(row: &TableRow) -> Result<Option<Sample>, RowFault> {
    let response = Some(harm(!row.boolean("is_safe")?));
    let sample = Sample::new("", "BeaverTailsTrain", row.string("prompt")?);
    let sample = sample.with_response(row.string("response")?);
    Ok(Some(sample.with_labels(Labels { response, ..Labels::default() })))
}

fn toxic_chat(row: &TableRow) -> Result<Option<Sample>, RowFault> {
    if !row.boolean("human_annotation")? {
        return Ok(None);
    }
    let request = Some(harm(row.boolean("toxicity")?));
    let sample = Sample::new("", "ToxicChatTrain", row.string("user_input")?);
    Ok(Some(sample.with_labels(Labels { request, ..Labels::default() })))
}

fn harm(harmful: bool) -> Harm {
    if harmful { Harm::Harmful } else { Harm::Unharmful }
}
