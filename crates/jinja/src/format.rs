//! Formatting: `'%s' % value`, and `str.format` as the sandbox runs it.

use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::print;
use crate::text::{Origin, Text, TextBuf};
use crate::value::{Result, Value};

mod number;
mod spec;

use spec::{Align, Spec};

/// What `%` takes its values from.
struct Values<'v> {
    value: &'v Value,
    used: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        let value = match self.value {
            Value::Tuple(items, _) => items.get(self.used).cloned(),
            other => (self.used == 0).then(|| other.clone()),
        };
        self.used += 1;
        value.ok_or_else(|| Error::runtime("not enough arguments for format string"))
    }

    fn next_int(&mut self) -> Result<i128> {
        self.next()?.as_int().ok_or_else(|| Error::runtime("* wants int"))
    }

    fn finish(&self) -> Result<()> {
        let complete = match self.value {
            Value::Tuple(items, _) => self.used >= items.len(),
            // What can be subscripted may go unused.
            Value::Dict(_) | Value::List(_) | Value::Undefined(_) | Value::Range(_) => true,
            Value::Object(_) => self.used > 0,
            _ => self.used > 0,
        };
        if complete { Ok(()) } else { Err(Error::runtime("not all arguments converted during string formatting")) }
    }
}

impl Interp<'_> {
    /// `format % value`.
    pub(crate) fn percent(&self, format: &Text, value: &Value) -> Result<Text> {
        let string = format.as_str();
        self.budget.pay(format.len())?;
        let mut values = Values { value, used: 0 };
        let mut out = TextBuf::default();
        let mut from = 0;
        while let Some(at) = string[from..].find('%').map(|at| from + at) {
            out.push_slice(format, from..at);
            from = self.conversion(format, at, &mut values, &mut out)?;
        }
        out.push_slice(format, from..format.len());
        values.finish()?;
        Ok(out.finish().with_markup(format.markup))
    }

    /// One `%…` at byte `at`; returns where it ends.
    fn conversion(&self, format: &Text, at: usize, values: &mut Values<'_>, out: &mut TextBuf) -> Result<usize> {
        let incomplete = || Error::runtime("incomplete format");
        let string = format.as_str();
        let mut rest = &string[at + 1..];
        let mut keyed = None;
        if let Some(after) = rest.strip_prefix('(') {
            let mut depth = 1;
            let end = after.find(|char| {
                depth += i32::from(char == '(') - i32::from(char == ')');
                depth == 0
            });
            let end = end.ok_or_else(|| Error::runtime("incomplete format key"))?;
            keyed = Some(format.part(&after[..end]));
            rest = &after[end + 1..];
        }
        let mut spec = Spec { sign: '-', ..Spec::default() };
        while let Some(flag) = rest.chars().next().filter(|flag| "-+ #0".contains(*flag)) {
            match flag {
                '-' => spec.align = Some(Align::Left),
                '+' => spec.sign = '+',
                ' ' if spec.sign == '-' => spec.sign = ' ',
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => {}
            }
            rest = &rest[1..];
        }
        let mut number = |rest: &mut &str| -> Result<Option<i128>> {
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                return values.next_int().map(Some);
            }
            let end = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            *rest = after;
            if digits.is_empty() { Ok(None) } else { digits.parse().map(Some).map_err(|_| spec::too_large()) }
        };
        let width = number(&mut rest)?.unwrap_or(0);
        if width < 0 {
            spec.align = Some(Align::Left);
        }
        spec.width = self.count(width.abs())?;
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(self.count(number(&mut rest)?.unwrap_or(0).max(0))?);
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let kind = rest.chars().next().ok_or_else(incomplete)?;
        let end = string.len() - rest.len() + kind.len_utf8();
        if kind == '%' {
            out.push_slice(format, end - 1..end);
            return Ok(end);
        }
        let value = match keyed {
            Some(key) => {
                let Value::Dict(dict) = values.value else { return Err(Error::runtime("format requires a mapping")) };
                values.used = 1;
                dict.get(key.as_str()).cloned().ok_or_else(|| Error::runtime(format!("no key '{}'", key.as_str())))?
            }
            None => values.next()?,
        };
        let text = self.converted(format, &value, kind, &mut spec)?;
        let text = if format.markup && matches!(kind, 's' | 'r' | 'a') { self.escaped(&text)? } else { text };
        self.write_padded(&text, &spec, Align::Right, out)?;
        Ok(end)
    }

    fn converted(&self, format: &Text, value: &Value, kind: char, spec: &mut Spec) -> Result<Text> {
        let origin = format.origin();
        match kind {
            's' | 'r' | 'a' => {
                let text = match kind {
                    's' => self.text(value)?,
                    'r' => print::repr(value, &self.budget)?,
                    _ => return Err(Error::runtime("%a is not supported")),
                };
                spec.zero = false;
                Ok(spec.precision.map_or(text.clone(), |most| first_chars(&text, most)))
            }
            'c' => {
                spec.zero = false;
                match value {
                    Value::Str(text) if text.as_str().chars().count() == 1 => Ok(text.clone()),
                    other => {
                        let code = other.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
                        let char = code.ok_or_else(|| Error::runtime("%c requires int or char"))?;
                        Ok(Text::new(char.to_string(), origin))
                    }
                }
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let number = match value {
                    Value::Float(value) if matches!(kind, 'd' | 'i' | 'u') => crate::numbers::truncated(*value)?,
                    other => other.as_int().ok_or_else(|| {
                        Error::runtime(format!("%{kind} format: a real number is required, not {}", other.type_name()))
                    })?,
                };
                let kind = if matches!(kind, 'i' | 'u') { 'd' } else { kind };
                Ok(Text::new(number::percent_int(number, kind, spec), origin))
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = crate::numbers::as_float(value)
                    .ok_or_else(|| Error::runtime(format!("must be real number, not {}", value.type_name())))?;
                Ok(Text::new(number::signed_float(number, kind, spec)?, origin))
            }
            _ => Err(Error::runtime(format!("unsupported format character '{kind}'"))),
        }
    }

    fn count(&self, count: i128) -> Result<usize> {
        let count = u64::try_from(count).map_err(|_| spec::too_large())?;
        self.budget.pay(count)?;
        Ok(count as usize)
    }

    /// A text filled up to the width; signs stay in front of zeros.
    fn write_padded(&self, text: &Text, spec: &Spec, default: Align, out: &mut TextBuf) -> Result<()> {
        let missing = spec.width.saturating_sub(text.as_str().chars().count());
        let zero = Text::own("0");
        let space = Text::own(" ");
        let fill = match &spec.fill {
            Some(fill) => fill,
            None if spec.zero && spec.align.is_none_or(|align| align == Align::Sign) => &zero,
            None => &space,
        };
        self.budget.pay(text.len())?;
        self.budget.pay_times(fill.len(), missing as u64)?;
        let align = match spec.align {
            Some(align) => align,
            None if spec.zero => Align::Sign,
            None => default,
        };
        let (left, right) = match align {
            Align::Left => (0, missing),
            Align::Right | Align::Sign => (missing, 0),
            Align::Center => (missing / 2, missing - missing / 2),
        };
        let sign = if align == Align::Sign { number::prefix_bytes(text.as_str()) } else { 0 };
        out.push_slice(text, 0..sign);
        out.repeat(fill, left);
        out.push_slice(text, sign..text.len());
        out.repeat(fill, right);
        Ok(())
    }

    /// `format.format(…)`.
    pub(crate) fn format(&self, format: &Text, call: Call) -> Result<Text> {
        let mut fields = Fields { call: &call, next: Some(0), manual: false };
        let text = self.format_fields(format, &mut fields, 3)?;
        Ok(text.with_markup(format.markup))
    }

    fn format_fields(&self, format: &Text, fields: &mut Fields<'_>, depth: u32) -> Result<Text> {
        if depth == 0 {
            return Err(Error::runtime("Max string recursion exceeded"));
        }
        let string = format.as_str();
        self.budget.pay(format.len())?;
        let mut out = TextBuf::default();
        let mut from = 0;
        while let Some(at) = string[from..].find(['{', '}']).map(|at| from + at) {
            out.push_slice(format, from..at);
            let brace = &string[at..at + 1];
            if string[at + 1..].starts_with(brace) {
                out.push_slice(format, at..at + 1);
                from = at + 2;
                continue;
            }
            if brace == "}" {
                return Err(Error::runtime("Single '}' encountered in format string"));
            }
            let end = end_of_field(string, at + 1)?;
            self.field(format, at + 1..end, fields, depth, &mut out)?;
            from = end + 1;
        }
        out.push_slice(format, from..format.len());
        Ok(out.finish())
    }

    fn field(
        &self,
        format: &Text,
        range: std::ops::Range<usize>,
        fields: &mut Fields<'_>,
        depth: u32,
        out: &mut TextBuf,
    ) -> Result<()> {
        self.budget.step()?;
        let field = &format.as_str()[range];
        let mut bracket = false;
        let name_end = field.find(|char| {
            bracket = (bracket || char == '[') && char != ']';
            !bracket && matches!(char, '!' | ':')
        });
        let (name, mut rest) = field.split_at(name_end.unwrap_or(field.len()));
        let mut conversion = None;
        if let Some(after) = rest.strip_prefix('!') {
            let mut chars = after.chars();
            conversion =
                Some(chars.next().ok_or_else(|| Error::runtime("end of string while looking for conversion"))?);
            rest = chars.as_str();
            if !rest.is_empty() && !rest.starts_with(':') {
                return Err(Error::runtime("expected ':' after conversion specifier"));
            }
        }
        let spec = format.part(rest.strip_prefix(':').unwrap_or(rest));
        let mut value = self.field_value(&format.part(name), fields)?;
        value = match conversion {
            None => value,
            Some('s') => Value::Str(self.text(&value)?),
            Some('r') => Value::Str(print::repr(&value, &self.budget)?),
            Some(other) => return Err(Error::runtime(format!("Unknown conversion specifier {other}"))),
        };
        let spec = self.format_fields(&spec, fields, depth - 1)?;
        let text = self.formatted(&value, &spec, format.origin())?;
        let text = if format.markup { self.escaped(&text)? } else { text };
        self.budget.pay(text.len())?;
        out.push_text(&text);
        Ok(())
    }

    fn field_value(&self, name: &Text, fields: &mut Fields<'_>) -> Result<Value> {
        let string = name.as_str();
        let first_end = string.find(['.', '[']).unwrap_or(string.len());
        let (first, mut rest) = string.split_at(first_end);
        let mut value = fields.get(first)?;
        while !rest.is_empty() {
            self.budget.step()?;
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                if end == 0 {
                    return Err(Error::runtime("Empty attribute in format string"));
                }
                value = self.attribute(&value, &name.part(&after[..end]))?;
                rest = &after[end..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = after.find(']').ok_or_else(|| Error::runtime("Missing ']' in format string"))?;
                let key = &after[..end];
                let index = if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit()) {
                    Value::Int(key.parse().map_err(|_| spec::too_large())?)
                } else {
                    Value::Str(name.part(key))
                };
                if key.is_empty() {
                    return Err(Error::runtime("Empty attribute in format string"));
                }
                value = self.item(&value, &index)?;
                rest = &after[end + 1..];
            } else {
                return Err(Error::runtime("Only '.' or '[' may follow ']' in format field specifier"));
            }
        }
        Ok(value)
    }

    /// Python's `format(value, spec)`.
    fn formatted(&self, value: &Value, spec: &Text, origin: Origin) -> Result<Text> {
        if spec.is_empty() {
            return self.text(value);
        }
        let mut parsed = Spec::parse(spec)?;
        self.budget.pay(parsed.width + parsed.precision.unwrap_or(0))?;
        let mut out = TextBuf::default();
        match value {
            Value::Str(text) => {
                parsed.check_text()?;
                let text = parsed.precision.map_or(text.clone(), |most| first_chars(text, most));
                if parsed.zero && parsed.align.is_none() {
                    parsed.align = Some(Align::Left);
                    parsed.fill.get_or_insert_with(|| Text::own("0"));
                }
                self.write_padded(&text, &parsed, Align::Left, &mut out)?;
            }
            Value::Int(_) | Value::Bool(_) | Value::Float(_) => {
                let text = number::format(value, &mut parsed)?;
                self.write_padded(&Text::new(text, origin), &parsed, Align::Right, &mut out)?;
            }
            Value::Undefined(message) => return Err(Error::runtime(&**message)),
            other => {
                let found = other.type_name();
                return Err(Error::runtime(format!("unsupported format string passed to {found}.__format__")));
            }
        }
        Ok(out.finish())
    }
}

fn first_chars(text: &Text, most: usize) -> Text {
    let end = text.as_str().char_indices().nth(most).map_or(text.len(), |(at, _)| at);
    text.slice(0..end)
}

/// Where the field that begins at `from` ends, fields in its specification included.
fn end_of_field(string: &str, from: usize) -> Result<usize> {
    let mut depth = 1;
    let mut bracket = false;
    for (at, char) in string[from..].char_indices() {
        match char {
            '[' if depth == 1 => bracket = true,
            ']' => bracket = false,
            '{' if !bracket => depth += 1,
            '}' if !bracket => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(from + at);
        }
    }
    let message = if string.len() == from {
        "Single '{' encountered in format string"
    } else {
        "expected '}' before end of string"
    };
    Err(Error::runtime(message))
}

/// The arguments of `format`, numbered by it or by the format string.
struct Fields<'c> {
    call: &'c Call,
    next: Option<usize>,
    manual: bool,
}

impl Fields<'_> {
    fn get(&mut self, name: &str) -> Result<Value> {
        let index = if name.is_empty() {
            if self.manual {
                return Err(Error::runtime(
                    "cannot switch from manual field specification to automatic field numbering",
                ));
            }
            let index = self.next.unwrap_or(0);
            self.next = Some(index + 1);
            Some(index)
        } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
            if self.next.is_some_and(|next| next > 0) {
                return Err(Error::runtime(
                    "cannot switch from automatic field numbering to manual field specification",
                ));
            }
            self.manual = true;
            Some(name.parse().map_err(|_| spec::too_large())?)
        } else {
            None
        };
        let found = match index {
            Some(index) => self.call.args.get(index).cloned(),
            None => self.call.kwargs.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value.clone()),
        };
        found.ok_or_else(|| Error::runtime(format!("no argument '{name}' for the format string")))
    }
}
