//! A template's source as tokens, with Jinja2's rules for white space around tags.
//!
//! As transformers sets it up: the newline behind a block tag goes (`trim_blocks`), and so does the white space before a
//! block tag that starts its line (`lstrip_blocks`).

use crate::error::Error;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
    End,
}

/// Longest first, so that the first match is the right one.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", ",", "|",
];

/// The tokens of `source` and the line of each.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, u32)>, Error> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { rest: &source, line: 1, line_starting: true, tokens: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.text_and_tag()?;
    }
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    /// Whether what was read last ended a line.
    line_starting: bool,
    tokens: Vec<(Token, u32)>,
}

impl<'s> Lexer<'s> {
    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Reads `bytes` and counts their lines.
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.line_starting = taken.ends_with('\n');
        self.rest = rest;
        taken
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::syntax(message, self.line)
    }

    /// Text up to the next tag, and the tag.
    fn text_and_tag(&mut self) -> Result<(), Error> {
        let bytes = self.rest.as_bytes();
        let tag = (0..bytes.len().saturating_sub(1))
            .find(|&at| bytes[at] == b'{' && matches!(bytes[at + 1], b'{' | b'%' | b'#'));
        let Some(tag) = tag else {
            let text = self.take(self.rest.len()).to_owned();
            self.tokens.push((Token::Data(text), self.line));
            return Ok(());
        };
        let kind = bytes[tag + 1];
        let sign = bytes.get(tag + 2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
        let text = self.text_before(tag, sign, kind != b'{');
        if !text.is_empty() {
            self.push(Token::Data(text));
        }
        self.take(tag);
        let raw_begin = if kind == b'%' { raw_tag(&self.rest[2..], "raw", false) } else { None };
        if let Some(bytes) = raw_begin {
            self.take(2 + bytes);
            return self.raw();
        }
        self.take(2 + usize::from(sign.is_some()));
        match kind {
            b'#' => self.comment(),
            b'%' => self.tag(Token::BlockBegin, Token::BlockEnd),
            _ => self.tag(Token::VariableBegin, Token::VariableEnd),
        }
    }

    /// The text of the next `end` bytes, without the white space that the tag behind it takes away.
    fn text_before(&self, end: usize, sign: Option<u8>, is_block: bool) -> String {
        let text = &self.rest[..end];
        match sign {
            Some(b'-') => text.trim_end_matches(is_space).to_owned(),
            None if is_block => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let starts_line = line > 0 || self.line_starting;
                let blank = text[line..].chars().all(is_space);
                if starts_line && blank { text[..line].to_owned() } else { text.to_owned() }
            }
            _ => text.to_owned(),
        }
    }

    fn comment(&mut self) -> Result<(), Error> {
        let Some(end) = self.rest.find("#}") else { return Err(self.error("Missing end of comment tag")) };
        let sign = self.rest[..end].bytes().last();
        self.take(end);
        self.end_of_tag(2, sign, true);
        Ok(())
    }

    /// Reads the `bytes` of a tag's end and the white space behind it that it takes away.
    fn end_of_tag(&mut self, bytes: usize, sign: Option<u8>, trims: bool) {
        let after = &self.rest[bytes..];
        let space = match sign {
            Some(b'-') => after.len() - after.trim_start_matches(is_space).len(),
            Some(b'+') => 0,
            _ => usize::from(trims && after.starts_with('\n')),
        };
        self.take(bytes + space);
    }

    /// The text of a raw block, whose beginning has been read.
    fn raw(&mut self) -> Result<(), Error> {
        let mut from = 0;
        loop {
            let Some(at) = self.rest[from..].find("{%").map(|at| from + at) else {
                return Err(self.error("Missing end of raw directive"));
            };
            if let Some(bytes) = raw_tag(&self.rest[at + 2..], "endraw", true) {
                let sign = self.rest.as_bytes().get(at + 2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
                let text = self.text_before(at, sign, true);
                if !text.is_empty() {
                    self.push(Token::Data(text));
                }
                self.take(at + 2 + bytes);
                return Ok(());
            }
            from = at + 2;
        }
    }

    /// The tokens of a tag, whose beginning has been read.
    fn tag(&mut self, begin: Token, end: Token) -> Result<(), Error> {
        let is_block = end == Token::BlockEnd;
        let close = if is_block { "%}" } else { "}}" };
        self.push(begin);
        let mut open: Vec<&'static str> = Vec::new();
        let mut after_dot = false;
        loop {
            if open.is_empty() {
                let sign = self.rest.bytes().next().filter(|sign| *sign == b'-' || *sign == b'+' && is_block);
                let signed = usize::from(sign.is_some());
                if self.rest.get(signed..).is_some_and(|rest| rest.starts_with(close)) {
                    self.push(end);
                    self.end_of_tag(signed + 2, sign, is_block);
                    return Ok(());
                }
            }
            let Some(char) = self.rest.chars().next() else {
                let expected = open.last().copied().unwrap_or(close);
                return Err(self.error(format!("unexpected end of template, expected {expected:?}")));
            };
            if is_space(char) {
                self.take(char.len_utf8());
                after_dot = false;
                continue;
            }
            self.one_token(char, after_dot, &mut open)?;
            after_dot = matches!(self.tokens.last(), Some((Token::Op("."), _)));
        }
    }

    fn one_token(&mut self, char: char, after_dot: bool, open: &mut Vec<&'static str>) -> Result<(), Error> {
        if char.is_ascii_digit() {
            return self.number(after_dot);
        }
        if char.is_alphabetic() || char == '_' {
            let end = self.rest.find(|char: char| !(char.is_alphanumeric() || char == '_'));
            let name = self.take(end.unwrap_or(self.rest.len())).to_owned();
            self.push(Token::Name(name));
            return Ok(());
        }
        if matches!(char, '\'' | '"') {
            let line = self.line;
            let end = end_of_string(self.rest, char as u8)
                .ok_or_else(|| self.error(format!("the string that {char} begins has no end")))?;
            let literal = self.take(end);
            let value = unescape(&literal[1..end - 1]).map_err(|message| Error::syntax(message, line))?;
            self.tokens.push((Token::Str(value), line));
            return Ok(());
        }
        let Some(op) = OPERATORS.into_iter().find(|op| self.rest.starts_with(op)) else {
            return Err(self.error(format!("unexpected char {char:?}")));
        };
        match op {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(op) => return Err(self.error(format!("unexpected '{op}'"))),
            _ => {}
        }
        self.push(Token::Op(op));
        self.take(op.len());
        Ok(())
    }

    fn number(&mut self, after_dot: bool) -> Result<(), Error> {
        let float = if after_dot { None } else { float_bytes(self.rest) };
        if let Some(bytes) = float {
            let digits = self.rest[..bytes].replace('_', "");
            self.push(Token::Float(digits.parse().map_err(|_| self.error("not a number"))?));
            self.take(bytes);
            return Ok(());
        }
        let (radix, start) = match self.rest.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, 2),
            [b'0', b'o' | b'O', ..] => (8, 2),
            [b'0', b'b' | b'B', ..] => (2, 2),
            _ => (10, 0),
        };
        let digits = grouped_digits(&self.rest[start..], start > 0, radix);
        if start > 0 && digits == 0 {
            self.push(Token::Int(0));
            self.take(1);
            return Ok(());
        }
        // A number does not begin with zeros, unless it is zero.
        let zero = start == 0 && self.rest.starts_with('0');
        let bytes = if zero { grouped_digits(self.rest, false, 1) } else { start + digits };
        let text = self.rest[start..bytes].replace('_', "");
        let value = if zero { Ok(0) } else { i128::from_str_radix(&text, radix) };
        self.push(Token::Int(value.map_err(|_| self.error("an integer of more than 127 bits"))?));
        self.take(bytes);
        Ok(())
    }
}

/// White space as Python has it.
pub(crate) fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\x1c'..='\x1f').contains(&char)
}

/// The bytes of a `raw` or `endraw` tag behind its `{%`.
fn raw_tag(rest: &str, name: &str, trims: bool) -> Option<usize> {
    let after = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let after = after.trim_start_matches(is_space).strip_prefix(name)?.trim_start_matches(is_space);
    let after = match after.strip_prefix("-%}") {
        Some(after) => after.trim_start_matches(is_space),
        None if trims => match after.strip_prefix("+%}") {
            Some(after) => after,
            None => {
                let after = after.strip_prefix("%}")?;
                after.strip_prefix('\n').unwrap_or(after)
            }
        },
        None => after.strip_prefix("%}")?,
    };
    Some(rest.len() - after.len())
}

/// How many bytes of digits there are, with single underscores between them. Radix 1 stands for zeros.
fn grouped_digits(text: &str, may_begin_with_underscore: bool, radix: u32) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| {
        bytes.get(at).is_some_and(|&byte| if radix == 1 { byte == b'0' } else { (byte as char).is_digit(radix) })
    };
    let mut end = 0;
    loop {
        if is_digit(end) {
            end += 1;
        } else if bytes.get(end) == Some(&b'_') && is_digit(end + 1) && (end > 0 || may_begin_with_underscore) {
            end += 2;
        } else {
            return end;
        }
    }
}

/// The bytes of a float at the start of `text`: digits, and then a fraction, an exponent or both.
fn float_bytes(text: &str) -> Option<usize> {
    let whole = grouped_digits(text, false, 10);
    let mut end = whole;
    if text.as_bytes().get(end) == Some(&b'.') {
        let digits = grouped_digits(&text[end + 1..], false, 10);
        end += if digits > 0 { 1 + digits } else { 0 };
    }
    if matches!(text.as_bytes().get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.as_bytes().get(end + 1), Some(b'+' | b'-')));
        let digits = grouped_digits(&text[end + 1 + sign..], false, 10);
        end += if digits > 0 { 1 + sign + digits } else { 0 };
    }
    (end > whole).then_some(end)
}

/// The bytes of a string literal with its quotes.
fn end_of_string(text: &str, quote: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// A literal's text, as Python's `unicode-escape` reads it.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        let Some(escaped) = chars.next() else { return Err("\\ at end of string".to_owned()) };
        let hex_digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        match escaped {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escaped),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '0'..='7' => {
                let mut code = escaped.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|char| char.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                out.push(char::from_u32(code).ok_or("not a character")?);
            }
            _ if hex_digits > 0 => {
                let digits: String = chars.by_ref().take(hex_digits).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == hex_digits);
                let char = code.filter(|_| !digits.starts_with('+')).and_then(char::from_u32);
                out.push(char.ok_or_else(|| format!("\\{escaped}{digits} is no character"))?);
            }
            'N' => return Err("\\N{…} is not supported: write the character itself".to_owned()),
            // Python's detour over ASCII makes the backslash escape that character's escape.
            _ if !escaped.is_ascii() => {
                let code = escaped as u32;
                out.push_str(&match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
            _ => {
                out.push('\\');
                out.push(escaped);
            }
        }
    }
    Ok(out)
}
