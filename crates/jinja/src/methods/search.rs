//! Methods of strings that look for something.

use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::text::Text;
use crate::value::{Result, Value};

/// The part of a text that `start` and `end` leave, in bytes, and how many characters are before it. None if `start` is
/// behind the end.
fn part(
    interp: &Interp<'_>,
    text: &Text,
    start: Option<Value>,
    end: Option<Value>,
) -> Result<Option<(usize, usize, usize)>> {
    let string = text.as_str();
    interp.budget.pay(text.len() * 2)?;
    let len = string.chars().count() as i128;
    let some = |value: Option<Value>| value.filter(|value| !matches!(value, Value::None));
    let index = |value: i128| if value < 0 { (value + len).max(0) } else { value };
    let start = index(interp.int_arg(some(start), 0)?);
    let end = index(interp.int_arg(some(end), len)?).min(len);
    if start > len || start > end {
        return Ok(None);
    }
    let byte = |index: i128| string.char_indices().nth(index as usize).map_or(string.len(), |(at, _)| at);
    Ok(Some((byte(start), byte(end), start as usize)))
}

pub(super) fn find(interp: &Interp<'_>, text: &Text, name: &str, call: Call) -> Result<Value> {
    let [wanted, start, end] = call.positional(name, 1)?;
    let wanted = interp.text_arg(wanted, "")?;
    let found = part(interp, text, start, end)?.and_then(|(from, to, before)| {
        let range = &text.as_str()[from..to];
        let at = if name.starts_with('r') { range.rfind(wanted.as_str()) } else { range.find(wanted.as_str()) }?;
        Some(before + range[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::Int(at as i128)),
        None if name.ends_with("index") => Err(Error::runtime("substring not found")),
        None => Ok(Value::Int(-1)),
    }
}

pub(super) fn count(interp: &Interp<'_>, text: &Text, call: Call) -> Result<Value> {
    let [wanted, start, end] = call.positional("count", 1)?;
    let wanted = interp.text_arg(wanted, "")?;
    let count = part(interp, text, start, end)?.map_or(0, |(from, to, _)| {
        let range = &text.as_str()[from..to];
        if wanted.is_empty() { range.chars().count() + 1 } else { range.matches(wanted.as_str()).count() }
    });
    Ok(Value::Int(count as i128))
}

pub(super) fn starts_or_ends(interp: &Interp<'_>, text: &Text, name: &str, call: Call) -> Result<Value> {
    let [affix, start, end] = call.positional(name, 1)?;
    let affixes = match affix {
        Some(Value::Tuple(items, _)) => items.to_vec(),
        other => vec![other.unwrap_or(Value::None)],
    };
    let range = part(interp, text, start, end)?;
    for affix in affixes {
        let Value::Str(affix) = affix else {
            let found = affix.type_name();
            return Err(Error::runtime(format!("{name} first arg must be str or a tuple of str, not {found}")));
        };
        let Some((from, to, _)) = range else { continue };
        let range = &text.as_str()[from..to];
        interp.budget.pay(affix.len())?;
        let holds =
            if name == "startswith" { range.starts_with(affix.as_str()) } else { range.ends_with(affix.as_str()) };
        if holds {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// `partition` and `rpartition`.
pub(super) fn partition(interp: &Interp<'_>, text: &Text, name: &str, call: Call) -> Result<Value> {
    let [separator] = call.positional(name, 1)?;
    let separator = interp.text_arg(separator, "")?;
    if separator.is_empty() {
        return Err(Error::runtime("empty separator"));
    }
    let string = text.as_str();
    let last = name == "rpartition";
    let at = if last { string.rfind(separator.as_str()) } else { string.find(separator.as_str()) };
    let empty = || text.slice(0..0);
    let parts = match at {
        Some(at) => [text.slice(0..at), separator.clone(), text.slice(at + separator.len()..text.len())],
        None if last => [empty(), empty(), text.clone()],
        None => [text.clone(), empty(), empty()],
    };
    Ok(Value::tuple(parts.into_iter().map(Value::Str).collect()))
}

/// The parts between separators, at most `most` of them cut off, from the front or the back.
pub(super) fn split(interp: &Interp<'_>, text: &Text, name: &str, call: Call) -> Result<Value> {
    let [separator, most] = call.bind(name, ["sep", "maxsplit"], 0)?;
    let most = interp.int_arg(most, -1)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let string = text.as_str();
    let mut parts: Vec<&str> = match separator.filter(|value| !matches!(value, Value::None)) {
        None => words(string, most, name == "rsplit"),
        Some(Value::Str(separator)) if separator.is_empty() => return Err(Error::runtime("empty separator")),
        Some(Value::Str(separator)) => {
            let most = most.saturating_add(1);
            if name == "rsplit" {
                let mut parts: Vec<&str> = string.rsplitn(most, separator.as_str()).collect();
                parts.reverse();
                parts
            } else {
                string.splitn(most, separator.as_str()).collect()
            }
        }
        Some(other) => {
            let found = other.type_name();
            return Err(Error::runtime(format!("must be str or None, not {found}")));
        }
    };
    interp.budget.pay_elements(parts.len())?;
    Ok(Value::list(parts.drain(..).map(|part| Value::Str(text.part(part))).collect()))
}

fn words(string: &str, most: usize, from_the_back: bool) -> Vec<&str> {
    use crate::lexer::is_space;
    let mut words = Vec::new();
    if from_the_back {
        let mut rest = string.trim_end_matches(is_space);
        while !rest.is_empty() {
            let start = if words.len() == most {
                0
            } else {
                rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8))
            };
            words.push(&rest[start..]);
            rest = rest[..start].trim_end_matches(is_space);
        }
        words.reverse();
        return words;
    }
    let mut rest = string.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if words.len() == most { rest.len() } else { rest.find(is_space).unwrap_or(rest.len()) };
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    words
}
