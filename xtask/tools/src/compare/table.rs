//! Medians, ratios and the table in docs/performance.md.

use super::engines::Sample;
use super::{Format, Workload, environment};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What was measured right after each other.
pub struct Round {
    pub kiln: Sample,
    pub llama: Sample,
    /// Of as many threads as the engines had.
    pub read_bytes_per_s: f64,
}

/// One format's rounds.
pub struct Measured {
    pub format: Format,
    pub tensor_types: BTreeMap<String, u32>,
    /// What a decoded token reads of weights.
    pub tensor_bytes: u64,
    /// Cores in use just before the runs, when nothing of ours ran.
    pub busy_cores: f64,
    pub rounds: Vec<Round>,
}

pub struct Report {
    pub command: String,
    pub versions: Vec<String>,
    pub workload: Workload,
    pub reps: u32,
    pub rows: Vec<Measured>,
}

/// Both engines on one test.
pub struct Comparison {
    kiln: f64,
    llama: f64,
    /// Of the medians.
    pub ratio: f64,
    /// Lowest and highest ratio of a pair.
    ratio_min: f64,
    ratio_max: f64,
}

impl Report {
    pub fn to_markdown(&self) -> String {
        let Workload { n_prompt, n_gen, threads } = self.workload;
        let mut text = format!("- Machine: {}\n- Command: `{}`\n", environment::machine(), self.command);
        for version in &self.versions {
            line(&mut text, &format!("- {version}"));
        }
        let reps = self.reps;
        line(&mut text, &format!("- {threads} threads, {reps} interleaved runs of each engine; tokens/s, medians"));
        line(&mut text, &format!("- {threads} threads read {}", self.bandwidth_in_words()));
        let busy_most = self.rows.iter().map(|row| row.busy_cores).fold(0.0, f64::max);
        line(&mut text, &format!("- {}", disturbance_in_words(busy_most)));
        let (pp, tg) = (format!("pp{n_prompt}"), format!("tg{n_gen}"));
        let columns = format!("{pp} kiln | llama.cpp | ratio | {tg} kiln | llama.cpp | ratio | share of bandwidth");
        line(&mut text, "");
        line(&mut text, &format!("| format | {columns} | gate | met |"));
        line(&mut text, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
        for row in &self.rows {
            line(&mut text, &row.to_markdown());
        }
        line(&mut text, "");
        line(
            &mut text,
            "Behind each ratio: the lowest and highest of two neighbouring runs. Tensor types of the files:",
        );
        line(&mut text, "");
        for row in &self.rows {
            line(&mut text, &format!("- {}: {}", row.format.name(), row.types_in_words()));
        }
        text
    }
}

impl Report {
    fn bandwidth_in_words(&self) -> String {
        let rounds = || self.rows.iter().flat_map(|row| &row.rounds).map(|round| round.read_bytes_per_s / 1e9);
        let (low, high) = range(rounds());
        format!("{:.1} GB/s of memory (median; {low:.1}–{high:.1})", median(rounds()))
    }
}

/// Cores that others may use before a table is worth nothing: two engines that share their cores do not slow down alike,
/// spinning barriers suffer most.
pub const DISTURBED_CORES: f64 = 0.1;

pub fn disturbance_in_words(busy_cores: f64) -> String {
    let verdict = match busy_cores > DISTURBED_CORES {
        true => "**do not trust this table; measure again on a quiet machine**",
        false => "quiet",
    };
    format!("Other processes used at most {busy_cores:.2} cores before a format's runs: {verdict}")
}

pub fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

impl Measured {
    fn to_markdown(&self) -> String {
        let gate = self.format.gate();
        let pairs: Vec<(Sample, Sample)> = self.rounds.iter().map(|round| (round.kiln, round.llama)).collect();
        let prefill = compare(&pairs, |sample| sample.prefill);
        let decode = compare(&pairs, |sample| sample.decode);
        let met = match (prefill.ratio >= gate.prefill, decode.ratio >= gate.decode) {
            (true, true) => "yes",
            (false, true) => "not in prefill",
            (true, false) => "not in decode",
            (false, false) => "no",
        };
        let (name, pp, tg) = (self.format.name(), prefill.to_cells(), decode.to_cells());
        let share = 100.0 * self.bandwidth_share(decode.kiln);
        format!("| {name} | {pp} | {tg} | {share:.0} % | {:.1} / {:.1} | {met} |", gate.prefill, gate.decode)
    }

    /// Weight bytes that kiln's decode reads per second, over what the same threads read at most.
    fn bandwidth_share(&self, decode_tokens_per_s: f64) -> f64 {
        let read_bytes_per_s = median(self.rounds.iter().map(|round| round.read_bytes_per_s));
        decode_tokens_per_s * self.tensor_bytes as f64 / read_bytes_per_s
    }

    fn types_in_words(&self) -> String {
        let mut types: Vec<(&String, &u32)> = self.tensor_types.iter().collect();
        types.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        types.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    }
}

impl Comparison {
    /// kiln, llama.cpp, and their ratio with the range of neighbours'.
    pub fn to_cells(&self) -> String {
        let Comparison { kiln, llama, ratio, ratio_min, ratio_max } = self;
        format!("{kiln:.0} | {llama:.0} | **{ratio:.2}** ({ratio_min:.2}–{ratio_max:.2})")
    }
}

/// Compares runs (kiln, llama.cpp) by one of their rates.
pub fn compare<S>(pairs: &[(S, S)], rate: impl Fn(&S) -> f64) -> Comparison {
    let kiln = median(pairs.iter().map(|(kiln, _)| rate(kiln)));
    let llama = median(pairs.iter().map(|(_, llama)| rate(llama)));
    let (ratio_min, ratio_max) = range(pairs.iter().map(|(kiln, llama)| rate(kiln) / rate(llama)));
    Comparison { kiln, llama, ratio: kiln / llama, ratio_min, ratio_max }
}

/// Lowest and highest.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "the median of nothing");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(format: Format, rates: &[(f64, f64, f64, f64)]) -> Measured {
        let round = |&(kiln_prefill, kiln_decode, prefill, decode): &(f64, f64, f64, f64)| Round {
            kiln: Sample { prefill: kiln_prefill, decode: kiln_decode },
            llama: Sample { prefill, decode },
            read_bytes_per_s: 20e9,
        };
        let tensor_types = [("F32".to_owned(), 61), ("Q4_K".to_owned(), 30), ("Q5_0".to_owned(), 181)].into();
        Measured {
            format,
            tensor_types,
            tensor_bytes: 100_000_000,
            busy_cores: 0.0,
            rounds: rates.iter().map(round).collect(),
        }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.5);
        assert_eq!(median([7.0].into_iter()), 7.0);
    }

    #[test]
    fn a_row_shows_medians_ratios_their_spread_and_the_gate() {
        let runs = [(1000.0, 150.0, 200.0, 100.0), (900.0, 140.0, 180.0, 100.0), (1100.0, 160.0, 250.0, 100.0)];
        let row = measured(Format::Q4_1, &runs).to_markdown();
        let expected =
            "| Q4_1 | 1000 | 200 | **5.00** (4.40–5.00) | 150 | 100 | **1.50** (1.40–1.60) | 75 % | 4.5 / 1.4 | yes |";
        assert_eq!(row, expected);
    }

    #[test]
    fn a_missed_gate_says_where() {
        let row = |prefill, decode| measured(Format::Q8_0, &[(prefill, decode, 100.0, 100.0)]).to_markdown();
        assert!(row(99.0, 101.0).ends_with("| not in prefill |") && row(101.0, 99.0).ends_with("| not in decode |"));
        assert!(row(99.0, 99.0).ends_with("| no |") && row(100.0, 100.0).ends_with("| yes |"));
    }

    #[test]
    fn a_disturbed_report_says_so() {
        let workload = Workload { n_prompt: 512, n_gen: 128, threads: 2 };
        let mut report = Report { command: String::new(), versions: vec![], workload, reps: 1, rows: vec![] };
        report.rows.push(measured(Format::Q4_1, &[(1.0, 1.0, 1.0, 1.0)]));
        assert!(report.to_markdown().contains("at most 0.00 cores before a format's runs: quiet"));
        report.rows[0].busy_cores = 0.5;
        assert!(report.to_markdown().contains("at most 0.50 cores before a format's runs: **do not trust"));
    }

    #[test]
    fn tensor_types_are_listed_by_count() {
        assert_eq!(measured(Format::Q4K, &[]).types_in_words(), "181 Q5_0, 61 F32, 30 Q4_K");
    }
}
