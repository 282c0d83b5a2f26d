//! Python's `textwrap.wrap`, for lines without line breaks.

use crate::lexer::is_space;
use crate::text::{Text, TextBuf};

#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) break_long_words: bool,
    pub(super) break_on_hyphens: bool,
}

/// The white space that `textwrap` knows.
fn is_wrap_space(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// `line` in lines of at most `width` characters.
pub(super) fn wrap(line: &Text, width: usize, style: Style) -> Vec<Text> {
    let mut chunks: Vec<Text> = chunks(line.as_str(), style).into_iter().map(|part| line.part(part)).collect();
    chunks.reverse();
    let chars = |text: &Text| text.as_str().chars().count();
    let blank = |text: &Text| text.as_str().trim_matches(is_space).is_empty();
    let mut lines = Vec::new();
    while !chunks.is_empty() {
        let mut current: Vec<Text> = Vec::new();
        let mut len = 0;
        if !lines.is_empty() && chunks.last().is_some_and(blank) {
            chunks.pop();
        }
        while let Some(chunk) = chunks.pop_if(|chunk| len + chars(chunk) <= width) {
            len += chars(&chunk);
            current.push(chunk);
        }
        if let Some(long) = chunks.pop_if(|chunk| chars(chunk) > width) {
            let room = width - len;
            if style.break_long_words {
                let cut = cut_of(long.as_str(), room, style);
                let (head, tail) = long.as_str().split_at(cut);
                current.push(long.part(head));
                chunks.push(long.part(tail));
            } else if current.is_empty() {
                current.push(long);
            } else {
                chunks.push(long);
            }
        }
        if current.last().is_some_and(blank) {
            current.pop();
        }
        if !current.is_empty() {
            let mut out = TextBuf::default();
            current.iter().for_each(|chunk| out.push_text(chunk));
            lines.push(out.finish());
        }
    }
    lines
}

/// Where a word that is longer than a line breaks: after the last hyphen that fits, else where the room ends.
fn cut_of(word: &str, room: usize, style: Style) -> usize {
    let end = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
    if style.break_on_hyphens
        && let Some(hyphen) = word[..end].rfind('-')
        && word[..hyphen].chars().any(|char| char != '-')
    {
        return hyphen + 1;
    }
    end
}

/// White space, words, and parts of words that end with a hyphen between letters.
fn chunks(line: &str, style: Style) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let space = is_wrap_space(first);
        let end = rest.find(|char| is_wrap_space(char) != space).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        if space || !style.break_on_hyphens { chunks.push(run) } else { split_at_hyphens(run, &mut chunks) }
    }
    chunks
}

fn split_at_hyphens<'l>(word: &'l str, chunks: &mut Vec<&'l str>) {
    let chars: Vec<(usize, char)> = word.char_indices().collect();
    let letter = |at: usize| chars.get(at).is_some_and(|(_, char)| char.is_alphabetic() || *char == '_');
    let hyphen = |at: usize| chars.get(at).is_some_and(|(_, char)| *char == '-');
    let is_word = |at: usize| {
        chars.get(at).is_some_and(|(_, char)| {
            char.is_alphanumeric() || matches!(char, '_' | '!' | '"' | '\'' | '&' | '.' | ',' | '?')
        })
    };
    let mut start = 0;
    let mut at = 0;
    while at < chars.len() {
        let mut end = at;
        while hyphen(end) {
            end += 1;
        }
        let byte = |at: usize| chars.get(at).map_or(word.len(), |(byte, _)| *byte);
        let dash = end - at >= 2
            && at > 0
            && is_word(at - 1)
            && chars.get(end).is_some_and(|(_, char)| char.is_alphanumeric() || *char == '_');
        let single = end - at == 1
            && at >= 2
            && letter(at - 1)
            && (letter(at - 2) || hyphen(at - 2) && at >= 3)
            && letter(at + 1)
            && (letter(at + 2) || hyphen(at + 2) && letter(at + 3));
        if dash {
            chunks.push(&word[byte(start)..byte(at)]);
            chunks.push(&word[byte(at)..byte(end)]);
            start = end;
        } else if single {
            chunks.push(&word[byte(start)..byte(end)]);
            start = end;
        }
        at = end.max(at + 1);
    }
    if start < chars.len() {
        chunks.push(&word[chars[start].0..]);
    }
}
