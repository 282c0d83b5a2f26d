//! Many sequences at once: llama-batched-bench's test. All prompts first, packed into full steps, then steps with one row of
//! every sequence.

use std::time::Instant;

use kiln::model::StageCost;
use serde::Serialize;

use super::output::{Row, mean_and_deviation};
use super::steps::{Extent, Sequences};
use super::{BenchArgs, CliError, Machine, Measure, Subject};

/// What to measure: `parallel` sequences, each of `n_prompt` tokens and then `n_gen` sampled ones.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ParallelTest {
    parallel: u32,
    n_prompt: u32,
    n_gen: u32,
}

/// One test's result. Rates are tokens per second over all sequences: means, with `_stddev` beside them.
#[derive(Debug, Serialize)]
pub struct ParallelResult {
    #[serde(flatten)]
    subject: Subject,
    #[serde(flatten)]
    test: ParallelTest,
    /// Tokens in the cache at the end, over all sequences.
    n_kv: u32,
    pp_ts: f64,
    pp_ts_stddev: f64,
    tg_ts: f64,
    tg_ts_stddev: f64,
    /// Prompt and sampled tokens over the time of both.
    total_ts: f64,
    total_ts_stddev: f64,
    samples_pp_ns: Vec<u64>,
    samples_tg_ns: Vec<u64>,
    /// Weights and cache that decode must move, per second.
    tg_gbytes_per_s: f64,
    /// Of a GPU's memory, or the measured read bandwidth of the same number of threads.
    peak_gbytes_per_s: f64,
    sampling_included: bool,
}

impl ParallelTest {
    /// Every number of sequences with every pair of lengths above 0.
    pub fn all(args: &BenchArgs) -> Vec<ParallelTest> {
        let mut tests = Vec::new();
        for &n_prompt in args.n_prompt.iter().filter(|&&n| n > 0) {
            for &n_gen in args.n_gen.iter().filter(|&&n| n > 0) {
                tests.extend(args.parallel.iter().map(|&parallel| ParallelTest { parallel, n_prompt, n_gen }));
            }
        }
        tests
    }

    /// Mean and deviation of tokens per second, of samples in which every sequence got `tokens`.
    fn rate(&self, tokens: u32, samples_ns: &[u64]) -> (f64, f64) {
        let tokens = f64::from(self.parallel) * f64::from(tokens);
        let rates: Vec<f64> = samples_ns.iter().map(|&ns| tokens * 1e9 / ns as f64).collect();
        mean_and_deviation(&rates)
    }
}

impl Measure for ParallelTest {
    type Result = ParallelResult;

    fn name(&self) -> String {
        format!("{} x (pp{} + tg{})", self.parallel, self.n_prompt, self.n_gen)
    }

    fn extent(&self) -> Extent {
        let positions = u64::from(self.n_prompt) + u64::from(self.n_gen);
        Extent { sequences: self.parallel.into(), positions }
    }

    fn measure(
        self,
        machine: &mut Machine,
        repetitions: u32,
        on_repetition: &dyn Fn(),
    ) -> Result<ParallelResult, CliError> {
        let (mut samples_pp_ns, mut samples_tg_ns) = (Vec::new(), Vec::new());
        let mut decode_cost = StageCost::default();
        for repetition in 0..=repetitions {
            if repetition > 0 {
                on_repetition();
            }
            let mut sequences = Sequences::new(machine.device.as_mut(), &machine.program, self.parallel);
            let start = Instant::now();
            sequences.prefill(self.n_prompt)?;
            let pp_ns = start.elapsed().as_nanos() as u64;
            sequences.take_cost();
            let start = Instant::now();
            sequences.decode(self.n_gen)?;
            let tg_ns = start.elapsed().as_nanos() as u64;
            decode_cost = sequences.take_cost();
            if repetition > 0 {
                samples_pp_ns.push(pp_ns.max(1));
                samples_tg_ns.push(tg_ns.max(1));
            }
        }
        let total_ns: Vec<u64> = samples_pp_ns.iter().zip(&samples_tg_ns).map(|(pp, tg)| pp + tg).collect();
        let (pp_ts, pp_ts_stddev) = self.rate(self.n_prompt, &samples_pp_ns);
        let (tg_ts, tg_ts_stddev) = self.rate(self.n_gen, &samples_tg_ns);
        let (total_ts, total_ts_stddev) = self.rate(self.n_prompt + self.n_gen, &total_ns);
        let tg_ns = samples_tg_ns.iter().sum::<u64>() as f64 / samples_tg_ns.len() as f64;
        Ok(ParallelResult {
            subject: machine.subject.clone(),
            test: self,
            n_kv: self.parallel * (self.n_prompt + self.n_gen),
            pp_ts,
            pp_ts_stddev,
            tg_ts,
            tg_ts_stddev,
            total_ts,
            total_ts_stddev,
            samples_pp_ns,
            samples_tg_ns,
            tg_gbytes_per_s: decode_cost.bytes() as f64 / tg_ns,
            peak_gbytes_per_s: machine.peak_gbytes_per_s,
            sampling_included: true,
        })
    }
}

impl Row for ParallelResult {
    fn table_head(&self) -> String {
        format!(
            "| model | threads | PP | TG | B | N_KV | S_PP t/s | S_TG t/s | S t/s | TG GB/s of {:.1} read |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            self.peak_gbytes_per_s
        )
    }

    fn table_line(&self) -> String {
        let ParallelTest { parallel, n_prompt, n_gen } = self.test;
        format!(
            "| {} | {} | {n_prompt} | {n_gen} | {parallel} | {} | {:.2} ± {:.2} | {:.2} ± {:.2} | {:.2} ± {:.2} | {:.2} |",
            self.subject.model_type,
            self.subject.n_threads,
            self.n_kv,
            self.pp_ts,
            self.pp_ts_stddev,
            self.tg_ts,
            self.tg_ts_stddev,
            self.total_ts,
            self.total_ts_stddev,
            self.tg_gbytes_per_s,
        )
    }
}
