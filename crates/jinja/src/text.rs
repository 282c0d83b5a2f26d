//! Strings that know, byte by byte, whether the template spelled them or its input did.

use std::ops::Range;
use std::sync::Arc;

/// Who spelled a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The template, or a value that the caller vouches for.
    Own,
    /// Values that the template was given.
    Input,
}

/// A stretch of one origin; it begins where its predecessor ends.
#[derive(Clone, Copy, Debug)]
struct Run {
    end: usize,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Runs {
    All(Origin),
    Mixed(Arc<[Run]>),
}

/// An immutable string with the origin of each of its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    string: Arc<str>,
    runs: Runs,
    /// Python's `Markup`: text that `escape` leaves alone, and that escapes what is added to it.
    pub(crate) markup: bool,
}

impl Text {
    pub(crate) fn new(string: impl Into<Arc<str>>, origin: Origin) -> Text {
        Text { string: string.into(), runs: Runs::All(origin), markup: false }
    }

    pub(crate) fn own(string: impl Into<Arc<str>>) -> Text {
        Text::new(string, Origin::Own)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.string
    }

    pub(crate) fn len(&self) -> usize {
        self.string.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.string.is_empty()
    }

    pub(crate) fn same_as(&self, other: &Text) -> bool {
        Arc::ptr_eq(&self.string, &other.string)
    }

    /// `Own` only if all of it is.
    pub(crate) fn origin(&self) -> Origin {
        match &self.runs {
            Runs::All(origin) => *origin,
            Runs::Mixed(_) => Origin::Input,
        }
    }

    pub(crate) fn with_markup(mut self, markup: bool) -> Text {
        self.markup = markup;
        self
    }

    /// The pieces of `range`, each of one origin.
    fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Origin)> + '_ {
        let (first, all) = match &self.runs {
            Runs::All(origin) => (0, Some((range.clone(), *origin))),
            Runs::Mixed(runs) => (runs.partition_point(|run| run.end <= range.start), None),
        };
        let runs: &[Run] = match &self.runs {
            Runs::All(_) => &[],
            Runs::Mixed(runs) => &runs[first.min(runs.len())..],
        };
        let mut at = range.start;
        all.into_iter().chain(
            runs.iter()
                .map(move |run| {
                    let piece = at..run.end.min(range.end);
                    at = piece.end;
                    (piece, run.origin)
                })
                .take_while(|(piece, _)| !piece.is_empty()),
        )
    }

    /// A part of the text, by bytes.
    pub(crate) fn slice(&self, range: Range<usize>) -> Text {
        if range == (0..self.len()) {
            return self.clone();
        }
        if let Runs::All(origin) = self.runs {
            return Text::new(&self.string[range], origin).with_markup(self.markup);
        }
        let mut out = TextBuf::default();
        out.push_slice(self, range);
        out.finish().with_markup(self.markup)
    }

    /// A part of the text that is a subslice of [`Text::as_str`].
    pub(crate) fn part(&self, part: &str) -> Text {
        let start = part.as_ptr() as usize - self.string.as_ptr() as usize;
        self.slice(start..start + part.len())
    }

    /// The characters with their origins.
    pub(crate) fn chars(&self) -> impl Iterator<Item = (char, Origin)> + '_ {
        self.pieces(0..self.len())
            .flat_map(|(range, origin)| self.string[range].chars().map(move |char| (char, origin)))
    }

    /// The text with each character replaced.
    pub(crate) fn map_chars<I: IntoIterator<Item = char>>(&self, mut change: impl FnMut(char) -> I) -> Text {
        let mut out = TextBuf::default();
        for (char, origin) in self.chars() {
            for new in change(char) {
                out.push_char(new, origin);
            }
        }
        out.finish().with_markup(self.markup)
    }
}

/// A text being written.
#[derive(Debug, Default)]
pub(crate) struct TextBuf {
    string: String,
    runs: Vec<Run>,
}

impl TextBuf {
    pub(crate) fn len(&self) -> usize {
        self.string.len()
    }

    fn extend_run(&mut self, origin: Origin) {
        let end = self.string.len();
        match self.runs.last_mut() {
            Some(run) if run.origin == origin => run.end = end,
            _ => self.runs.push(Run { end, origin }),
        }
    }

    pub(crate) fn push(&mut self, string: &str, origin: Origin) {
        if !string.is_empty() {
            self.string.push_str(string);
            self.extend_run(origin);
        }
    }

    pub(crate) fn push_char(&mut self, char: char, origin: Origin) {
        self.string.push(char);
        self.extend_run(origin);
    }

    pub(crate) fn push_text(&mut self, text: &Text) {
        self.push_slice(text, 0..text.len());
    }

    pub(crate) fn push_slice(&mut self, text: &Text, range: Range<usize>) {
        for (piece, origin) in text.pieces(range) {
            self.push(&text.string[piece], origin);
        }
    }

    pub(crate) fn repeat(&mut self, text: &Text, count: usize) {
        for _ in 0..count {
            self.push_text(text);
        }
    }

    pub(crate) fn finish(self) -> Text {
        let runs = match self.runs.as_slice() {
            [] => Runs::All(Origin::Own),
            [run] => Runs::All(run.origin),
            runs => Runs::Mixed(runs.into()),
        };
        Text { string: self.string.into(), runs, markup: false }
    }

    /// The string and the ranges that the template spelled.
    pub(crate) fn into_parts(self) -> (String, Vec<Range<usize>>) {
        let mut start = 0;
        let mut own = Vec::new();
        for run in self.runs {
            if run.origin == Origin::Own {
                own.push(start..run.end);
            }
            start = run.end;
        }
        (self.string, own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed() -> Text {
        let mut out = TextBuf::default();
        out.push("ab", Origin::Own);
        out.push("cde", Origin::Input);
        out.push("", Origin::Own);
        out.push("f", Origin::Input);
        out.push("g", Origin::Own);
        out.finish()
    }

    fn origins(text: &Text) -> String {
        text.chars()
            .map(|(char, origin)| if origin == Origin::Own { char } else { char.to_ascii_uppercase() })
            .collect()
    }

    #[test]
    fn slices_keep_the_origin_of_every_byte() {
        let text = mixed();
        for start in 0..=7 {
            for end in start..=7 {
                assert_eq!(origins(&text.slice(start..end)), "abCDEFg"[start..end], "{start}..{end}");
            }
        }
        assert_eq!(text.origin(), Origin::Input);
        assert_eq!(text.slice(2..5).origin(), Origin::Input);
        assert_eq!(text.slice(6..7).origin(), Origin::Own);
    }

    #[test]
    fn own_ranges_are_merged_and_sorted() {
        let mut out = TextBuf::default();
        out.push_text(&mixed());
        out.push_text(&mixed());
        assert_eq!(out.into_parts(), ("abcdefgabcdefg".to_owned(), vec![0..2, 6..9, 13..14]));
    }
}
