//! One sequence: llama-bench's tests.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln::model::StageCost;
use serde::Serialize;

use super::output::{Row, mean_and_deviation};
use super::steps::{Extent, Sequences};
use super::{BenchArgs, CliError, Machine, Measure, Subject};

/// What to measure: a prompt or a generation after `n_depth` tokens of context.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Test {
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
}

/// One test's result: llama-bench's keys, then kiln's own.
#[derive(Debug, Serialize)]
pub struct TestResult {
    #[serde(flatten)]
    subject: Subject,
    #[serde(flatten)]
    test: Test,
    test_time: u64,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    /// Weights and cache that must move, per second.
    gbytes_per_s: f64,
    /// Of a GPU's memory, or the measured read bandwidth of the same number of threads.
    peak_gbytes_per_s: f64,
    /// `gbytes_per_s / peak_gbytes_per_s`: how close the test is to the memory floor.
    peak_share: f64,
    /// 10^9 multiply-accumulates per second.
    gmacs_per_s: f64,
    sampling_included: bool,
}

impl Test {
    /// Prefill and decode at every depth; lengths of 0 are left out.
    pub fn all(args: &BenchArgs) -> Vec<Test> {
        let mut tests = Vec::new();
        for &n_depth in &args.n_depth {
            for &n_prompt in args.n_prompt.iter().filter(|&&n| n > 0) {
                tests.push(Test { n_prompt, n_gen: 0, n_depth });
            }
            for &n_gen in args.n_gen.iter().filter(|&&n| n > 0) {
                tests.push(Test { n_prompt: 0, n_gen, n_depth });
            }
        }
        tests
    }
}

impl Measure for Test {
    type Result = TestResult;

    fn name(&self) -> String {
        let kind = if self.n_gen == 0 { format!("pp{}", self.n_prompt) } else { format!("tg{}", self.n_gen) };
        if self.n_depth == 0 { kind } else { format!("{kind} @ d{}", self.n_depth) }
    }

    fn extent(&self) -> Extent {
        let positions = [self.n_depth, self.n_prompt, self.n_gen].map(u64::from).iter().sum();
        Extent { sequences: 1, positions }
    }

    fn measure(
        self,
        machine: &mut Machine,
        repetitions: u32,
        on_repetition: &dyn Fn(),
    ) -> Result<TestResult, CliError> {
        let mut samples_ns = Vec::new();
        let mut cost = StageCost::default();
        for repetition in 0..=repetitions {
            if repetition > 0 {
                on_repetition();
            }
            let mut sequence = Sequences::new(machine.device.as_mut(), &machine.program, 1);
            sequence.prefill(self.n_depth)?;
            sequence.take_cost();
            let start = Instant::now();
            sequence.prefill(self.n_prompt)?;
            sequence.decode(self.n_gen)?;
            let elapsed = start.elapsed().as_nanos() as u64;
            cost = sequence.take_cost();
            if repetition > 0 {
                samples_ns.push(elapsed.max(1));
            }
        }
        let tokens = f64::from(self.n_prompt + self.n_gen);
        let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| tokens * 1e9 / *ns as f64).collect();
        let (avg_ns, stddev_ns) = mean_and_deviation(&samples_ns.iter().map(|&ns| ns as f64).collect::<Vec<_>>());
        let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
        let gbytes_per_s = cost.bytes() as f64 / avg_ns;
        Ok(TestResult {
            subject: machine.subject.clone(),
            test: self,
            test_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            avg_ns: avg_ns as u64,
            stddev_ns: stddev_ns as u64,
            avg_ts,
            stddev_ts,
            samples_ns,
            samples_ts,
            gbytes_per_s,
            peak_gbytes_per_s: machine.peak_gbytes_per_s,
            peak_share: gbytes_per_s / machine.peak_gbytes_per_s,
            gmacs_per_s: cost.macs as f64 / avg_ns,
            sampling_included: true,
        })
    }
}

impl Row for TestResult {
    fn table_head(&self) -> String {
        format!(
            "| model | size | params | backend | threads | test | t/s | GB/s | of {:.1} GB/s read |\n\
             | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
            self.peak_gbytes_per_s
        )
    }

    fn table_line(&self) -> String {
        let subject = &self.subject;
        format!(
            "| {} | {:.2} MiB | {:.2} M | {} | {} | {} | {:.2} ± {:.2} | {:.2} | {:.0} % |",
            subject.model_type,
            subject.model_size as f64 / f64::from(1 << 20),
            subject.model_n_params as f64 / 1e6,
            subject.backends,
            subject.n_threads,
            self.test.name(),
            self.avg_ts,
            self.stddev_ts,
            self.gbytes_per_s,
            100.0 * self.peak_share,
        )
    }
}
