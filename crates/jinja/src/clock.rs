//! The time that a template sees.

use crate::error::Error;

/// A moment, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    unix_seconds: u64,
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

impl Instant {
    pub fn from_unix_seconds(unix_seconds: u64) -> Instant {
        // The year 9999 ends there, and with it Python's calendar.
        Instant { unix_seconds: unix_seconds.min(253_402_300_799) }
    }

    /// This moment.
    pub fn now() -> Instant {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Instant::from_unix_seconds(since_1970.as_secs())
    }

    /// `strftime` in the C locale, with glibc's flags.
    pub(crate) fn format(self, format: &str) -> Result<String, Error> {
        let date = Date::of(self.unix_seconds);
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                text.push(char);
                continue;
            }
            let mut directive = chars.next();
            let flag = directive.filter(|flag| matches!(flag, '-' | '_' | '0' | '^' | '#'));
            if flag.is_some() {
                directive = chars.next();
            }
            let part = match directive {
                Some(directive) => date.part(directive, flag),
                None => None,
            };
            match part {
                Some(part) if flag == Some('^') => text.push_str(&part.to_uppercase()),
                Some(part) => text.push_str(&part),
                None => {
                    let found = directive.map_or("nothing".to_owned(), |char| char.to_string());
                    return Err(Error::runtime(format!("strftime_now: expected a directive after %, found {found}")));
                }
            }
        }
        Ok(text)
    }
}

struct Date {
    unix_seconds: u64,
    year: u64,
    month: u64,
    day: u64,
    /// From 0, the first of January.
    day_of_year: u64,
    /// From 0, Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Date {
    fn of(unix_seconds: u64) -> Date {
        let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
        let (year, month, day) = civil(days);
        Date {
            unix_seconds,
            year,
            month,
            day,
            day_of_year: days - days_before(year),
            weekday: (days + 4) % 7,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    fn part(&self, directive: char, flag: Option<char>) -> Option<String> {
        let padded = |value: u64, width: usize, pad: char| match flag.unwrap_or(pad) {
            '-' => value.to_string(),
            '_' | ' ' => format!("{value:width$}"),
            _ => format!("{value:0width$}"),
        };
        let number = |value: u64, width: usize| padded(value, width, '0');
        let name = |names: &[&str], at: u64| names[at as usize].to_owned();
        let month = || name(&MONTHS, self.month - 1);
        let weekday = || name(&WEEKDAYS, (self.weekday + 3) % 7);
        let joined = |directives: &str| -> Option<String> {
            directives
                .chars()
                .map(|char| if char.is_alphabetic() { self.part(char, None) } else { Some(char.to_string()) })
                .collect()
        };
        let hour12 = (self.hour + 11) % 12 + 1;
        let monday = (self.weekday + 6) % 7;
        Some(match directive {
            'Y' => number(self.year, 4),
            'C' => number(self.year / 100, 2),
            'y' => number(self.year % 100, 2),
            'm' => number(self.month, 2),
            'd' => number(self.day, 2),
            'e' => padded(self.day, 2, ' '),
            'j' => number(self.day_of_year + 1, 3),
            'B' => month(),
            'b' | 'h' => month()[..3].to_owned(),
            'A' => weekday(),
            'a' => weekday()[..3].to_owned(),
            'H' => number(self.hour, 2),
            'I' => number(hour12, 2),
            'k' => padded(self.hour, 2, ' '),
            'l' => padded(hour12, 2, ' '),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'f' => "000000".to_owned(),
            's' => self.unix_seconds.to_string(),
            'u' => (monday + 1).to_string(),
            'w' => self.weekday.to_string(),
            'U' => number((self.day_of_year + 7 - self.weekday) / 7, 2),
            'W' => number((self.day_of_year + 7 - monday) / 7, 2),
            'V' => number(self.iso_week().1, 2),
            'G' => number(self.iso_week().0, 4),
            'g' => number(self.iso_week().0 % 100, 2),
            'F' => joined("Y-m-d")?,
            'T' | 'X' => joined("H:M:S")?,
            'R' => joined("H:M")?,
            'r' => joined("I:M:S p")?,
            'D' | 'x' => joined("m/d/y")?,
            'c' => joined("a b e H:M:S Y")?,
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }

    /// ISO 8601's year and week: a week belongs to the year that its Thursday is in.
    fn iso_week(&self) -> (u64, u64) {
        let monday = (self.weekday + 6) % 7;
        let thursday = self.unix_seconds / 86_400 + 3 - monday.min(self.unix_seconds / 86_400 + 3);
        let (year, _, _) = civil(thursday);
        (year, (thursday - days_before(year)) / 7 + 1)
    }
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
        let format = "%Y-%m-%d %j %a %d %b %Y|%A, %-d %B|%H:%M:%S %I %p|%U %W %V %G %u %w|%c|%e|%^a|%x %X";
        for (seconds, expected) in EXPECTED {
            assert_eq!(Instant::from_unix_seconds(seconds).format(format).expect("a format"), expected);
        }
        assert!(Instant::from_unix_seconds(0).format("%Q").is_err());
        assert!(Instant::from_unix_seconds(0).format("%").is_err());
    }

    /// Python's `strftime` gives these.
    const EXPECTED: [(u64, &str); 6] = [
        (
            0,
            "1970-01-01 001 Thu 01 Jan 1970|Thursday, 1 January|00:00:00 12 AM|00 00 01 1970 4 4|Thu Jan  1 00:00:00 1970| 1|THU|01/01/70 00:00:00",
        ),
        (
            951825599,
            "2000-02-29 060 Tue 29 Feb 2000|Tuesday, 29 February|11:59:59 11 AM|09 09 09 2000 2 2|Tue Feb 29 11:59:59 2000|29|TUE|02/29/00 11:59:59",
        ),
        (
            1735689599,
            "2024-12-31 366 Tue 31 Dec 2024|Tuesday, 31 December|23:59:59 11 PM|52 53 01 2025 2 2|Tue Dec 31 23:59:59 2024|31|TUE|12/31/24 23:59:59",
        ),
        (
            4107542400,
            "2100-03-01 060 Mon 01 Mar 2100|Monday, 1 March|00:00:00 12 AM|09 09 09 2100 1 1|Mon Mar  1 00:00:00 2100| 1|MON|03/01/00 00:00:00",
        ),
        (
            1483228800,
            "2017-01-01 001 Sun 01 Jan 2017|Sunday, 1 January|00:00:00 12 AM|01 00 52 2016 7 0|Sun Jan  1 00:00:00 2017| 1|SUN|01/01/17 00:00:00",
        ),
        (
            253402300799,
            "9999-12-31 365 Fri 31 Dec 9999|Friday, 31 December|23:59:59 11 PM|52 52 52 9999 5 5|Fri Dec 31 23:59:59 9999|31|FRI|12/31/99 23:59:59",
        ),
    ];
}
