//! How fast this machine's memory can be read: the ceiling of decode, which reads every weight once per token.

use std::hint::black_box;
use std::time::Instant;

/// Per thread; larger than any cache of the machines that kiln is measured on.
const BUFFER_BYTES: usize = 512 << 20;

/// Buffers that a number of threads read from end to end, one each.
pub struct ReadBandwidth {
    buffers: Vec<Vec<u64>>,
}

impl ReadBandwidth {
    pub fn new(threads: u32) -> ReadBandwidth {
        ReadBandwidth::of_bytes(threads, BUFFER_BYTES)
    }

    fn of_bytes(threads: u32, bytes: usize) -> ReadBandwidth {
        // Written with something other than zeros: untouched pages all map to one page of zeros.
        let filled = |seed: u32| vec![u64::from(seed) + 1; bytes / size_of::<u64>()];
        ReadBandwidth { buffers: (0..threads).map(filled).collect() }
    }

    /// Bytes per second of all threads together, in one pass.
    pub fn measure_bytes_per_s(&self) -> f64 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for buffer in &self.buffers {
                scope.spawn(move || black_box(sum(buffer)));
            }
        });
        let bytes: usize = self.buffers.iter().map(|buffer| size_of_val(buffer.as_slice())).sum();
        bytes as f64 / start.elapsed().as_secs_f64()
    }
}

/// Independent sums, so that loads and not additions set the pace.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for group in words.chunks_exact(sums.len()) {
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (0..64).collect();
        assert_eq!(sum(&words), 63 * 64 / 2);
    }

    #[test]
    fn the_rate_is_that_of_a_memory() {
        let gb_per_s = ReadBandwidth::of_bytes(2, 16 << 20).measure_bytes_per_s() / 1e9;
        assert!(gb_per_s > 0.05 && gb_per_s < 10_000.0, "{gb_per_s} GB/s");
    }
}
