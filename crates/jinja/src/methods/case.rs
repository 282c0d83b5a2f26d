//! Upper and lower case.

use crate::text::{Text, TextBuf};
use crate::unicode::to_title;

pub(crate) fn upper(text: &Text) -> Text {
    text.map_chars(char::to_uppercase)
}

pub(crate) fn lower(text: &Text) -> Text {
    let string = text.as_str();
    if !string.contains('Σ') {
        return text.map_chars(char::to_lowercase);
    }
    // The last sigma of a word has a form of its own.
    let mut out = TextBuf::default();
    for ((at, char), (_, origin)) in string.char_indices().zip(text.chars()) {
        if char == 'Σ' {
            out.push_char(if is_final_sigma(string, at) { 'ς' } else { 'σ' }, origin);
        } else {
            char.to_lowercase().for_each(|char| out.push_char(char, origin));
        }
    }
    out.finish().with_markup(text.markup)
}

fn is_cased(char: char) -> bool {
    char.is_lowercase() || char.is_uppercase() || matches!(char, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

fn is_final_sigma(string: &str, at: usize) -> bool {
    let ignorable = |char: &char| matches!(char, '\'' | '.' | ':' | '^' | '`' | '’' | '\u{ad}' | '\u{300}'..='\u{36f}');
    let before = string[..at].chars().rev().find(|char| !ignorable(char)).is_some_and(is_cased);
    let after = string[at + 'Σ'.len_utf8()..].chars().find(|char| !ignorable(char)).is_some_and(is_cased);
    before && !after
}

pub(crate) fn capitalize(text: &Text) -> Text {
    let lowered = lower(text);
    let mut out = TextBuf::default();
    let Some((first, origin)) = text.chars().next() else { return text.clone() };
    to_title(first).into_iter().for_each(|char| out.push_char(char, origin));
    let rest = first.to_lowercase().map(char::len_utf8).sum();
    out.push_slice(&lowered, rest..lowered.len());
    out.finish().with_markup(text.markup)
}

/// Python's `title`: every letter behind something that is no letter is large.
pub(super) fn title(text: &Text) -> Text {
    let lowered = lower(text);
    let mut inside = false;
    let mut out = TextBuf::default();
    let mut small = lowered.chars();
    for (char, origin) in text.chars() {
        let lower: Vec<char> = small.by_ref().take(char.to_lowercase().count()).map(|(char, _)| char).collect();
        let new = if inside { lower } else { to_title(char) };
        new.into_iter().for_each(|char| out.push_char(char, origin));
        inside = is_cased(char);
    }
    out.finish().with_markup(text.markup)
}

pub(super) fn swap(text: &Text) -> Text {
    let string = text.as_str();
    let mut out = TextBuf::default();
    for ((at, char), (_, origin)) in string.char_indices().zip(text.chars()) {
        if char == 'Σ' {
            out.push_char(if is_final_sigma(string, at) { 'ς' } else { 'σ' }, origin);
        } else if char.is_uppercase() {
            char.to_lowercase().for_each(|char| out.push_char(char, origin));
        } else if char.is_lowercase() {
            char.to_uppercase().for_each(|char| out.push_char(char, origin));
        } else {
            out.push_char(char, origin);
        }
    }
    out.finish().with_markup(text.markup)
}

pub(super) fn casefold(text: &Text) -> Text {
    text.map_chars(|char| match char {
        'ß' | 'ẞ' => vec!['s', 's'],
        'ς' => vec!['σ'],
        'ſ' => vec!['s'],
        'µ' => vec!['μ'],
        'ŉ' => vec!['ʼ', 'n'],
        'ﬀ'..='ﬆ' => char.to_uppercase().flat_map(char::to_lowercase).collect(),
        _ => char.to_lowercase().collect(),
    })
}

pub(crate) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|char| is_cased(char) && !char.is_lowercase())
}

pub(crate) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|char| is_cased(char) && !char.is_uppercase())
}

pub(super) fn is_title(text: &str) -> bool {
    let (mut inside, mut found) = (false, false);
    for char in text.chars() {
        if char.is_lowercase() {
            if !inside {
                return false;
            }
        } else if is_cased(char) {
            if inside {
                return false;
            }
        } else {
            inside = false;
            continue;
        }
        (inside, found) = (true, true);
    }
    found
}
