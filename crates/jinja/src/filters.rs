//! Jinja2's filters.

use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::json;
use crate::numbers;
use crate::print;
use crate::text::{Origin, Text};
use crate::value::{Result, Value, View};

mod html;
mod sequences;
mod strings;
mod wrap;

const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "items",
    "map",
    "min",
    "max",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
    "tojson",
];

pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

impl Interp<'_> {
    pub(crate) fn filter(&self, name: &str, input: Value, call: Call) -> Result<Value> {
        self.budget.step()?;
        match name {
            "abs" => {
                call.positional::<0>(name, 0)?;
                numbers::absolute(&input).unwrap_or_else(|| Err(self.wrong_input(name, &input)))
            }
            "attr" => {
                let [attr] = call.bind(name, ["name"], 1)?;
                self.attr_filter(&input, &attr.unwrap_or(Value::None))
            }
            "d" | "default" => {
                let [default, boolean] = call.bind(name, ["default_value", "boolean"], 0)?;
                let replaces = input.is_undefined() || boolean.is_some_and(|value| value.is_true()) && !input.is_true();
                Ok(if replaces { default.unwrap_or_else(|| Value::own("")) } else { input })
            }
            "count" | "length" => {
                call.positional::<0>(name, 0)?;
                if let Value::Str(text) = &input {
                    self.budget.pay(text.len())?;
                }
                let length = input.length().ok_or_else(|| self.wrong_input("len", &input))?;
                Ok(Value::Int(length as i128))
            }
            "int" => self.int_filter(&input, call),
            "float" => {
                let [default] = call.bind(name, ["default"], 0)?;
                self.float_of(&input)?
                    .map_or_else(|| Ok(default.unwrap_or(Value::Float(0.0))), |value| Ok(Value::Float(value)))
            }
            "round" => self.round_filter(&input, call),
            "random" => Err(Error::runtime("random: a prompt must not be")),
            "items" => {
                call.positional::<0>(name, 0)?;
                match &input {
                    Value::Undefined(_) => Ok(Value::generator(Vec::new(), None)),
                    Value::Dict(dict) => {
                        Ok(Value::generator(self.items(&Value::View(View::Items, dict.clone()))?, None))
                    }
                    _ => {
                        let error = Error::runtime("Can only get item pairs from a mapping.");
                        Ok(Value::generator(Vec::new(), Some(error)))
                    }
                }
            }
            "tojson" => self.tojson(&input, call),
            "filesizeformat" => self.file_size(&input, call),
            "batch" | "dictsort" | "first" | "groupby" | "join" | "last" | "list" | "map" | "min" | "max"
            | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice" | "sort" | "sum" | "unique" => {
                self.sequence_filter(name, input, call)
            }
            "e" | "escape" | "forceescape" | "safe" | "striptags" | "urlencode" | "urlize" | "xmlattr" => {
                self.html_filter(name, input, call)
            }
            _ if exists(name) => self.string_filter(name, input, call),
            _ => Err(Error::runtime(format!("No filter named {name:?} found."))),
        }
    }

    pub(crate) fn wrong_input(&self, name: &str, input: &Value) -> Error {
        match input {
            Value::Undefined(message) => Error::runtime(&**message),
            other => Error::runtime(format!("{name}: a value of type '{}' is not possible here", other.type_name())),
        }
    }

    /// `str(value)`, which leaves strings as they are.
    pub(crate) fn text(&self, value: &Value) -> Result<Text> {
        print::str(value, &self.budget)
    }

    /// An integer argument.
    pub(crate) fn int_arg(&self, value: Option<Value>, default: i128) -> Result<i128> {
        match value {
            None => Ok(default),
            Some(value) => value.as_int().ok_or_else(|| {
                let found = value.type_name();
                Error::runtime(format!("'{found}' object cannot be interpreted as an integer"))
            }),
        }
    }

    /// A string argument.
    pub(crate) fn text_arg(&self, value: Option<Value>, default: &str) -> Result<Text> {
        match value {
            None => Ok(Text::own(default)),
            Some(Value::Str(text)) => Ok(text),
            Some(other) => Err(Error::runtime(format!("expected a string, found '{}'", other.type_name()))),
        }
    }

    fn attr_filter(&self, input: &Value, name: &Value) -> Result<Value> {
        let Value::Str(name) = name else {
            return Err(Error::runtime("attr: the attribute's name must be a string"));
        };
        if input.is_undefined() {
            return Err(self.wrong_input("attr", input));
        }
        Ok(self.python_attribute(input, name)?.unwrap_or_else(|| {
            Value::undefined(format!("'{} object' has no attribute '{}'", input.type_name(), name.as_str()))
        }))
    }

    fn int_filter(&self, input: &Value, call: Call) -> Result<Value> {
        let [default, base] = call.bind("int", ["default", "base"], 0)?;
        if let Value::Str(text) = input {
            self.budget.pay(text.len() * 4)?;
        }
        let default = default.unwrap_or(Value::Int(0));
        if let Value::Str(text) = input {
            let base = self.int_arg(base, 10)?;
            if base != 0 && !(2..=36).contains(&base) {
                return Ok(self.float_as_int(input)?.unwrap_or(default));
            }
            if let Some(value) = numbers::parse_int(text.as_str(), base as u32)? {
                return Ok(Value::Int(value));
            }
        }
        if let Value::Float(value) = input
            && value.is_infinite()
        {
            // Python's filter does not expect an infinity here.
            return Err(Error::runtime("cannot convert float infinity to integer"));
        }
        match input.as_int() {
            Some(value) => Ok(Value::Int(value)),
            None => Ok(self.float_as_int(input)?.unwrap_or(default)),
        }
    }

    fn float_as_int(&self, input: &Value) -> Result<Option<Value>> {
        match self.float_of(input)? {
            Some(value) if value.is_finite() => numbers::truncated(value).map(|value| Some(Value::Int(value))),
            _ => Ok(None),
        }
    }

    /// Python's `float(value)`; none where that is a `TypeError` or `ValueError`.
    fn float_of(&self, input: &Value) -> Result<Option<f64>> {
        match input {
            Value::Undefined(message) => Err(Error::runtime(&**message)),
            Value::Str(text) => {
                self.budget.pay(text.len() * 4)?;
                Ok(numbers::parse_float(text.as_str()))
            }
            other => Ok(numbers::as_float(other)),
        }
    }

    fn round_filter(&self, input: &Value, call: Call) -> Result<Value> {
        let [precision, method] = call.bind("round", ["precision", "method"], 0)?;
        let method = self.text_arg(method, "common")?;
        let precision_given = precision.unwrap_or(Value::Int(0));
        let precision = self.int_arg(Some(precision_given), 0)?;
        let wrong = || self.wrong_input("round", input);
        if method.as_str() == "common" {
            return numbers::round(input, precision).unwrap_or_else(|| Err(wrong()));
        }
        if !matches!(method.as_str(), "ceil" | "floor") {
            return Err(Error::runtime("method must be common, ceil or floor"));
        }
        let value = numbers::as_float(input).ok_or_else(wrong)?;
        let exact = precision == 0 && input.as_int().is_some();
        let unit = 10f64.powi(precision.clamp(-400, 400) as i32);
        let scaled = value * unit;
        let whole = if method.as_str() == "ceil" { scaled.ceil() } else { scaled.floor() };
        if !exact {
            numbers::whole(whole)?;
        }
        if unit == 0.0 {
            return Err(Error::runtime("float division by zero"));
        }
        Ok(Value::Float(whole / unit))
    }

    fn tojson(&self, input: &Value, call: Call) -> Result<Value> {
        let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
        let [ensure_ascii, indent, separators, sort_keys] = call.bind("tojson", names, 0)?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Str(text)) => Some(text),
            Some(other) => {
                let width = self.int_arg(Some(other), 0)?.max(0);
                self.budget.pay(u64::try_from(width).unwrap_or(u64::MAX))?;
                Some(Text::new(" ".repeat(width as usize), Origin::Input))
            }
        };
        let generated = |text: &str| Text::new(text, Origin::Input);
        let (mut item, mut key) = (generated(if indent.is_some() { "," } else { ", " }), generated(": "));
        if let Some(separators) = separators.filter(|value| !matches!(value, Value::None)) {
            let pair: Result<[Value; 2]> =
                self.items(&separators)?.try_into().map_err(|_| Error::runtime("separators: expected two strings"));
            let [first, second] = pair?;
            item = self.text_arg(Some(first), "")?;
            key = self.text_arg(Some(second), "")?;
        }
        let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
        let style = json::Style {
            ensure_ascii: is_true(ensure_ascii),
            indent,
            item_separator: item,
            key_separator: key,
            sort_keys: is_true(sort_keys),
        };
        json::dump(input, &style, &self.budget).map(Value::Str)
    }

    fn file_size(&self, input: &Value, call: Call) -> Result<Value> {
        const PREFIXES: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
        let [binary] = call.bind("filesizeformat", ["binary"], 0)?;
        let binary = binary.is_some_and(|value| value.is_true());
        let base: f64 = if binary { 1024.0 } else { 1000.0 };
        let bytes = self.float_of(input)?.ok_or_else(|| self.wrong_input("filesizeformat", input))?;
        if bytes == 1.0 {
            return Ok(Value::own("1 Byte"));
        }
        if bytes < base {
            return Ok(Value::own(format!("{} Bytes", numbers::truncated(bytes)?)));
        }
        let mut power = 0;
        while power < 7 && bytes >= base.powi(power + 2) {
            power += 1;
        }
        let prefix = PREFIXES[power as usize];
        let unit = if binary { format!("{}iB", prefix.to_uppercase()) } else { format!("{prefix}B") };
        Ok(Value::own(format!("{:.1} {unit}", base * bytes / base.powi(power + 2))))
    }
}
