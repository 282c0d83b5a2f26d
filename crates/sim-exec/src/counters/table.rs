//! Counters as people read them.

use std::fmt;

use super::Counters;

/// Columns after a row's name.
type Row = (&'static str, Vec<String>);

/// Sections of rows; what is zero is left out.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = format!("{:.1}% of lanes active", 100.0 * self.active_lane_share());
        writeln!(f, "{:<22}{:>16}  {lanes}", "warp instructions", grouped(self.instructions))?;
        section(f, &self.classes())?;
        let header = ["requests", "sectors", "ideal", "ratio"];
        table(f, "global memory", &header, &self.global_rows())?;
        table(f, "bulk copies", &["copies", "bytes", "sectors"], &self.bulk_rows())?;
        table(f, "shared memory", &["requests", "bank replays"], &self.shared_rows())?;
        table(f, "other memory", &["requests"], &self.other_rows())?;
        table(f, "DRAM", &["bytes"], &self.dram_rows())?;
        table(f, "mapped host memory", &["bytes"], &self.mapped_rows())?;
        table(f, "matrix", &["multiply-adds"], &self.matrix_rows())?;
        let control = [("CTAs", self.ctas), ("divergent branches", self.divergent_branches)];
        let rows: Vec<Row> =
            control.iter().filter(|(_, n)| *n > 0).map(|(name, n)| (*name, vec![grouped(*n)])).collect();
        table(f, "control", &["number"], &rows)
    }
}

impl Counters {
    fn classes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("integer", self.integer),
            ("float", self.float),
            ("double", self.double),
            ("half", self.half),
            ("convert", self.convert),
            ("special", self.special),
            ("moves", self.moves),
            ("control", self.control),
            ("exchange", self.exchange),
            ("memory", self.memory),
            ("atomics", self.atomics),
            ("matrix", self.matrix),
            ("async copies", self.async_copies),
            ("barriers", self.barriers),
            ("mbarriers", self.mbarriers),
        ]
    }

    fn global_rows(&self) -> Vec<Row> {
        let row = |name, requests: u64, sectors: u64, ideal: u64| {
            let ratio = format!("{:.2}", sectors as f64 / ideal.max(1) as f64);
            (requests > 0).then(|| (name, vec![grouped(requests), grouped(sectors), grouped(ideal), ratio]))
        };
        let loads = row("loads", self.global_loads, self.global_load_sectors, self.global_load_sectors_ideal);
        let stores = row("stores", self.global_stores, self.global_store_sectors, self.global_store_sectors_ideal);
        let atomics = (self.global_atomics > 0)
            .then(|| ("atomics", vec![grouped(self.global_atomics), grouped(self.global_atomic_sectors)]));
        [loads, stores, atomics].into_iter().flatten().collect()
    }

    fn bulk_rows(&self) -> Vec<Row> {
        let row = |name, numbers: &[u64]| (name, numbers.iter().map(|n| grouped(*n)).collect());
        [
            ("loads", &[self.bulk_loads, self.bulk_load_bytes, self.bulk_load_sectors][..]),
            ("stores", &[self.bulk_stores, self.bulk_store_bytes, self.bulk_store_sectors]),
            ("in the cluster", &[self.bulk_cluster_copies, self.bulk_cluster_bytes]),
        ]
        .into_iter()
        .filter(|(_, numbers)| numbers[0] > 0)
        .map(|(name, numbers)| row(name, numbers))
        .collect()
    }

    fn shared_rows(&self) -> Vec<Row> {
        pairs(&[
            ("loads", self.shared_loads, self.shared_load_replays),
            ("stores", self.shared_stores, self.shared_store_replays),
        ])
    }

    fn other_rows(&self) -> Vec<Row> {
        singles(&[
            ("parameter loads", self.param_loads),
            ("local loads", self.local_loads),
            ("local stores", self.local_stores),
        ])
    }

    fn dram_rows(&self) -> Vec<Row> {
        singles(&[
            ("read", self.dram_read_bytes),
            ("written", self.dram_write_bytes),
            ("footprint", self.footprint_bytes),
        ])
    }

    fn mapped_rows(&self) -> Vec<Row> {
        singles(&[("loaded", self.mapped_load_bytes), ("stored", self.mapped_store_bytes)])
    }

    fn matrix_rows(&self) -> Vec<Row> {
        singles(&[
            ("f64", self.multiply_adds_f64),
            ("f16", self.multiply_adds_f16),
            ("bf16", self.multiply_adds_bf16),
            ("tf32", self.multiply_adds_tf32),
            ("fp8", self.multiply_adds_f8),
            ("int8", self.multiply_adds_i8),
            ("int4", self.multiply_adds_i4),
            ("1 bit", self.multiply_adds_b1),
        ])
    }
}

fn singles(rows: &[(&'static str, u64)]) -> Vec<Row> {
    rows.iter().filter(|(_, n)| *n > 0).map(|&(name, n)| (name, vec![grouped(n)])).collect()
}

fn pairs(rows: &[(&'static str, u64, u64)]) -> Vec<Row> {
    rows.iter().filter(|(_, n, _)| *n > 0).map(|&(name, a, b)| (name, vec![grouped(a), grouped(b)])).collect()
}

fn section(f: &mut fmt::Formatter<'_>, rows: &[(&'static str, u64)]) -> fmt::Result {
    rows.iter().filter(|(_, n)| *n > 0).try_for_each(|(name, n)| writeln!(f, "  {name:<20}{:>16}", grouped(*n)))
}

fn table(f: &mut fmt::Formatter<'_>, title: &str, header: &[&str], rows: &[Row]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = |cells: &mut dyn Iterator<Item = &str>| cells.map(|c| format!("{c:>16}")).collect::<String>();
    writeln!(f, "{title:<22}{}", columns(&mut header.iter().copied()))?;
    rows.iter()
        .try_for_each(|(name, cells)| writeln!(f, "  {name:<20}{}", columns(&mut cells.iter().map(String::as_str))))
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_in_threes() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn the_table_shows_every_counter() {
        let mut counters = Counters::default();
        let names: Vec<&str> = counters.entries().into_iter().map(|(name, _)| name).collect();
        let value = |i: usize| 1_000_003 + 7 * i as u64;
        let json: Vec<String> = names.iter().enumerate().map(|(i, name)| format!("\"{name}\":{}", value(i))).collect();
        counters = serde_json::from_str(&format!("{{{}}}", json.join(","))).expect("every field is a number");
        let text = counters.to_string();
        for (i, name) in names.into_iter().enumerate().filter(|(_, name)| *name != "active_lanes") {
            assert!(text.contains(&grouped(value(i))), "{name} is missing:\n{text}");
        }
    }

    #[test]
    fn the_table_leaves_out_what_is_zero() {
        let counters = Counters { instructions: 4, active_lanes: 64, shared_loads: 4000, ..Counters::default() };
        let text = counters.to_string();
        assert!(text.contains("50.0% of lanes active"), "{text}");
        assert!(text.contains("shared memory") && text.contains("4,000"), "{text}");
        assert!(!text.contains("global memory") && !text.contains("DRAM"), "{text}");
    }
}
