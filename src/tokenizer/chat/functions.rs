//! What chat templates call besides Jinja's own functions.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most spaces that `tojson(indent=…)` takes.
const JSON_INDENT_MAX: usize = 16;

/// Ends the rendering with the template's own message.
pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The time in UTC, in the directives of C's strftime that templates use.
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    strftime(&format, seconds)
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(spaces) if spaces > JSON_INDENT_MAX => {
            let message = format!("tojson: expected an indent of at most {JSON_INDENT_MAX}, found {spaces}");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        Some(spaces) => {
            let indent = [b' '; JSON_INDENT_MAX];
            value.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(&indent[..spaces])))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, PythonSpaces)),
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, "cannot write as JSON").with_source(error))?;
    Ok(Value::from(String::from_utf8_lossy(&json).into_owned()))
}

/// One line with a space after each comma and colon.
struct PythonSpaces;

impl Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

fn strftime(format: &str, unix_seconds: u64) -> Result<String, Error> {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[(days % 7) as usize]);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        // `%-d` is `%d` without padding.
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let number = |value: u64, width: usize| if padded { format!("{value:0width$}") } else { value.to_string() };
        match directive {
            Some('Y') => text.push_str(&number(year, 4)),
            Some('y') => text.push_str(&number(year % 100, 2)),
            Some('m') => text.push_str(&number(month, 2)),
            Some('d') => text.push_str(&number(day, 2)),
            Some('e') => text.push_str(&format!("{day:2}")),
            Some('j') => text.push_str(&number(days - days_before(year) + 1, 3)),
            Some('B') => text.push_str(month_name),
            Some('b' | 'h') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(weekday),
            Some('a') => text.push_str(&weekday[..3]),
            Some('H') => text.push_str(&number(hour, 2)),
            Some('I') => text.push_str(&number((hour + 11) % 12 + 1, 2)),
            Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => text.push_str(&number(minute, 2)),
            Some('S') => text.push_str(&number(second, 2)),
            Some('F') => text.push_str(&format!("{year:04}-{month:02}-{day:02}")),
            Some('T') => text.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => text.push_str("UTC"),
            Some('z') => text.push_str("+0000"),
            Some('%') => text.push('%'),
            other => {
                let found = other.map_or("nothing".to_owned(), |char| char.to_string());
                let message = format!("strftime_now: expected a directive after %, found {found}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
    }
    Ok(text)
}

/// Days from 1970 to the first of January of `year`.
fn days_before(year: u64) -> u64 {
    let before = year - 1;
    before * 365 + before / 4 - before / 100 + before / 400 - 719_162
}

/// Year, month and day of a day counted from 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = days_before(year + 1) - days_before(year) == 366;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let (mut month, mut day) = (1, days - days_before(year));
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let format = "%Y-%m-%d %j %a %d %b %Y|%A, %-d %B|%H:%M:%S %I %p";
        for (seconds, expected) in [
            (0, "1970-01-01 001 Thu 01 Jan 1970|Thursday, 1 January|00:00:00 12 AM"),
            (951_825_599, "2000-02-29 060 Tue 29 Feb 2000|Tuesday, 29 February|11:59:59 11 AM"),
            (1_735_689_599, "2024-12-31 366 Tue 31 Dec 2024|Tuesday, 31 December|23:59:59 11 PM"),
            (4_107_542_400, "2100-03-01 060 Mon 01 Mar 2100|Monday, 1 March|00:00:00 12 AM"),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), expected);
        }
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains('Q'));
    }
}
