//! Cutting prompts and answers to what a model is trained on at a time.

use serde::{Deserialize, Serialize};

/// What is cut from a row that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cut {
    /// Both ends, as LLaMA-Factory shares the room between prompt and answer. A prompt that is
    /// cut loses the header of the answer, and an answer its verdict.
    #[default]
    Reference,
    /// The middle of the prompt: the header of the answer and the whole answer stay. A row whose
    /// answer leaves no room for a prompt is dropped.
    KeepVerdict,
}

/// How many tokens stay of a prompt and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) prompt: usize,
    pub(super) answer: usize,
}

impl Cut {
    /// What stays of `prompt` and `answer` tokens in `cutoff`; `between` of the prompt's are the
    /// header of the answer. `None` drops the row.
    pub(super) fn keep(
        self,
        prompt: usize,
        answer: usize,
        cutoff: usize,
        between: usize,
    ) -> Option<Kept> {
        match self {
            Self::Reference => Some(share(prompt, answer, cutoff)),
            Self::KeepVerdict if prompt + answer <= cutoff => Some(Kept { prompt, answer }),
            Self::KeepVerdict => {
                let room = cutoff.saturating_sub(answer);
                (room > between).then_some(Kept { prompt: room, answer })
            }
        }
    }
}

/// LLaMA-Factory's rule (`infer_seqlen`): an answer under half of the room stays whole, and so
/// does a prompt; where both are longer, the room is shared by their lengths.
fn share(prompt: usize, answer: usize, cutoff: usize) -> Kept {
    let most = match () {
        () if answer * 2 < cutoff => cutoff,
        () if prompt * 2 < cutoff => cutoff - prompt,
        () => (cutoff as f64 * (answer as f64 / (prompt + answer) as f64)) as usize,
    };
    let answer = most.min(answer);
    Kept { prompt: prompt.min(cutoff.saturating_sub(answer)), answer }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of LLaMA-Factory's own test, and the jump at half of the room.
    #[test]
    fn the_room_is_shared_as_the_reference_shares_it() {
        for (prompt, answer, cutoff, kept) in [
            (3000, 2000, 1000, (600, 400)),
            (2000, 3000, 1000, (400, 600)),
            (1000, 100, 1000, (900, 100)),
            (100, 1000, 1000, (100, 900)),
            (100, 500, 1000, (100, 500)),
            (500, 100, 1000, (500, 100)),
            (10, 10, 1000, (10, 10)),
            (2500, 1023, 2048, (1025, 1023)),
            (2500, 1024, 2048, (1453, 595)),
        ] {
            let (prompt, answer) = kept_of(share(prompt, answer, cutoff), kept);
            assert_eq!(prompt, answer);
        }
    }

    fn kept_of(kept: Kept, expected: (usize, usize)) -> ((usize, usize), (usize, usize)) {
        ((kept.prompt, kept.answer), expected)
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_the_room(
            prompt in 0_usize..5000, answer in 0_usize..5000, cutoff in 1_usize..3000, between in 0_usize..10,
        ) {
            for cut in [Cut::Reference, Cut::KeepVerdict] {
                let Some(kept) = cut.keep(prompt, answer, cutoff, between) else { continue };
                prop_assert!(kept.prompt + kept.answer <= cutoff);
                prop_assert!(kept.prompt <= prompt && kept.answer <= answer);
                prop_assert!(cut == Cut::Reference || kept.answer == answer);
            }
            if prompt + answer <= cutoff {
                prop_assert_eq!(Cut::Reference.keep(prompt, answer, cutoff, 0), Some(Kept { prompt, answer }));
            }
        }
    }

    #[test]
    fn the_verdict_stays_or_the_row_goes() {
        let keep = |prompt, answer| Cut::KeepVerdict.keep(prompt, answer, 100, 4);
        assert_eq!(keep(90, 50), Some(Kept { prompt: 50, answer: 50 }));
        assert_eq!(keep(90, 95), Some(Kept { prompt: 5, answer: 95 }));
        assert_eq!(keep(90, 96), None);
        assert_eq!(keep(2, 98), Some(Kept { prompt: 2, answer: 98 }));
    }
}
