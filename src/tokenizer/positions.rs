//! A set of positions with a quick "which is the next?".

/// Numbers below a bound: a tree of 64-bit words, each bit of which says whether the word below it has any.
pub(super) struct Positions(Vec<Vec<u64>>);

impl Positions {
    pub(super) fn new(bound: usize) -> Positions {
        let mut levels = Vec::new();
        let mut words = bound;
        loop {
            words = words.div_ceil(64).max(1);
            levels.push(vec![0; words]);
            if words == 1 {
                return Positions(levels);
            }
        }
    }

    pub(super) fn contains(&self, position: usize) -> bool {
        self.0[0][position / 64] >> (position % 64) & 1 == 1
    }

    pub(super) fn insert(&mut self, mut position: usize) {
        for level in &mut self.0 {
            let word = &mut level[position / 64];
            let was_empty = *word == 0;
            *word |= 1 << (position % 64);
            if !was_empty {
                return;
            }
            position /= 64;
        }
    }

    /// The lowest one at `from` or above.
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        let mut at = from;
        for (height, level) in self.0.iter().enumerate() {
            let rest = level.get(at / 64)? >> (at % 64);
            if rest != 0 {
                let mut found = at + rest.trailing_zeros() as usize;
                for level in self.0[..height].iter().rev() {
                    found = found * 64 + level[found].trailing_zeros() as usize;
                }
                return Some(found);
            }
            at = at / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_position_is_found_over_any_gap() {
        for bound in [1, 63, 64, 65, 4096, 4097, 300_000] {
            let mut positions = Positions::new(bound);
            assert_eq!(positions.next(0), None);
            let wanted: Vec<usize> =
                [0, 1, 62, 63, 64, 4095, 4096, 299_998].into_iter().filter(|&at| at < bound).collect();
            wanted.iter().for_each(|&at| positions.insert(at));
            for from in (0..bound).step_by(if bound > 5000 { 37 } else { 1 }) {
                assert_eq!(positions.next(from), wanted.iter().copied().find(|&at| at >= from), "{from} of {bound}");
                assert_eq!(positions.contains(from), wanted.contains(&from));
            }
        }
    }
}
