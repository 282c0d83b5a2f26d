//! PTX targets and the driver's choice among them.

use std::fmt;

use crate::FatbinError;

/// Which devices a target's PTX may run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// `sm_90`: every device of that compute capability or later.
    Baseline,
    /// `sm_100f`: devices of the same major compute capability, that minor or later.
    Family,
    /// `sm_90a`: exactly that compute capability.
    Specific,
}

/// A `.target` such as `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub major: u32,
    pub minor: u32,
    pub kind: TargetKind,
}

impl Target {
    /// Reads `sm_XY`, `sm_XYa` or `sm_XYf`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("sm_")?;
        let (digits, kind) = match rest.as_bytes().last()? {
            b'a' => (&rest[..rest.len() - 1], TargetKind::Specific),
            b'f' => (&rest[..rest.len() - 1], TargetKind::Family),
            _ => (rest, TargetKind::Baseline),
        };
        if !(2..=4).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: u32 = digits.parse().ok()?;
        Some(Target { major: number / 10, minor: number % 10, kind })
    }

    /// The target that PTX text states in its `.target` directive.
    ///
    /// # Errors
    /// `NoTarget`.
    pub fn of_ptx(ptx: &str) -> Result<Self, FatbinError> {
        // Comments come off first: nvcc's banner may say anything.
        let mut rest = ptx;
        while !rest.is_empty() {
            rest = rest.trim_start();
            if let Some(comment) = rest.strip_prefix("//") {
                rest = comment.split_once('\n').map_or("", |(_, after)| after);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                rest = comment.split_once("*/").map_or("", |(_, after)| after);
            } else if let Some(list) = rest.strip_prefix(".target") {
                let name: String = list.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                return Target::parse(&name).ok_or(FatbinError::NoTarget { found: name });
            } else {
                let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
                rest = &rest[word..];
            }
        }
        Err(FatbinError::NoTarget { found: String::new() })
    }

    /// Whether a device of this compute capability may run it.
    pub fn runs_on(self, major: u32, minor: u32) -> bool {
        match self.kind {
            TargetKind::Baseline => (self.major, self.minor) <= (major, minor),
            TargetKind::Family => self.major == major && self.minor <= minor,
            TargetKind::Specific => (self.major, self.minor) == (major, minor),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.kind {
            TargetKind::Baseline => "",
            TargetKind::Family => "f",
            TargetKind::Specific => "a",
        };
        write!(f, "sm_{}{}{suffix}", self.major, self.minor)
    }
}

/// Index of the target that a driver takes on a device: the highest that runs there, and of equals the most specific.
pub fn choose(targets: &[Target], major: u32, minor: u32) -> Option<usize> {
    (0..targets.len()).filter(|&i| targets[i].runs_on(major, minor)).max_by_key(|&i| targets[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown_alike() {
        for name in ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_100a", "sm_103f", "sm_120f"] {
            assert_eq!(Target::parse(name).map(|t| t.to_string()).as_deref(), Some(name));
        }
        for name in ["", "sm_", "sm_9", "sm_90b", "sm_90af", "compute_90", "sm_-90", "sm_90000"] {
            assert_eq!(Target::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_target_directive_is_found_behind_comments() {
        let ptx = "//\n// .target sm_10\n/* .target sm_20 */\n.version 8.7\n.target sm_90a, debug\n.address_size 64\n";
        assert_eq!(Target::of_ptx(ptx).map(|t| t.to_string()), Ok("sm_90a".into()));
        assert!(matches!(Target::of_ptx(".version 8.7"), Err(FatbinError::NoTarget { .. })));
        assert!(matches!(Target::of_ptx(".target gfx90"), Err(FatbinError::NoTarget { .. })));
    }

    #[test]
    fn the_choice_follows_the_drivers_rule() {
        type Case = (&'static [&'static str], (u32, u32), Option<&'static str>);
        let cases: &[Case] = &[
            (&["sm_80", "sm_90"], (9, 0), Some("sm_90")),
            (&["sm_80", "sm_90"], (8, 9), Some("sm_80")),
            (&["sm_80", "sm_86", "sm_89"], (8, 6), Some("sm_86")),
            (&["sm_90", "sm_80"], (12, 0), Some("sm_90")),
            (&["sm_90"], (8, 9), None),
            (&["sm_90", "sm_90a"], (9, 0), Some("sm_90a")),
            (&["sm_90a", "sm_90"], (9, 0), Some("sm_90a")),
            (&["sm_80", "sm_90a"], (10, 0), Some("sm_80")),
            (&["sm_90a"], (10, 0), None),
            (&["sm_90a"], (12, 0), None),
            (&["sm_90", "sm_100f"], (10, 3), Some("sm_100f")),
            (&["sm_90", "sm_100f"], (12, 0), Some("sm_90")),
            (&["sm_100f", "sm_103a"], (10, 3), Some("sm_103a")),
            (&["sm_100f", "sm_103f"], (10, 0), Some("sm_100f")),
            (&["sm_100", "sm_100f", "sm_100a"], (10, 0), Some("sm_100a")),
            (&["sm_100", "sm_100f", "sm_100a"], (10, 1), Some("sm_100f")),
            (&["sm_120", "sm_100a"], (12, 1), Some("sm_120")),
            (&[], (9, 0), None),
        ];
        for (names, (major, minor), expected) in cases {
            let targets: Vec<Target> = names.iter().map(|n| Target::parse(n).expect("a target")).collect();
            let chosen = choose(&targets, *major, *minor).map(|i| targets[i].to_string());
            assert_eq!(chosen.as_deref(), *expected, "{names:?} on {major}.{minor}");
        }
    }
}
