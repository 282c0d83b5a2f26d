//! The part of a format field behind its colon.

use crate::error::Error;
use crate::text::Text;
use crate::value::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    Center,
    /// Between the sign and the digits.
    Sign,
}

#[derive(Default)]
pub(super) struct Spec {
    pub(super) fill: Option<Text>,
    pub(super) align: Option<Align>,
    pub(super) sign: char,
    pub(super) alternate: bool,
    pub(super) zero: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
    pub(super) has_sign: bool,
}

pub(super) fn too_large() -> Error {
    Error::runtime("Too many decimal digits in format string")
}

fn align_of(char: char) -> Option<Align> {
    Some(match char {
        '<' => Align::Left,
        '>' => Align::Right,
        '^' => Align::Center,
        '=' => Align::Sign,
        _ => return None,
    })
}

impl Spec {
    pub(super) fn parse(text: &Text) -> Result<Spec> {
        let mut spec = Spec { sign: '-', ..Spec::default() };
        let mut rest = text.as_str();
        let mut chars = rest.chars();
        let (first, second) = (chars.next(), chars.next());
        if let (Some(fill), Some(align)) = (first, second.and_then(align_of)) {
            spec.fill = Some(text.part(&rest[..fill.len_utf8()]));
            spec.align = Some(align);
            rest = &rest[fill.len_utf8() + 1..];
        } else if let Some(align) = first.and_then(align_of) {
            spec.align = Some(align);
            rest = &rest[1..];
        }
        if let Some(sign) = rest.chars().next().filter(|sign| "+- ".contains(*sign)) {
            spec.sign = sign;
            spec.has_sign = true;
            rest = &rest[1..];
        }
        spec.alternate = skip(&mut rest, '#');
        spec.zero = skip(&mut rest, '0');
        spec.width = digits(&mut rest)?.unwrap_or(0);
        spec.grouping = rest.chars().next().filter(|char| matches!(char, ',' | '_'));
        if spec.grouping.is_some() {
            rest = &rest[1..];
        }
        if skip(&mut rest, '.') {
            spec.precision =
                Some(digits(&mut rest)?.ok_or_else(|| Error::runtime("Format specifier missing precision"))?);
        }
        let mut chars = rest.chars();
        spec.kind = chars.next();
        if chars.next().is_some() {
            return Err(Error::runtime("Invalid format specifier"));
        }
        Ok(spec)
    }

    /// Whether a string can be formatted so.
    pub(super) fn check_text(&self) -> Result<()> {
        let wrong = self.has_sign || self.alternate || self.grouping.is_some() || self.align == Some(Align::Sign);
        if wrong || self.kind.is_some_and(|kind| kind != 's') {
            return Err(Error::runtime("Invalid format specifier for a string"));
        }
        Ok(())
    }
}

fn skip(rest: &mut &str, char: char) -> bool {
    match rest.strip_prefix(char) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn digits(rest: &mut &str) -> Result<Option<usize>> {
    let end = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    if digits.is_empty() { Ok(None) } else { digits.parse().map(Some).map_err(|_| too_large()) }
}
