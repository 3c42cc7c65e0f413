//! Continuations of prompts as trees: what some of them have in common is read once.

use std::rc::Rc;

use crate::engine::Rows;
use crate::error::GenerateError;

/// The tokens of all continuations of all prompts, at least one each.
struct Trees<'a> {
    tails: &'a [&'a [Vec<u32>]],
    /// Whether continuations that are alike are read together.
    is_shared: bool,
}

/// Continuations of one prompt that are alike so far, and a row in which that is read.
struct Branch {
    row: usize,
    prompt: usize,
    /// So many of their tokens are read.
    read: usize,
    /// The numbers of the continuations. Their token behind what is read is the same, has its score and is not
    /// the last.
    tails: Vec<usize>,
}

impl Trees<'_> {
    /// The branches of some continuations of a prompt, of which `read` tokens are read in this row. The next
    /// tokens have their scores: continuations that end with these are done.
    fn branches(
        &self,
        [row, prompt, read]: [usize; 3],
        tails: impl Iterator<Item = usize>,
    ) -> Vec<Branch> {
        let all = self.tails[prompt];
        let mut branches: Vec<Branch> = Vec::new();
        for tail in tails.filter(|&tail| all[tail].len() > read + 1) {
            let is_alike = |branch: &&mut Branch| {
                self.is_shared && all[branch.tails[0]][read] == all[tail][read]
            };
            match branches.iter_mut().find(is_alike) {
                Some(branch) => branch.tails.push(tail),
                None => branches.push(Branch { row, prompt, read, tails: vec![tail] }),
            }
        }
        branches
    }

    /// What a branch reads next: as far as its continuations are alike, but for the last token of all.
    fn next(&self, branch: &Branch) -> &[u32] {
        let &Branch { prompt, read, ref tails, .. } = branch;
        let all = self.tails[prompt];
        let first = &all[tails[0]][read..];
        let alike = |tail: &usize| {
            first.iter().zip(&all[*tail][read..]).take_while(|(a, b)| a == b).count()
        };
        let alike = tails.iter().map(alike).min().unwrap_or(0);
        let is_end = tails.iter().all(|&tail| all[tail].len() == read + alike);
        &first[..alike - usize::from(is_end)]
    }
}

/// Adds the scores of all tokens of continuations but their first ones, which have theirs. `read` are the rows
/// of the prompts; at most so many rows are read side by side. `false` when the call was over before all had theirs.
pub(crate) fn score(
    read: Rows<'_>,
    tails: &[&[Vec<u32>]],
    (most, is_over): (usize, impl Fn() -> bool),
    scores: &mut [Vec<f64>],
) -> Result<bool, GenerateError> {
    // A pass on burn has its price, however little it reads: there, one with more tokens is faster than several.
    let trees = Trees { tails, is_shared: read.is_packed() };
    let prompts = tails.iter().enumerate();
    let first = prompts.flat_map(|(prompt, all)| trees.branches([prompt, prompt, 0], 0..all.len()));
    let mut open = aside(read, first.collect(), most);
    while let Some((parents, branches)) = open.pop() {
        if is_over() {
            return Ok(false);
        }
        let places: Vec<usize> = branches.iter().map(|branch| branch.row).collect();
        let mut rows = parents.select(&places);
        drop(parents);
        let texts: Vec<&[u32]> = branches.iter().map(|branch| trees.next(branch)).collect();
        // Behind each place that is read, the token that each continuation has there.
        let (mut wanted, mut whose, mut place) = (Vec::new(), Vec::new(), 0);
        for (branch, text) in branches.iter().zip(&texts) {
            for next in branch.read + 1..=branch.read + text.len() {
                for &tail in &branch.tails {
                    if let Some(&id) = tails[branch.prompt][tail].get(next) {
                        wanted.push((place, id));
                        whose.push((branch.prompt, tail));
                    }
                }
                place += 1;
            }
        }
        for (&(prompt, tail), score) in whose.iter().zip(rows.read_and_score(&texts, &wanted)?) {
            scores[prompt][tail] += score;
        }
        let read = branches.iter().zip(&texts).enumerate();
        let further = read.flat_map(|(row, (Branch { prompt, read, tails, .. }, text))| {
            trees.branches([row, *prompt, read + text.len()], tails.iter().copied())
        });
        open.extend(aside(rows, further.collect(), most));
    }
    Ok(true)
}

/// Branches of rows, as many together as are read side by side.
fn aside(rows: Rows<'_>, branches: Vec<Branch>, most: usize) -> Vec<(Rc<Rows<'_>>, Vec<Branch>)> {
    let (rows, mut rest, mut aside) = (Rc::new(rows), branches, Vec::new());
    while !rest.is_empty() {
        let others = rest.split_off(most.min(rest.len()));
        aside.push((Rc::clone(&rows), std::mem::replace(&mut rest, others)));
    }
    aside
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read, level by level, and which continuations it is for.
    fn levels(tails: &[Vec<u32>], is_shared: bool) -> Vec<Vec<(Vec<u32>, Vec<usize>)>> {
        let all = [tails];
        let trees = Trees { tails: &all, is_shared };
        let mut level = trees.branches([0, 0, 0], 0..tails.len());
        let mut levels = Vec::new();
        while !level.is_empty() {
            let read = |branch: &Branch| (trees.next(branch).to_vec(), branch.tails.clone());
            levels.push(level.iter().map(read).collect());
            let further = level.iter().flat_map(|branch| {
                let read = branch.read + trees.next(branch).len();
                trees.branches([0, 0, read], branch.tails.iter().copied())
            });
            level = further.collect();
        }
        levels
    }

    #[test]
    fn what_is_alike_is_read_once_and_the_last_tokens_never() {
        let tails = [
            vec![1, 7, 2],
            vec![1, 7, 3, 4],
            // Ends where the others go on.
            vec![1, 7],
            vec![5, 6, 8],
            vec![5, 6, 8],
            // Its only token has its score before.
            vec![9],
        ];
        let expected = vec![
            vec![(vec![1, 7], vec![0, 1, 2]), (vec![5, 6], vec![3, 4])],
            vec![(vec![3], vec![1])],
        ];
        assert_eq!(levels(&tails, true), expected);
        let alone = vec![vec![
            (vec![1, 7], vec![0]),
            (vec![1, 7, 3], vec![1]),
            (vec![1], vec![2]),
            (vec![5, 6], vec![3]),
            (vec![5, 6], vec![4]),
        ]];
        assert_eq!(levels(&tails, false), alone);
    }
}
