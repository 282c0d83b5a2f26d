//! vprintf and __assertfail.

use std::sync::PoisonError;

use super::state::Fault;
use super::warp::{Flow, Step, each};
use crate::finding::FindingKind;
use crate::lanes::Mask;
use crate::memory::LOCAL_WINDOW;
use crate::program::Slot;

impl Step<'_, '_> {
    pub(super) fn printf(&mut self, format: Slot, arguments: Slot, d: Slot, active: Mask) -> Result<Flow, Fault> {
        for lane in each(active) {
            let format = self.text(self.reg(format)[lane], lane)?;
            let text = self.format(&format, self.reg(arguments)[lane], lane)?;
            self.launch.output.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        }
        self.set(d, active, &[1; 32]);
        Ok(Flow::Next)
    }

    pub(super) fn assert_fail(&mut self, message: Slot, file: Slot, line: Slot, active: Mask) -> Result<Flow, Fault> {
        let lane = active.trailing_zeros() as usize;
        let (condition, file) = (self.text(self.reg(message)[lane], lane)?, self.text(self.reg(file)[lane], lane)?);
        let line = self.reg(line)[lane] as u32;
        Err(Fault::new(FindingKind::Assert, Some(lane), format!("assertion `{condition}` failed at {file}:{line}")))
    }

    /// A zero-terminated string in global memory.
    fn text(&self, address: u64, lane: usize) -> Result<String, Fault> {
        let at = self.launch.memory.partition_point(|a| a.base <= address);
        let allocation = at.checked_sub(1).map(|i| &self.launch.memory[i]).filter(|a| address < a.base + a.bytes);
        let Some(allocation) = allocation else {
            return Err(Fault::new(FindingKind::OutOfBounds, Some(lane), format!("a string at {address:#x}")));
        };
        let mut bytes = vec![0; (allocation.base + allocation.bytes - address) as usize];
        allocation.read_bytes(address - allocation.base, &mut bytes);
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// The next argument of `bytes` bytes, at its natural alignment, from the thread's local memory.
    fn argument(&self, at: &mut u64, bytes: u64, lane: usize) -> Result<u64, Fault> {
        *at = at.next_multiple_of(bytes);
        let start = self.local_at(at.wrapping_sub(LOCAL_WINDOW), bytes as u32, lane)?;
        let mut raw = [0; 8];
        raw[..bytes as usize].copy_from_slice(&self.warp.local[start..start + bytes as usize]);
        *at += bytes;
        Ok(u64::from_le_bytes(raw))
    }

    fn format(&self, format: &str, mut at: u64, lane: usize) -> Result<String, Fault> {
        let mut out = String::new();
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut spec = String::new();
            while let Some(&c) = rest.peek() {
                spec.push(c);
                rest.next();
                if c.is_ascii_alphabetic() && !matches!(c, 'l' | 'h' | 'z' | 'j' | 't') || c == '%' {
                    break;
                }
            }
            let kind = spec.pop().unwrap_or('%');
            let wide = spec.contains('l') || spec.contains('z') || spec.contains('j');
            let flags: String = spec.chars().filter(|c| !c.is_ascii_alphabetic()).collect();
            let piece = match kind {
                '%' => "%".to_owned(),
                'd' | 'i' if wide => (self.argument(&mut at, 8, lane)? as i64).to_string(),
                'd' | 'i' => (self.argument(&mut at, 4, lane)? as i32).to_string(),
                'u' if wide => self.argument(&mut at, 8, lane)?.to_string(),
                'u' => (self.argument(&mut at, 4, lane)? as u32).to_string(),
                'x' if wide => format!("{:x}", self.argument(&mut at, 8, lane)?),
                'x' => format!("{:x}", self.argument(&mut at, 4, lane)?),
                'X' => format!("{:X}", self.argument(&mut at, if wide { 8 } else { 4 }, lane)?),
                'c' => char::from(self.argument(&mut at, 4, lane)? as u8).to_string(),
                'p' => format!("{:#x}", self.argument(&mut at, 8, lane)?),
                's' => self.text(self.argument(&mut at, 8, lane)?, lane)?,
                'f' | 'F' | 'g' | 'e' | 'G' | 'E' => {
                    float(kind, &flags, f64::from_bits(self.argument(&mut at, 8, lane)?))
                }
                other => format!("%{flags}{other}"),
            };
            pad(&mut out, &flags, &piece);
        }
        Ok(out)
    }
}

fn float(kind: char, flags: &str, x: f64) -> String {
    let digits: usize = flags.split('.').nth(1).and_then(|d| d.parse().ok()).unwrap_or(6);
    let text = match kind {
        _ if !x.is_finite() => format!("{x}").to_lowercase(),
        'e' | 'E' => scientific(x, digits),
        'g' | 'G' => general(x, digits.max(1)),
        _ => format!("{x:.digits$}"),
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

/// C's `%e`: the exponent has a sign and at least two digits.
fn scientific(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{mantissa}e{sign}{exponent:0>2}")
}

/// C's `%g`: `digits` significant ones, trailing zeros dropped, in the shorter of both notations.
fn general(x: f64, digits: usize) -> String {
    let scientific = scientific(x, digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent.parse::<i32>() {
        Ok(power) if (-4..digits as i32).contains(&power) => {
            let decimals = (digits as i32 - 1 - power) as usize;
            short(&format!("{x:.decimals$}"))
        }
        _ => format!("{}e{exponent}", short(mantissa)),
    }
}

fn pad(out: &mut String, flags: &str, piece: &str) {
    let width: usize =
        flags.split('.').next().unwrap_or("").trim_start_matches(['-', '0', '+', ' ', '#']).parse().unwrap_or(0);
    let fill = width.saturating_sub(piece.chars().count());
    if flags.starts_with('-') {
        out.push_str(piece);
        out.extend(std::iter::repeat_n(' ', fill));
    } else {
        let zero = flags.starts_with('0') && !flags.contains('.');
        let (sign, digits) = piece.split_at(usize::from(zero && piece.starts_with('-')));
        out.push_str(sign);
        out.extend(std::iter::repeat_n(if zero { '0' } else { ' ' }, fill));
        out.push_str(digits);
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn numbers_are_printed_as_c_prints_them() {
        let cases = [
            ('e', "", 12345.678, "1.234568e+04"),
            ('e', ".2", 1e-7, "1.00e-07"),
            ('E', ".0", 1e100, "1E+100"),
            ('g', "", 0.5, "0.5"),
            ('g', "", 100_000.0, "100000"),
            ('g', "", 1_000_000.0, "1e+06"),
            ('g', "", 0.00001234, "1.234e-05"),
            ('g', ".3", 2.0 / 3.0, "0.667"),
            ('f', ".2", -0.125, "-0.12"),
            ('f', "", f64::NEG_INFINITY, "-inf"),
        ];
        for (kind, flags, x, expected) in cases {
            assert_eq!(float(kind, flags, x), expected, "%{flags}{kind}");
        }
    }
}
