//! The sample that Python's `random` draws, since one benchmark is defined by it.

/// `random.seed(seed)` and then `random.sample(range(population), count)` of CPython 3.
///
/// `count` is at most `population`.
pub(super) fn sample(seed: u32, population: usize, count: usize) -> Vec<usize> {
    let mut random = MersenneTwister::seeded(seed);
    let mut pool: Vec<usize> = (0..population).collect();
    if population <= pool_limit(count) {
        // Chosen ones are replaced by the last of those that are left.
        return (0..count)
            .map(|taken| {
                let left = population - taken;
                let place = random.below(left);
                let chosen = pool[place];
                pool[place] = pool[left - 1];
                chosen
            })
            .collect();
    }
    let mut chosen = Vec::with_capacity(count);
    let mut seen = std::collections::HashSet::new();
    while chosen.len() < count {
        let place = random.below(population);
        if seen.insert(place) {
            chosen.push(place);
        }
    }
    chosen
}

/// Up to which population CPython keeps a list of what is left.
fn pool_limit(count: usize) -> usize {
    let mut limit = 21;
    if count > 5 {
        let mut power = 1;
        while power < count * 3 {
            power *= 4;
        }
        limit += power;
    }
    limit
}

/// MT19937 (Matsumoto and Nishimura 1998), seeded as CPython seeds it.
struct MersenneTwister {
    state: [u32; Self::LEN],
    at: usize,
}

impl MersenneTwister {
    const LEN: usize = 624;
    const SHIFT: usize = 397;

    /// `init_by_array` with the one word `seed`.
    fn seeded(seed: u32) -> Self {
        let mut state = [0_u32; Self::LEN];
        state[0] = 19_650_218;
        for index in 1..Self::LEN {
            let previous = state[index - 1] ^ (state[index - 1] >> 30);
            state[index] = previous.wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        let mut index = 1;
        for round in 0..2 * Self::LEN - 1 {
            let previous = state[index - 1] ^ (state[index - 1] >> 30);
            state[index] = if round < Self::LEN {
                (state[index] ^ previous.wrapping_mul(1_664_525)).wrapping_add(seed)
            } else {
                (state[index] ^ previous.wrapping_mul(1_566_083_941)).wrapping_sub(index as u32)
            };
            index += 1;
            if index == Self::LEN {
                state[0] = state[Self::LEN - 1];
                index = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, at: Self::LEN }
    }

    fn next(&mut self) -> u32 {
        if self.at == Self::LEN {
            self.refill();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for index in 0..Self::LEN {
            let next = self.state[(index + 1) % Self::LEN];
            let joined = (self.state[index] & 0x8000_0000) | (next & 0x7fff_ffff);
            let twisted = (joined >> 1) ^ if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + Self::SHIFT) % Self::LEN] ^ twisted;
        }
        self.at = 0;
    }

    /// A number below `limit`: as many bits as it has, drawn until they fit.
    fn below(&mut self, limit: usize) -> usize {
        let bits = usize::BITS - limit.leading_zeros();
        loop {
            let value = (self.next() >> (32 - bits)) as usize;
            if value < limit {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `random.seed(42); random.sample(range(n), k)` in CPython 3.11.
    #[test]
    fn samples_are_those_of_python() {
        let first = |population, count, shown: usize| {
            let drawn = sample(42, population, count);
            assert_eq!(drawn.len(), count);
            drawn[..shown].to_vec()
        };
        assert_eq!(first(PYTHON.0, 1000, 8), PYTHON.1);
        assert_eq!(first(PYTHON_POOL.0, 1000, 8), PYTHON_POOL.1);
        assert_eq!(sample(42, 10, 10), PYTHON_ALL);
    }

    const PYTHON: (usize, [usize; 8]) = (6000, [5238, 912, 204, 2253, 2006, 1828, 1143, 839]);
    const PYTHON_POOL: (usize, [usize; 8]) = (3000, [2619, 456, 102, 1126, 1003, 914, 571, 419]);
    const PYTHON_ALL: [usize; 10] = [1, 0, 4, 9, 6, 5, 8, 2, 3, 7];
}
