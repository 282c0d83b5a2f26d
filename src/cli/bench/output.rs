//! Results as tables and data, written as they come.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use super::CliError;
use crate::cli::streams::{print_line, say};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Md,
    Csv,
    Json,
    Jsonl,
}

/// A result that is also a line of a Markdown table.
pub trait Row: Serialize {
    /// The table's title line and the line below it.
    fn table_head(&self) -> String;

    fn table_line(&self) -> String;
}

/// Writes results of one kind to standard output.
pub struct Output {
    format: Format,
    written: usize,
}

impl Output {
    pub fn new(format: Format) -> Output {
        Output { format, written: 0 }
    }

    pub fn add(&mut self, row: &impl Row) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Md => {
                if self.written == 0 {
                    writeln!(out, "{}", row.table_head())?;
                }
                writeln!(out, "{}", row.table_line())?;
            }
            Format::Csv => self.add_csv(&mut out, row)?,
            Format::Json => {
                let start = if self.written == 0 { "[" } else { "," };
                write!(out, "{start}\n{}", serde_json::to_string_pretty(row)?)?;
            }
            Format::Jsonl => writeln!(out, "{}", serde_json::to_string(row)?)?,
        }
        self.written += 1;
        out.flush()?;
        Ok(())
    }

    /// Every field of the JSON form but the raw samples.
    fn add_csv(&self, out: &mut impl Write, row: &impl Row) -> Result<(), CliError> {
        let serde_json::Value::Object(mut fields) = serde_json::to_value(row)? else { return Ok(()) };
        fields.retain(|_, value| !value.is_array());
        if self.written == 0 {
            writeln!(out, "{}", fields.keys().cloned().collect::<Vec<_>>().join(","))?;
        }
        writeln!(out, "{}", fields.values().map(ToString::to_string).collect::<Vec<_>>().join(","))?;
        Ok(())
    }

    pub fn end(self) -> Result<(), CliError> {
        match self.format {
            Format::Json => print_line("\n]")?,
            Format::Md => say("\nSampling (greedy) is inside the measured time."),
            Format::Csv | Format::Jsonl => {}
        }
        Ok(())
    }
}

/// Mean and sample standard deviation; the latter is 0 of fewer than two samples.
pub fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    if count < 2.0 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}
