//! How fast this machine's threads read memory: the peak that decode is measured against.

use std::hint::black_box;
use std::time::Instant;

/// Bytes read per pass: far beyond any cache.
const BYTES: usize = 512 << 20;
const PASSES: usize = 5;

/// The median of five passes of `threads` threads over their shares of 512 MiB, in 10^9 bytes per second.
pub fn read_gbytes_per_s(threads: usize) -> f64 {
    let words = BYTES / 8;
    let data: Vec<u64> = (0..words as u64).collect();
    let mut rates: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for part in data.chunks(words.div_ceil(threads)) {
                    scope.spawn(move || black_box(fold(part)));
                }
            });
            BYTES as f64 / 1e9 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[PASSES / 2]
}

/// Many running values keep enough loads in flight.
fn fold(part: &[u64]) -> u64 {
    let mut values = [0u64; 32];
    for chunk in part.chunks_exact(32) {
        for (value, word) in values.iter_mut().zip(chunk) {
            *value ^= word;
        }
    }
    values.iter().fold(0, |a, b| a ^ b)
}
