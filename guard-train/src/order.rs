//! Which examples make which window: a function of the seed, so that there is nothing to store.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::options::{LastWindow, Order, TrainOptions};

/// The windows of a run, by number from 0.
#[derive(Debug)]
pub(crate) struct Windows {
    examples: usize,
    size: usize,
    in_epoch: u64,
    total: u64,
    seed: u64,
    order: Order,
    /// The epoch whose permutation is at hand.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Windows {
    pub(crate) fn new(examples: usize, options: &TrainOptions) -> Self {
        let size = options.examples_per_step;
        let in_epoch = match options.last_window {
            LastWindow::Kept => examples.div_ceil(size),
            // Fewer examples than a window are one all the same: else nothing would be learnt.
            LastWindow::Dropped => (examples / size).max(usize::from(examples > 0)),
        } as u64;
        let all = in_epoch * u64::from(options.epochs);
        let total = options.max_steps.map_or(all, |steps| steps.min(all));
        let (seed, order) = (options.seed, options.order);
        Self { examples, size, in_epoch, total, seed, order, epoch: None }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The examples of window `window`.
    pub(crate) fn get(&mut self, window: u64) -> &[usize] {
        let epoch = window / self.in_epoch.max(1);
        if self.epoch.as_ref().is_none_or(|(at, _)| *at != epoch) {
            self.epoch = Some((epoch, self.permutation(epoch)));
        }
        let order = self.epoch.as_ref().map_or(&[][..], |(_, order)| order);
        let start = (window % self.in_epoch.max(1)) as usize * self.size;
        &order[start.min(order.len())..order.len().min(start + self.size)]
    }

    fn permutation(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.examples).collect();
        if self.order == Order::Shuffled {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(epoch);
            order.shuffle(&mut rng);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(examples: usize, size: usize, last_window: LastWindow) -> Windows {
        let options =
            TrainOptions { examples_per_step: size, last_window, ..TrainOptions::default() };
        Windows::new(examples, &options)
    }

    #[test]
    fn an_epoch_sees_each_example_once_in_an_order_of_its_own() {
        let mut windows = windows(10, 4, LastWindow::Kept);
        assert_eq!(windows.total(), 9);
        let all: Vec<Vec<usize>> = (0..9).map(|window| windows.get(window).to_vec()).collect();
        let epochs: Vec<Vec<usize>> = all.chunks(3).map(|epoch| epoch.concat()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        // Any window can be asked for at any time.
        assert_eq!(windows.get(4), all[4]);
        assert_eq!(windows.get(8).len(), 2);
    }

    #[test]
    fn a_window_that_is_not_whole_can_be_dropped() {
        let mut dropped = windows(10, 4, LastWindow::Dropped);
        assert_eq!(dropped.total(), 6);
        assert!((0..6).all(|window| dropped.get(window).len() == 4));
        let mut few = windows(3, 4, LastWindow::Dropped);
        assert_eq!((few.total(), few.get(0).len()), (3, 3));
        assert_eq!(windows(0, 4, LastWindow::Kept).total(), 0);
        assert!(windows(0, 4, LastWindow::Kept).get(0).is_empty());
    }
}
