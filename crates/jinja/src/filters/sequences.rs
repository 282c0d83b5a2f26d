//! Filters of lists and mappings.

use crate::ast::BinaryOp;
use crate::error::{Error, ErrorKind};
use crate::eval::{Call, Interp};
use crate::text::TextBuf;
use crate::value::{Key, Result, TupleKind, Value};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::rc::Rc;

/// The parts of an attribute's path, and what stands in for one that is not there.
struct Getter {
    parts: Vec<Value>,
    default: Option<Value>,
    ignore_case: bool,
}

impl Interp<'_> {
    pub(super) fn sequence_filter(&self, name: &str, input: Value, call: Call) -> Result<Value> {
        match name {
            "batch" => self.batch(&input, call),
            "dictsort" => self.dictsort(&input, call),
            "first" => {
                call.positional::<0>(name, 0)?;
                let first = match &input {
                    Value::Generator(generator) => self.next_of(generator)?,
                    other => self.items(other)?.into_iter().next(),
                };
                Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
            }
            "groupby" => self.groupby(&input, call),
            "join" => self.join(&input, call),
            "last" => {
                call.positional::<0>(name, 0)?;
                if matches!(input, Value::Generator(_) | Value::Object(_)) {
                    return Err(self.wrong_input("last", &input));
                }
                let last = self.items(&input)?.pop();
                Ok(last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
            }
            "list" => {
                call.positional::<0>(name, 0)?;
                self.items(&input).map(Value::list)
            }
            "map" => self.map(&input, call),
            "min" | "max" => self.extreme(name, &input, call),
            "reject" | "rejectattr" | "select" | "selectattr" => self.select(name, &input, call),
            "reverse" => self.reverse(&input, call),
            "slice" => self.slices(&input, call),
            "sort" => self.sort(&input, call),
            "sum" => self.sum(&input, call),
            _ => self.unique(&input, call),
        }
    }

    fn getter(&self, attribute: Option<Value>, default: Option<Value>, ignore_case: bool) -> Result<Getter> {
        let parts = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(path)) => {
                self.budget.pay_elements(path.len())?;
                path.as_str()
                    .split('.')
                    .map(|part| {
                        let is_index = !part.is_empty() && part.chars().all(crate::unicode::is_digit);
                        match crate::numbers::parse_int(part, 10) {
                            Ok(Some(index)) if is_index => Value::Int(index),
                            _ => Value::Str(path.part(part)),
                        }
                    })
                    .collect()
            }
            Some(other) => vec![other],
        };
        Ok(Getter { parts, default: default.filter(|value| !matches!(value, Value::None)), ignore_case })
    }

    fn get(&self, getter: &Getter, item: &Value) -> Result<Value> {
        self.budget.step()?;
        let mut value = item.clone();
        for part in &getter.parts {
            value = self.item(&value, part)?;
            if let (Value::Undefined(_), Some(default)) = (&value, &getter.default) {
                value = default.clone();
            }
        }
        if getter.ignore_case { self.lowered(value) } else { Ok(value) }
    }

    /// Strings in lower case; anything else as it is.
    fn lowered(&self, value: Value) -> Result<Value> {
        match value {
            Value::Str(text) => {
                self.budget.pay(text.len() * 2)?;
                Ok(Value::Str(crate::methods::lower(&text)))
            }
            other => Ok(other),
        }
    }

    /// A lazy filter: the elements as far as `step` goes, and its failure behind them.
    fn lazily(&self, input: &Value, mut step: impl FnMut(Value, &mut Vec<Value>) -> Result<()>) -> Result<Value> {
        let mut out = Vec::new();
        let depth = self.budget.depth();
        let mut run = || self.items(input)?.into_iter().try_for_each(|item| step(item, &mut out));
        match run() {
            Err(error) if error.kind() == ErrorKind::Limit => Err(error),
            result => {
                self.budget.return_to(depth);
                Ok(Value::generator(out, result.err()))
            }
        }
    }

    fn batch(&self, input: &Value, call: Call) -> Result<Value> {
        let [count, fill] = call.bind("batch", ["linecount", "fill_with"], 1)?;
        let count = count.unwrap_or(Value::None);
        let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
        for item in self.items(input)? {
            if let Some(row) = rows.last()
                && self.equal(&Value::Int(row.len() as i128), &count)?
            {
                rows.push(Vec::new());
            }
            if let Some(row) = rows.last_mut() {
                row.push(item);
            }
        }
        if let (Some(row), Some(fill)) = (rows.last_mut(), fill.filter(|fill| !matches!(fill, Value::None)))
            && !row.is_empty()
        {
            let count = self.int_arg(Some(count), 0)?;
            let missing = u64::try_from((count - row.len() as i128).max(0)).unwrap_or(u64::MAX);
            self.budget.pay_elements(missing)?;
            row.extend(std::iter::repeat_n(fill, missing as usize));
        }
        rows.retain(|row| !row.is_empty());
        Ok(Value::generator(rows.into_iter().map(Value::list).collect(), None))
    }

    fn slices(&self, input: &Value, call: Call) -> Result<Value> {
        let [count, fill] = call.bind("slice", ["slices", "fill_with"], 1)?;
        let count = self.int_arg(count, 0)?;
        let items = self.items(input)?;
        if count == 0 {
            let error = Error::runtime("integer division or modulo by zero");
            return Ok(Value::generator(Vec::new(), Some(error)));
        }
        let count = u64::try_from(count).unwrap_or(0);
        self.budget.pay_elements(count)?;
        let fill = fill.filter(|fill| !matches!(fill, Value::None));
        let mut rows = Vec::new();
        let mut items = items.into_iter();
        let (each, extra) = match count {
            0 => (0, 0),
            _ => (items.len() as u64 / count, items.len() as u64 % count),
        };
        for index in 0..count {
            let len = each + u64::from(index < extra);
            let mut row: Vec<Value> = items.by_ref().take(len as usize).collect();
            if index >= extra {
                row.extend(fill.clone());
            }
            rows.push(Value::list(row));
        }
        Ok(Value::generator(rows, None))
    }

    fn dictsort(&self, input: &Value, call: Call) -> Result<Value> {
        let [case_sensitive, by, reverse] = call.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
        let by = self.text_arg(by, "key")?;
        if !matches!(by.as_str(), "key" | "value") {
            return Err(Error::runtime("You can only sort by either \"key\" or \"value\""));
        }
        let Value::Dict(dict) = input else { return Err(self.wrong_input("dictsort", input)) };
        let ignore_case = !case_sensitive.is_some_and(|value| value.is_true());
        let mut pairs = Vec::new();
        for (key, value) in dict.pairs() {
            self.budget.pay_elements(1)?;
            let by = if by.as_str() == "key" { key } else { value }.clone();
            let by = if ignore_case { self.lowered(by)? } else { by };
            pairs.push((by, Value::tuple(vec![key.clone(), value.clone()])));
        }
        self.sorted(pairs, self.int_arg(reverse, 0)? != 0).map(Value::list)
    }

    /// Stable, also in reverse.
    fn sorted(&self, mut pairs: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
        self.budget.pay_elements(pairs.len())?;
        let mut failure = None;
        pairs.sort_by(|(left, _), (right, _)| {
            if failure.is_some() {
                return Ordering::Equal;
            }
            let order = self.order(left, right).unwrap_or_else(|error| {
                failure = Some(error);
                None
            });
            let order = order.unwrap_or(Ordering::Equal);
            if reverse { order.reverse() } else { order }
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(pairs.into_iter().map(|(_, item)| item).collect()),
        }
    }

    fn sort(&self, input: &Value, call: Call) -> Result<Value> {
        let [reverse, case_sensitive, attribute] = call.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
        let ignore_case = !case_sensitive.is_some_and(|value| value.is_true());
        let paths = match attribute {
            Some(Value::Str(paths)) => {
                paths.as_str().split(',').map(|path| Some(Value::Str(paths.part(path)))).collect()
            }
            other => vec![other],
        };
        let getters: Vec<Getter> =
            paths.into_iter().map(|path| self.getter(path, None, ignore_case)).collect::<Result<_>>()?;
        let mut pairs = Vec::new();
        for item in self.items(input)? {
            let keys = getters.iter().map(|getter| self.get(getter, &item)).collect::<Result<_>>()?;
            pairs.push((Value::list(keys), item));
        }
        self.sorted(pairs, self.int_arg(reverse, 0)? != 0).map(Value::list)
    }

    fn groupby(&self, input: &Value, call: Call) -> Result<Value> {
        let [attribute, default, case_sensitive] =
            call.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
        let ignore_case = !case_sensitive.is_some_and(|value| value.is_true());
        let sorter = self.getter(attribute.clone(), default.clone(), ignore_case)?;
        let shown = self.getter(attribute, default, false)?;
        let mut pairs = Vec::new();
        for item in self.items(input)? {
            let key = self.get(&sorter, &item)?;
            pairs.push((key.clone(), Value::tuple(vec![key, item])));
        }
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for pair in self.sorted(pairs, false)? {
            let Value::Tuple(pair, _) = pair else { continue };
            match groups.last_mut() {
                Some((key, items)) if self.equal(key, &pair[0])? => items.push(pair[1].clone()),
                _ => groups.push((pair[0].clone(), vec![pair[1].clone()])),
            }
        }
        let mut out = Vec::new();
        for (_, items) in groups {
            let grouper = self.get(&shown, &items[0])?;
            out.push(Value::Tuple(Rc::new(vec![grouper, Value::list(items)]), TupleKind::Group));
        }
        Ok(Value::list(out))
    }

    fn join(&self, input: &Value, call: Call) -> Result<Value> {
        let [separator, attribute] = call.bind("join", ["d", "attribute"], 0)?;
        let separator = match &separator {
            Some(separator) => self.text(separator)?,
            None => crate::text::Text::own(""),
        };
        let getter = match attribute.filter(|value| !matches!(value, Value::None)) {
            Some(attribute) => Some(self.getter(Some(attribute), None, false)?),
            None => None,
        };
        let mut out = TextBuf::default();
        for (index, item) in self.items(input)?.into_iter().enumerate() {
            if index > 0 {
                self.budget.pay(separator.len())?;
                out.push_text(&separator);
            }
            let item = match &getter {
                Some(getter) => self.get(getter, &item)?,
                None => item,
            };
            out.push_text(&self.text(&item)?);
        }
        Ok(Value::Str(out.finish()))
    }

    fn map(&self, input: &Value, mut call: Call) -> Result<Value> {
        if !input.is_true() {
            return Ok(Value::generator(Vec::new(), None));
        }
        let failed = |error: Error| Ok(Value::generator(Vec::new(), Some(error)));
        let attribute = call.kwargs.iter().position(|(name, _)| name.as_str() == "attribute");
        if let (true, Some(at)) = (call.args.is_empty(), attribute) {
            let attribute = call.kwargs.remove(at).1;
            let default = call.kwargs.iter().position(|(name, _)| name.as_str() == "default");
            let default = default.map(|at| call.kwargs.remove(at).1);
            if let Some((name, _)) = call.kwargs.first() {
                return failed(Error::runtime(format!("Unexpected keyword argument '{}'", name.as_str())));
            }
            let getter = self.getter(Some(attribute), default, false)?;
            return self.lazily(input, |item, out| {
                out.push(self.get(&getter, &item)?);
                Ok(())
            });
        }
        if call.args.is_empty() {
            return failed(Error::runtime("map requires a filter argument"));
        }
        let Value::Str(name) = call.args.remove(0) else {
            return failed(Error::runtime("map requires a filter's name"));
        };
        self.lazily(input, |item, out| {
            let call = Call { args: call.args.clone(), kwargs: call.kwargs.clone() };
            self.budget.pay_elements(call.args.len() + call.kwargs.len())?;
            self.budget.enter()?;
            out.push(self.filter(name.as_str(), item, call)?);
            self.budget.leave();
            Ok(())
        })
    }

    fn select(&self, name: &str, input: &Value, mut call: Call) -> Result<Value> {
        if !input.is_true() {
            return Ok(Value::generator(Vec::new(), None));
        }
        let wanted = name.starts_with("select");
        let getter = if name.ends_with("attr") {
            if call.args.is_empty() {
                let error = Error::runtime("Missing parameter for attribute name");
                return Ok(Value::generator(Vec::new(), Some(error)));
            }
            Some(self.getter(Some(call.args.remove(0)), None, false)?)
        } else {
            None
        };
        let test = if call.args.is_empty() { None } else { Some(call.args.remove(0)) };
        self.lazily(input, |item, out| {
            let value = match &getter {
                Some(getter) => self.get(getter, &item)?,
                None => item.clone(),
            };
            self.budget.pay_elements(call.args.len() + call.kwargs.len() + 1)?;
            let holds = match &test {
                None => value.is_true(),
                Some(Value::Str(test)) => {
                    let call = Call { args: call.args.clone(), kwargs: call.kwargs.clone() };
                    self.test(test.as_str(), value, call)?
                }
                Some(_) => return Err(Error::runtime("expected the name of a test")),
            };
            if holds == wanted {
                out.push(item);
            }
            Ok(())
        })
    }

    fn extreme(&self, name: &str, input: &Value, call: Call) -> Result<Value> {
        let [case_sensitive, attribute] = call.bind(name, ["case_sensitive", "attribute"], 0)?;
        let getter = self.getter(attribute, None, !case_sensitive.is_some_and(|value| value.is_true()))?;
        let mut best: Option<(Value, Value)> = None;
        for item in self.items(input)? {
            let key = self.get(&getter, &item)?;
            let better = match &best {
                None => true,
                Some((best, _)) => {
                    let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
                    self.order(&key, best)? == Some(wanted)
                }
            };
            if better {
                best = Some((key, item));
            }
        }
        Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
    }

    fn reverse(&self, input: &Value, call: Call) -> Result<Value> {
        call.positional::<0>("reverse", 0)?;
        if let Value::Str(_) = input {
            return self.slice(input, &[Value::None, Value::None, Value::Int(-1)]);
        }
        let mut items = self.items(input)?;
        items.reverse();
        // Python reverses sequences lazily, and makes a list of anything else.
        let lazy = matches!(
            input,
            Value::Undefined(_)
                | Value::List(_)
                | Value::Tuple(..)
                | Value::Range(_)
                | Value::Dict(_)
                | Value::View(..)
        );
        Ok(if lazy { Value::generator(items, None) } else { Value::list(items) })
    }

    fn sum(&self, input: &Value, call: Call) -> Result<Value> {
        let [attribute, start] = call.bind("sum", ["attribute", "start"], 0)?;
        let getter = match attribute.filter(|value| !matches!(value, Value::None)) {
            Some(attribute) => Some(self.getter(Some(attribute), None, false)?),
            None => None,
        };
        let mut sum = start.unwrap_or(Value::Int(0));
        if let Value::Str(_) = sum {
            return Err(Error::runtime("sum() can't sum strings [use ''.join(seq) instead]"));
        }
        for item in self.items(input)? {
            let item = match &getter {
                Some(getter) => self.get(getter, &item)?,
                None => item,
            };
            self.budget.step()?;
            sum = self.binary(BinaryOp::Add, &sum, &item)?;
        }
        Ok(sum)
    }

    fn unique(&self, input: &Value, call: Call) -> Result<Value> {
        let [case_sensitive, attribute] = call.bind("unique", ["case_sensitive", "attribute"], 0)?;
        let getter = self.getter(attribute, None, !case_sensitive.is_some_and(|value| value.is_true()))?;
        // What of a key can change takes no part in its hash.
        #[allow(clippy::mutable_key_type)]
        let mut seen = HashSet::new();
        self.lazily(input, |item, out| {
            if seen.insert(Key::new(self.get(&getter, &item)?, &self.budget)?) {
                out.push(item);
            }
            Ok(())
        })
    }
}
