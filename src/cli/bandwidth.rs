//! How fast this machine's threads read memory: the peak that decode is measured against.

use std::hint::black_box;
use std::time::Instant;

use super::CliError;

/// Bytes read per pass: far beyond any cache.
const BYTES: usize = 512 << 20;
const PASSES: usize = 5;

/// The median of five passes of `threads` threads over their shares of 512 MiB, in 10^9 bytes per second.
///
/// # Errors
/// The system gives no memory or no threads.
pub fn read_gbytes_per_s(threads: usize) -> Result<f64, CliError> {
    let words = BYTES / 8;
    let mut data: Vec<u64> = Vec::new();
    data.try_reserve_exact(words).map_err(|_| {
        CliError::usage(format!(
            "the read bandwidth is measured over {} MiB, which the system does not give",
            BYTES >> 20
        ))
    })?;
    data.extend(0..words as u64);
    let mut rates = Vec::new();
    for _ in 0..PASSES {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(words.div_ceil(threads)) {
                let spawned = std::thread::Builder::new().spawn_scoped(scope, move || black_box(fold(part)));
                spawned.map_err(|error| CliError::usage(format!("the system gives no {threads} threads: {error}")))?;
            }
            Ok::<(), CliError>(())
        })?;
        rates.push(BYTES as f64 / 1e9 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[PASSES / 2])
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
