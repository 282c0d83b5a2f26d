//! Methods of strings.

use super::case::{capitalize, casefold, is_lower, is_title, is_upper, lower, swap, title, upper};
use super::search;
use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::lexer::is_space;
use crate::text::{Text, TextBuf};
use crate::unicode;
use crate::value::{Dict, Key, Result, Value};

pub(super) fn call(interp: &Interp<'_>, text: &Text, name: &str, call: Call) -> Result<Value> {
    interp.budget.pay(text.len() * 3)?;
    let string = text.as_str();
    match name {
        "find" | "rfind" | "index" | "rindex" => search::find(interp, text, name, call),
        "count" => search::count(interp, text, call),
        "startswith" | "endswith" => search::starts_or_ends(interp, text, name, call),
        "partition" | "rpartition" => search::partition(interp, text, name, call),
        "split" | "rsplit" => search::split(interp, text, name, call),
        "format" => interp.format(text, call).map(Value::Str),
        "format_map" => {
            let [values] = call.positional(name, 1)?;
            let Some(Value::Dict(dict)) = values else { return Err(Error::runtime("format_map expects a mapping")) };
            let mut kwargs = Vec::new();
            for (key, value) in dict.pairs() {
                interp.budget.pay_elements(1)?;
                if let Value::Str(key) = key {
                    kwargs.push((key.clone(), value.clone()));
                }
            }
            interp.format(text, Call { args: Vec::new(), kwargs }).map(Value::Str)
        }
        "splitlines" => {
            let [keep] = call.bind(name, ["keepends"], 0)?;
            let lines = lines(text, keep.is_some_and(|value| value.is_true()));
            interp.budget.pay_elements(lines.len())?;
            Ok(Value::list(lines.into_iter().map(Value::Str).collect()))
        }
        "join" => join(interp, text, call),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = call.positional(name, 0)?;
            let side = match name {
                "strip" => Side::Both,
                "lstrip" => Side::Left,
                _ => Side::Right,
            };
            strip(text, &chars.unwrap_or(Value::None), side).map(Value::Str)
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = call.positional(name, 1)?;
            let affix = interp.text_arg(affix, "")?;
            let affix = affix.as_str();
            let rest = if name == "removeprefix" { string.strip_prefix(affix) } else { string.strip_suffix(affix) };
            Ok(Value::Str(rest.map_or_else(|| text.clone(), |rest| text.part(rest))))
        }
        "replace" => {
            let [old, new, count] = call.positional(name, 2)?;
            let (old, new) = (interp.text_arg(old, "")?, interp.text_arg(new, "")?);
            let count = interp.int_arg(count, -1)?;
            Ok(Value::Str(replace(interp, text, &old, &new, count)?.with_markup(text.markup)))
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = call.positional(name, 1)?;
            let width = interp.int_arg(width, 0)?;
            let fill = interp.text_arg(fill, " ")?;
            if name == "center" {
                return center(interp, text, width, &fill).map(Value::Str);
            }
            let missing = missing(interp, text, width, &fill)?;
            let (left, right) = if name == "ljust" { (0, missing) } else { (missing, 0) };
            Ok(Value::Str(padded(text, left, right, &fill)))
        }
        "zfill" => zfill(interp, text, call),
        "expandtabs" => expand_tabs(interp, text, call),
        "translate" => translate(interp, text, call),
        "maketrans" => make_table(interp, call),
        "encode" => Err(Error::runtime("bytes are not supported in chat templates")),
        _ => {
            call.positional::<0>(name, 0)?;
            // Character by character.
            interp.budget.pay(text.len() * 9)?;
            Ok(match name {
                "capitalize" => Value::Str(capitalize(text)),
                "casefold" => Value::Str(casefold(text)),
                "lower" => Value::Str(lower(text)),
                "swapcase" => Value::Str(swap(text)),
                "title" => Value::Str(title(text)),
                "upper" => Value::Str(upper(text)),
                _ => Value::Bool(is(string, name)?),
            })
        }
    }
}

fn is(string: &str, name: &str) -> Result<bool> {
    let all = |holds: fn(char) -> bool| !string.is_empty() && string.chars().all(holds);
    Ok(match name {
        "isalnum" => all(|char| unicode::is_alpha(char) || unicode::is_numeric(char)),
        "isalpha" => all(unicode::is_alpha),
        "isascii" => string.is_ascii(),
        "isdecimal" => all(unicode::is_decimal),
        "isdigit" => all(unicode::is_digit),
        "isidentifier" => {
            let starts = string.starts_with(|char: char| unicode::is_alpha(char) || char == '_');
            starts && all(|char| char.is_alphanumeric() || char == '_')
        }
        "islower" => is_lower(string),
        "isnumeric" => all(unicode::is_numeric),
        "isprintable" => string.chars().all(unicode::is_printable),
        "isspace" => all(is_space),
        "istitle" => is_title(string),
        "isupper" => is_upper(string),
        _ => return Err(Error::runtime(format!("no method {name}"))),
    })
}

/// Which ends of a string are stripped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
    Both,
}

/// Without the characters in `chars` at its ends, or without white space.
pub(crate) fn strip(text: &Text, chars: &Value, side: Side) -> Result<Text> {
    let set: Option<Vec<char>> = match chars {
        Value::None => None,
        Value::Str(chars) => {
            let mut set: Vec<char> = chars.as_str().chars().collect();
            set.sort_unstable();
            Some(set)
        }
        other => {
            let found = other.type_name();
            return Err(Error::runtime(format!("strip arg must be None or str, not {found}")));
        }
    };
    let goes = |char: char| match &set {
        None => is_space(char),
        Some(set) => set.binary_search(&char).is_ok(),
    };
    let mut rest = text.as_str();
    if side != Side::Right {
        rest = rest.trim_start_matches(goes);
    }
    if side != Side::Left {
        rest = rest.trim_end_matches(goes);
    }
    Ok(text.part(rest))
}

/// Occurrences of `old` replaced, at most `count` of them unless it is negative.
pub(crate) fn replace(interp: &Interp<'_>, text: &Text, old: &Text, new: &Text, count: i128) -> Result<Text> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let string = text.as_str();
    let mut out = TextBuf::default();
    let mut from = 0;
    interp.budget.pay(text.len())?;
    for (at, found) in string.match_indices(old.as_str()).take(most) {
        interp.budget.pay(new.len() + 24)?;
        out.push_slice(text, from..at);
        out.push_text(new);
        from = at + found.len();
    }
    out.push_slice(text, from..text.len());
    Ok(out.finish())
}

fn missing(interp: &Interp<'_>, text: &Text, width: i128, fill: &Text) -> Result<usize> {
    if fill.as_str().chars().count() != 1 {
        return Err(Error::runtime("The fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.as_str().chars().count() as i128).max(0);
    let missing = u64::try_from(missing).unwrap_or(u64::MAX);
    interp.budget.pay_times(fill.len(), missing)?;
    Ok(missing as usize)
}

fn padded(text: &Text, left: usize, right: usize, fill: &Text) -> Text {
    let mut out = TextBuf::default();
    out.repeat(fill, left);
    out.push_text(text);
    out.repeat(fill, right);
    out.finish().with_markup(text.markup)
}

pub(crate) fn center(interp: &Interp<'_>, text: &Text, width: i128, fill: &Text) -> Result<Text> {
    let missing = missing(interp, text, width, fill)?;
    // An odd one goes to the left where the width is odd.
    let left = missing / 2 + (missing & (width.max(0) & 1) as usize);
    Ok(padded(text, left, missing - left, fill))
}

fn zfill(interp: &Interp<'_>, text: &Text, call: Call) -> Result<Value> {
    let [width] = call.positional("zfill", 1)?;
    let zero = Text::own("0");
    let missing = missing(interp, text, interp.int_arg(width, 0)?, &zero)?;
    let sign = usize::from(text.as_str().starts_with(['+', '-']));
    let mut out = TextBuf::default();
    out.push_slice(text, 0..sign);
    out.repeat(&zero, missing);
    out.push_slice(text, sign..text.len());
    Ok(Value::Str(out.finish().with_markup(text.markup)))
}

fn expand_tabs(interp: &Interp<'_>, text: &Text, call: Call) -> Result<Value> {
    let [size] = call.bind("expandtabs", ["tabsize"], 0)?;
    let size = usize::try_from(interp.int_arg(size, 8)?).unwrap_or(0);
    let mut out = TextBuf::default();
    let mut column = 0;
    for (char, origin) in text.chars() {
        match char {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                interp.budget.pay(spaces)?;
                column += spaces;
                (0..spaces).for_each(|_| out.push_char(' ', origin));
            }
            _ => {
                column = if matches!(char, '\n' | '\r') { 0 } else { column + 1 };
                out.push_char(char, origin);
            }
        }
    }
    Ok(Value::Str(out.finish().with_markup(text.markup)))
}

fn join(interp: &Interp<'_>, text: &Text, call: Call) -> Result<Value> {
    let [items] = call.positional("join", 1)?;
    let mut out = TextBuf::default();
    for (index, item) in interp.items(&items.unwrap_or(Value::None))?.into_iter().enumerate() {
        if index > 0 {
            interp.budget.pay(text.len())?;
            out.push_text(text);
        }
        let Value::Str(item) = item else {
            let found = item.type_name();
            return Err(Error::runtime(format!("sequence item {index}: expected str instance, {found} found")));
        };
        interp.budget.pay(item.len())?;
        if text.markup { out.push_text(&interp.escaped(&item)?) } else { out.push_text(&item) }
    }
    Ok(Value::Str(out.finish().with_markup(text.markup)))
}

pub(crate) fn is_line_break(char: char) -> bool {
    matches!(char, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// The lines of a text, with or without what ends them.
pub(crate) fn lines(text: &Text, keep_ends: bool) -> Vec<Text> {
    let string = text.as_str();
    let mut lines = Vec::new();
    let mut start = 0;
    while start < string.len() {
        let found = string[start..].char_indices().find(|(_, char)| is_line_break(*char));
        let (end, next) = match found {
            None => (string.len(), string.len()),
            Some((at, '\r')) if string[start + at..].starts_with("\r\n") => (start + at, start + at + 2),
            Some((at, char)) => (start + at, start + at + char.len_utf8()),
        };
        lines.push(text.slice(start..if keep_ends { next } else { end }));
        start = next;
    }
    lines
}

fn translate(interp: &Interp<'_>, text: &Text, call: Call) -> Result<Value> {
    let [table] = call.positional("translate", 1)?;
    let Some(Value::Dict(table)) = table else { return Err(Error::runtime("translate expects a mapping")) };
    let mut out = TextBuf::default();
    for (char, origin) in text.chars() {
        interp.budget.step()?;
        match table.0.get(&Key(Value::Int(char as i128))) {
            None => out.push_char(char, origin),
            Some(Value::None) => {}
            Some(Value::Str(new)) => {
                interp.budget.pay(new.len())?;
                out.push_text(new);
            }
            Some(other) => {
                let code = other.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
                out.push_char(
                    code.ok_or_else(|| Error::runtime("character mapping must be in range(0x110000)"))?,
                    origin,
                );
            }
        }
    }
    Ok(Value::Str(out.finish().with_markup(text.markup)))
}

fn make_table(interp: &Interp<'_>, call: Call) -> Result<Value> {
    let [from, to, without] = call.positional("maketrans", 1)?;
    let mut table = Dict::default();
    if to.is_none() {
        return Err(Error::runtime("maketrans of a mapping is not supported: write the mapping of codes"));
    }
    let (from, to, without) = (interp.text_arg(from, "")?, interp.text_arg(to, "")?, interp.text_arg(without, "")?);
    interp.budget.pay_elements(from.len() + without.len())?;
    if from.as_str().chars().count() != to.as_str().chars().count() {
        return Err(Error::runtime("the first two maketrans arguments must have equal length"));
    }
    for (from, to) in from.as_str().chars().zip(to.as_str().chars()) {
        table.0.insert(Key(Value::Int(from as i128)), Value::Int(to as i128));
    }
    for char in without.as_str().chars() {
        table.0.insert(Key(Value::Int(char as i128)), Value::None);
    }
    Ok(Value::dict(table))
}
