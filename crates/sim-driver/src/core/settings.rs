//! What environment variables say: which devices there are, what is checked, which calls fail.

use sim_exec::{Arithmetic, Checks};

use super::fault::Faults;

/// Reads one variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={found}: expected {expected}")]
pub struct SettingError {
    pub variable: &'static str,
    pub found: String,
    pub expected: &'static str,
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `KILN_SIM_CC`: compute capability, `8.0`, `8.9`, `9.0`, `10.0` or `12.0`.
    pub compute_capability: (u32, u32),
    /// `KILN_SIM_SMS`: SMs per device; by default those of a typical device of the compute capability.
    pub sm_count: Option<u32>,
    /// `KILN_SIM_VRAM_MIB`: memory per device.
    pub vram_bytes: u64,
    /// `KILN_SIM_DEVICES`: number of devices.
    pub device_count: usize,
    /// `KILN_SIM_SEED`: chooses schedules.
    pub seed: u64,
    /// `KILN_SIM_WORKERS`: threads of the host that run CTAs; by default all.
    pub workers: Option<usize>,
    /// `KILN_SIM_CHECKS`: `all`, `none`, or a list of `uninitialised` and `races`.
    pub checks: Checks,
    /// `KILN_SIM_ARITHMETIC`: a list of `perturb` and `truncate`.
    pub arithmetic: Arithmetic,
    /// `KILN_SIM_FAULT`: a list such as `alloc:3,launch:2`.
    pub faults: Faults,
    /// `CUDA_LAUNCH_BLOCKING=1`: launches return when they are done, as on a GPU.
    pub launch_blocking: bool,
    /// `KILN_SIM_LOG=1`: every refused call is explained on stderr.
    pub log: bool,
    /// `KILN_SIM_REPORT`: a file that gets one JSON line for each launch and copy.
    pub report: Option<String>,
    /// `KILN_SIM_REPORT_LINES=1`: launches in the report have counters for each line of the CUDA source.
    pub report_lines: bool,
}

impl Settings {
    /// # Errors
    /// The first variable that cannot be understood.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, SettingError> {
        let number = |variable, expected, range: std::ops::RangeInclusive<u64>| match lookup(variable) {
            None => Ok(None),
            Some(found) => match found.parse().ok().filter(|n| range.contains(n)) {
                Some(n) => Ok(Some(n)),
                None => Err(SettingError { variable, found, expected }),
            },
        };
        let mib = number("KILN_SIM_VRAM_MIB", "MiB, 1 to 1048576", 1..=1 << 20)?;
        let seed = number("KILN_SIM_SEED", "a number", 0..=u64::MAX)?.unwrap_or(0);
        Ok(Settings {
            compute_capability: compute_capability(lookup)?,
            sm_count: number("KILN_SIM_SMS", "1 to 1024", 1..=1024)?.map(|n| n as u32),
            vram_bytes: mib.unwrap_or(16 << 10) << 20,
            device_count: number("KILN_SIM_DEVICES", "0 to 16", 0..=16)?.unwrap_or(1) as usize,
            seed,
            workers: number("KILN_SIM_WORKERS", "1 to 1024", 1..=1024)?.map(|n| n as usize),
            checks: checks(lookup)?,
            arithmetic: arithmetic(lookup, seed)?,
            faults: match lookup("KILN_SIM_FAULT") {
                None => Faults::default(),
                Some(found) => Faults::parse(&found).ok_or(SettingError {
                    variable: "KILN_SIM_FAULT",
                    found,
                    expected: "a list of alloc:N, copy:N, launch:N and sync:N with N from 1",
                })?,
            },
            launch_blocking: lookup("CUDA_LAUNCH_BLOCKING").as_deref() == Some("1"),
            log: number("KILN_SIM_LOG", "0 or 1", 0..=1)? == Some(1),
            report: lookup("KILN_SIM_REPORT"),
            report_lines: number("KILN_SIM_REPORT_LINES", "0 or 1", 0..=1)? == Some(1),
        })
    }
}

fn compute_capability(lookup: Lookup<'_>) -> Result<(u32, u32), SettingError> {
    let variable = "KILN_SIM_CC";
    match lookup(variable).as_deref() {
        Some("8.0") => Ok((8, 0)),
        Some("8.9") => Ok((8, 9)),
        None | Some("9.0") => Ok((9, 0)),
        Some("10.0") => Ok((10, 0)),
        Some("12.0") => Ok((12, 0)),
        Some(found) => Err(SettingError { variable, found: found.to_owned(), expected: "8.0, 8.9, 9.0, 10.0 or 12.0" }),
    }
}

fn checks(lookup: Lookup<'_>) -> Result<Checks, SettingError> {
    let variable = "KILN_SIM_CHECKS";
    let Some(found) = lookup(variable) else { return Ok(Checks::ALL) };
    let mut checks = Checks::NONE;
    for word in found.split(',') {
        match word {
            "all" => checks = Checks::ALL,
            "none" => checks = Checks::NONE,
            "uninitialised" => checks.uninitialised = true,
            "races" => checks.races = true,
            _ => return Err(SettingError { variable, found, expected: "all, none, uninitialised or races" }),
        }
    }
    Ok(checks)
}

fn arithmetic(lookup: Lookup<'_>, seed: u64) -> Result<Arithmetic, SettingError> {
    let variable = "KILN_SIM_ARITHMETIC";
    let mut arithmetic = Arithmetic::default();
    let Some(found) = lookup(variable) else { return Ok(arithmetic) };
    for word in found.split(',') {
        match word {
            "perturb" => arithmetic.perturb = Some(seed),
            "truncate" => arithmetic.mma_truncates = true,
            _ => return Err(SettingError { variable, found, expected: "perturb, truncate or both" }),
        }
    }
    Ok(arithmetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingError> {
        Settings::read(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn values_are_taken() {
        let settings = read(&[
            ("KILN_SIM_CC", "12.0"),
            ("KILN_SIM_SMS", "7"),
            ("KILN_SIM_VRAM_MIB", "3"),
            ("KILN_SIM_DEVICES", "2"),
            ("KILN_SIM_CHECKS", "races"),
            ("KILN_SIM_ARITHMETIC", "perturb,truncate"),
        ])
        .expect("all are good");
        assert_eq!(settings.compute_capability, (12, 0));
        assert_eq!((settings.sm_count, settings.vram_bytes, settings.device_count), (Some(7), 3 << 20, 2));
        assert_eq!(settings.checks, Checks { uninitialised: false, races: true });
        assert!(settings.arithmetic.perturb == Some(settings.seed) && settings.arithmetic.mma_truncates);
    }

    #[test]
    fn mistakes_are_named() {
        for (variable, value) in [
            ("KILN_SIM_CC", "9"),
            ("KILN_SIM_SMS", "0"),
            ("KILN_SIM_VRAM_MIB", "-1"),
            ("KILN_SIM_DEVICES", "17"),
            ("KILN_SIM_CHECKS", "some"),
            ("KILN_SIM_ARITHMETIC", ""),
            ("KILN_SIM_FAULT", "alloc"),
            ("KILN_SIM_LOG", "yes"),
            ("KILN_SIM_REPORT_LINES", "all"),
        ] {
            let error = read(&[(variable, value)]).expect_err("a mistake");
            assert_eq!((error.variable, error.found.as_str()), (variable, value));
        }
    }
}
