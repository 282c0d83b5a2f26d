//! Filters of strings.

use super::wrap;
use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::methods;
use crate::print;
use crate::text::{Origin, Text, TextBuf};
use crate::value::{Result, Value};

impl Interp<'_> {
    pub(super) fn string_filter(&self, name: &str, input: Value, call: Call) -> Result<Value> {
        match name {
            "indent" => return self.indent(&input, call),
            "truncate" => return self.truncate(&input, call),
            "wordwrap" => return self.wordwrap(&input, call),
            "pprint" => {
                call.positional::<0>(name, 0)?;
                return self.pprint(&input);
            }
            _ => {}
        }
        let text = self.text(&input)?;
        self.budget.pay(text.len() * 3)?;
        Ok(Value::Str(match name {
            "capitalize" | "lower" | "title" | "upper" | "string" => {
                call.positional::<0>(name, 0)?;
                // Character by character.
                self.budget.pay(if name == "string" { 0 } else { text.len() * 9 })?;
                match name {
                    "capitalize" => methods::capitalize(&text),
                    "lower" => methods::lower(&text),
                    "upper" => methods::upper(&text),
                    "title" => title(&text),
                    _ => text,
                }
            }
            "center" => {
                let [width] = call.bind(name, ["width"], 0)?;
                let width = self.int_arg(width, 80)?;
                methods::center(self, &text, width, &Text::own(" "))?
            }
            "format" => return self.format_filter(&text, call),
            "replace" => {
                let [old, new, count] = call.bind(name, ["old", "new", "count"], 2)?;
                let old = self.text(&old.unwrap_or(Value::None))?;
                let new = self.text(&new.unwrap_or(Value::None))?;
                let count = count.filter(|count| !matches!(count, Value::None));
                let count = self.int_arg(count, -1)?;
                methods::replace(self, &text, &old, &new, count)?.with_markup(text.markup)
            }
            "trim" => {
                let [chars] = call.bind(name, ["chars"], 0)?;
                methods::strip(&text, &chars.unwrap_or(Value::None), methods::Side::Both)?
            }
            "wordcount" => {
                call.positional::<0>(name, 0)?;
                self.budget.pay(text.len() * 9)?;
                let is_word = |char: char| char.is_alphanumeric() || char == '_' || crate::unicode::is_numeric(char);
                let words = text.as_str().split(|char| !is_word(char)).filter(|word| !word.is_empty()).count();
                return Ok(Value::Int(words as i128));
            }
            _ => return Err(Error::runtime(format!("No filter named {name:?} found."))),
        }))
    }

    fn format_filter(&self, text: &Text, call: Call) -> Result<Value> {
        if !call.args.is_empty() && !call.kwargs.is_empty() {
            return Err(Error::runtime("can't handle positional and keyword arguments at the same time"));
        }
        let args = if call.kwargs.is_empty() {
            Value::tuple(call.args)
        } else {
            let mut dict = crate::value::Dict::default();
            call.kwargs.into_iter().for_each(|(name, value)| dict.insert(name, value));
            Value::dict(dict)
        };
        self.percent(text, &args).map(Value::Str)
    }

    fn indent(&self, input: &Value, call: Call) -> Result<Value> {
        let [width, first, blank] = call.bind("indent", ["width", "first", "blank"], 0)?;
        let Value::Str(text) = input else { return Err(self.wrong_input("indent", input)) };
        let indention = match width {
            Some(Value::Str(text)) => text,
            other => {
                let width = self.int_arg(other, 4)?.max(0);
                self.budget.pay(u64::try_from(width).unwrap_or(u64::MAX))?;
                Text::own(" ".repeat(width as usize))
            }
        };
        let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
        let (first, blank) = (is_true(first), is_true(blank));
        // The newline that is added here never opens another line.
        let mut lines = methods::lines(text, false);
        if text.is_empty() || ends_with_line_break(text) {
            lines.push(text.slice(0..0));
        }
        self.budget.pay_elements(lines.len())?;
        self.budget.pay_times(indention.len() + 1, lines.len() as u64)?;
        self.budget.pay(text.len())?;
        let mut out = TextBuf::default();
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                out.push("\n", Origin::Own);
            }
            if if index == 0 { first } else { blank || !line.is_empty() } {
                out.push_text(&indention);
            }
            out.push_text(line);
        }
        Ok(Value::Str(out.finish().with_markup(text.markup)))
    }

    fn truncate(&self, input: &Value, call: Call) -> Result<Value> {
        let names = ["length", "killwords", "end", "leeway"];
        let [length, killwords, end, leeway] = call.bind("truncate", names, 0)?;
        let length = self.int_arg(length, 255)?;
        let end = self.text_arg(end, "...")?;
        let leeway = self.int_arg(leeway.filter(|value| !matches!(value, Value::None)), 5)?;
        let end_chars = end.as_str().chars().count() as i128;
        if length < end_chars || leeway < 0 {
            return Err(Error::runtime(format!("expected length >= {end_chars}, got {length}")));
        }
        let Value::Str(text) = input else {
            return match input.length() {
                Some(len) if len as i128 <= length + leeway => Ok(input.clone()),
                _ => Err(self.wrong_input("truncate", input)),
            };
        };
        self.budget.pay(text.len() * 2 + end.len())?;
        if text.as_str().chars().count() as i128 <= length + leeway {
            return Ok(input.clone());
        }
        let kept = usize::try_from(length - end_chars).unwrap_or(usize::MAX);
        let cut = text.as_str().char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
        let mut kept = &text.as_str()[..cut];
        if !killwords.is_some_and(|value| value.is_true()) {
            kept = kept.rsplit_once(' ').map_or(kept, |(before, _)| before);
        }
        self.add_texts(&text.part(kept).with_markup(text.markup), &end).map(Value::Str)
    }

    fn wordwrap(&self, input: &Value, call: Call) -> Result<Value> {
        let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
        let [width, long, wrapstring, hyphens] = call.bind("wordwrap", names, 0)?;
        let width = self.int_arg(width, 79)?;
        let Value::Str(text) = input else { return Err(self.wrong_input("wordwrap", input)) };
        let wrapstring = wrapstring.filter(|value| !matches!(value, Value::None));
        let wrapstring = self.text_arg(wrapstring, "\n")?;
        let is_true = |value: Option<Value>| value.is_none_or(|value| value.is_true());
        let style = wrap::Style { break_long_words: is_true(long), break_on_hyphens: is_true(hyphens) };
        self.budget.pay_times(text.len(), 8)?;
        self.budget.pay_elements(text.len() / 8)?;
        let mut out = TextBuf::default();
        for (index, line) in methods::lines(text, false).into_iter().enumerate() {
            if index > 0 {
                self.budget.pay(wrapstring.len())?;
                out.push_text(&wrapstring);
            }
            if width <= 0 {
                return Err(Error::runtime(format!("invalid width {width} (must be > 0)")));
            }
            let width = usize::try_from(width).unwrap_or(usize::MAX);
            for (index, part) in wrap::wrap(&line, width, style).into_iter().enumerate() {
                if index > 0 {
                    self.budget.pay(wrapstring.len())?;
                    out.push_text(&wrapstring);
                }
                out.push_text(&part);
            }
        }
        Ok(Value::Str(out.finish()))
    }

    /// Only what fits on one line: Python's `pprint` breaks and sorts what is larger.
    fn pprint(&self, input: &Value) -> Result<Value> {
        let text = print::repr(input, &self.budget)?;
        let breaks =
            text.as_str().chars().count() > 80 || matches!(input, Value::Str(text) if text.as_str().contains('\n'));
        let sorts = matches!(input, Value::Dict(dict) if dict.0.len() > 1);
        if breaks || sorts || matches!(input, Value::Generator(_)) {
            return Err(Error::runtime("pprint of a value that needs more than one line is not supported"));
        }
        Ok(Value::Str(text))
    }
}

fn ends_with_line_break(text: &Text) -> bool {
    // A carriage return becomes one line break with the newline behind it.
    text.as_str().ends_with(|char| char != '\r' && methods::is_line_break(char))
}

/// A capital for the first letter of each word; words begin after white space and opening brackets.
fn title(text: &Text) -> Text {
    let mut first = true;
    text.map_chars(|char| {
        let begins = first;
        let separates = matches!(char, '-' | '(' | '{' | '[' | '<') || crate::lexer::is_space(char);
        first = separates;
        if begins && !separates { char.to_uppercase().collect::<Vec<_>>() } else { char.to_lowercase().collect() }
    })
}
