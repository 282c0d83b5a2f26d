//! What a template's operations cost, and the versions of them that pay.

use super::functions;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{
    Environment, Error, ErrorKind, Expression, State, Value, escape_formatter, filters, functions as builtin, tests,
};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// Instructions: a hundred for each of two thousand messages.
const FUEL: u64 = 200_000;
const RECURSION_MAX: usize = 64;
/// The price of a list's element, of whatever type.
const ELEMENT_BYTES: u64 = 64;
/// The price of a byte of text inside a list or map: printed there, it is quoted character by character.
const QUOTED_BYTE: u64 = 4;
/// Lists in lists that are printed or compared.
const DEPTH_MAX: usize = 64;
/// Numbers that ask for so much of something (a width, a count): more is a mistake or an attack.
const COUNT_MAX: i64 = 10_000;

/// Bytes that a rendering may still read and write.
#[derive(Clone)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    pub(super) fn new(bytes: u64) -> Budget {
        Budget(Arc::new(AtomicU64::new(bytes)))
    }

    fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn pay(&self, bytes: u64) -> Result<(), Error> {
        match self.left().checked_sub(bytes) {
            Some(left) => {
                self.0.store(left, Ordering::Relaxed);
                Ok(())
            }
            None => Err(refused("it makes values that are too large")),
        }
    }

    /// Pays for looking at the outside of a value: a string's bytes, or a list's elements.
    fn pay_outside(&self, value: &Value) -> Result<(), Error> {
        match (value.as_str(), value.kind()) {
            (Some(text), _) => self.pay(text.len() as u64),
            (None, ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) => match value.len() {
                Some(elements) => self.pay(ELEMENT_BYTES.saturating_mul(elements as u64)),
                None => value.try_iter()?.try_for_each(|_| self.pay(ELEMENT_BYTES)),
            },
            _ => Ok(()),
        }
    }

    /// Pays for all of a value, as printing or comparing it reads it: a list that holds itself twice counts twice.
    fn pay_all(&self, value: &Value) -> Result<(), Error> {
        self.pay_to_depth(value, 0)
    }

    fn pay_to_depth(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(refused("its values are nested too deeply"));
        }
        if let Some(text) = value.as_str() {
            return self.pay(text.len() as u64 * if depth > 0 { QUOTED_BYTE } else { 1 });
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|element| {
                self.pay(ELEMENT_BYTES)?;
                self.pay_to_depth(&element, depth + 1)
            }),
            ValueKind::Map => {
                let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
                pairs.into_iter().flatten().try_for_each(|(key, element)| {
                    self.pay(ELEMENT_BYTES)?;
                    self.pay_to_depth(&key, depth + 1)?;
                    self.pay_to_depth(&element, depth + 1)
                })
            }
            _ => Ok(()),
        }
    }

    /// What all of a value costs; paid.
    fn price_of_all(&self, value: &Value) -> Result<u64, Error> {
        let before = self.left();
        self.pay_all(value)?;
        Ok(before - self.left())
    }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template was stopped: {what}"))
}

/// An environment in which everything pays from `budget`.
pub(super) fn environment(budget: &Budget) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION_MAX);
    // Errors would hold all variables.
    env.set_debug(false);
    env.remove_global("debug");
    env.add_function("raise_exception", functions::raise_exception);
    env.add_function("strftime_now", functions::strftime_now);
    let paying = budget.clone();
    env.add_function("dict", move |value: Option<Value>, kwargs: Kwargs| {
        value.iter().try_for_each(|value| paying.pay_outside(value))?;
        builtin::dict(value, kwargs)
    });
    let paying = budget.clone();
    env.add_function("namespace", move |defaults: Option<Value>| {
        defaults.iter().try_for_each(|defaults| paying.pay_outside(defaults))?;
        builtin::namespace(defaults)
    });
    let paying = budget.clone();
    env.set_formatter(move |output, state, value| {
        paying.pay_all(value)?;
        escape_formatter(output, state, value)
    });
    let paying = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        pay_for_method(&paying, value, method, args)?;
        let result = unknown_method_callback(state, value, method, args)?;
        paying.pay(result.as_str().map_or(0, |text| text.len() as u64))?;
        Ok(result)
    });
    add_operators(&mut env, budget);
    add_filters(&mut env, budget);
    add_tests(&mut env, budget);
    env
}

/// Operators of the language, called as functions by the guarded program.
fn add_operators(env: &mut Environment<'static>, budget: &Budget) {
    type Operator = fn(&Budget, &[Value]) -> Result<Value, Error>;
    let operators: [(&'static str, Operator); 13] = [
        ("$add", |budget, args| {
            if let (Some(left), Some(right)) = (args[0].as_str(), args[1].as_str()) {
                budget.pay((left.len() + right.len()) as u64)?;
                return Ok(Value::from([left, right].concat()));
            }
            // Lists are joined without copying them, mostly.
            let elements: usize = args.iter().filter_map(Value::len).sum();
            budget.pay((elements as u64).saturating_mul(ELEMENT_BYTES / 16))?;
            plainly(&PLAIN.add, args)
        }),
        ("$mul", |budget, args| {
            for (value, count) in [(&args[0], &args[1]), (&args[1], &args[0])] {
                let size = value.as_str().map(str::len).or_else(|| value.len());
                if let (Some(size), Some(count)) = (size, count.as_i64()) {
                    let elements = (size as u64).saturating_mul(count.max(0) as u64);
                    budget.pay(elements.saturating_mul(if value.as_str().is_some() { 1 } else { ELEMENT_BYTES }))?;
                }
            }
            plainly(&PLAIN.mul, args)
        }),
        ("$concat", |budget, args| {
            let bytes = budget.price_of_all(&args[0])? + budget.price_of_all(&args[1])?;
            budget.pay(bytes)?;
            Ok(Value::from(format!("{}{}", args[0], args[1])))
        }),
        ("$eq", |budget, args| compare(budget, args, |left, right| left == right)),
        ("$ne", |budget, args| compare(budget, args, |left, right| left != right)),
        ("$lt", |budget, args| compare(budget, args, |left, right| left < right)),
        ("$lte", |budget, args| compare(budget, args, |left, right| left <= right)),
        ("$gt", |budget, args| compare(budget, args, |left, right| left > right)),
        ("$gte", |budget, args| compare(budget, args, |left, right| left >= right)),
        ("$in", |budget, args| {
            budget.pay_all(&args[0])?;
            budget.pay_all(&args[1])?;
            plainly(&PLAIN.within, args)
        }),
        ("$item", |budget, args| {
            budget.pay_all(&args[1])?;
            args[0].get_item(&args[1])
        }),
        ("$slice", |budget, args| {
            budget.pay_outside(&args[0])?;
            // Characters are taken one by one.
            budget.pay(args[0].as_str().map_or(0, |text| text.len() as u64 * 8))?;
            plainly(&PLAIN.slice, args)
        }),
        ("$map", |budget, args| {
            for key in args.iter().step_by(2) {
                budget.pay_all(key)?;
            }
            Ok(args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }),
    ];
    for (name, operator) in operators {
        let budget = budget.clone();
        env.add_function(name, move |args: Rest<Value>| operator(&budget, &args));
    }
}

fn compare(budget: &Budget, args: &[Value], holds: fn(&Value, &Value) -> bool) -> Result<Value, Error> {
    budget.pay_all(&args[0])?;
    budget.pay_all(&args[1])?;
    Ok(Value::from(holds(&args[0], &args[1])))
}

/// Operators as minijinja has them, for what has been paid.
struct Plain {
    add: PlainOperator,
    mul: PlainOperator,
    within: PlainOperator,
    slice: PlainOperator,
}

type PlainOperator = Result<Expression<'static, 'static>, Error>;

static PLAIN_ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

static PLAIN: LazyLock<Plain> = LazyLock::new(|| Plain {
    add: PLAIN_ENVIRONMENT.compile_expression("a + b"),
    mul: PLAIN_ENVIRONMENT.compile_expression("a * b"),
    within: PLAIN_ENVIRONMENT.compile_expression("a in b"),
    slice: PLAIN_ENVIRONMENT.compile_expression("a[b:c:d]"),
});

fn plainly(operator: &PlainOperator, args: &[Value]) -> Result<Value, Error> {
    let operator = operator.as_ref().map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    operator.eval(Value::from_iter(["a", "b", "c", "d"].into_iter().zip(args.iter().cloned())))
}

/// Filters that look at no more of their input than its outside, and make as much at most.
const OUTSIDE_FILTERS: [&str; 19] = [
    "abs",
    "attr",
    "bool",
    "chain",
    "count",
    "d",
    "default",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "map",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "zip",
];
/// Of those, the ones that take the same time for any list.
const CONSTANT_FILTERS: [&str; 9] = ["attr", "bool", "chain", "d", "default", "first", "items", "last", "zip"];

/// Every filter of minijinja under its name, paying, and under `$` and its name as it is.
fn add_filters(env: &mut Environment<'static>, budget: &Budget) {
    macro_rules! add {
        ($($name:literal $function:expr;)*) => {$(
            env.add_filter(concat!("$", $name), $function);
            let paying = budget.clone();
            env.add_filter($name, move |state: &State, args: Rest<Value>| {
                pay_for_filter(&paying, $name, &args)?;
                let result = state.apply_filter(concat!("$", $name), &args)?;
                paying.pay(result.as_str().map_or(0, |text| text.len() as u64))?;
                Ok::<Value, Error>(result)
            });
        )*};
    }
    add! {
        "abs" filters::abs; "attr" filters::attr; "batch" filters::batch; "bool" filters::bool;
        "capitalize" filters::capitalize; "chain" filters::chain; "count" filters::length; "d" filters::default;
        "default" filters::default; "dictsort" filters::dictsort; "e" filters::escape; "escape" filters::escape;
        "first" filters::first; "float" filters::float; "format" filters::format; "groupby" filters::groupby;
        "indent" filters::indent; "int" filters::int; "items" filters::items; "join" filters::join;
        "last" filters::last; "length" filters::length; "lines" filters::lines; "list" filters::list;
        "lower" filters::lower; "map" filters::map; "max" filters::max; "min" filters::min;
        "pprint" filters::pprint; "reject" filters::reject; "rejectattr" filters::rejectattr;
        "replace" filters::replace; "reverse" filters::reverse; "round" filters::round; "safe" filters::safe;
        "select" filters::select; "selectattr" filters::selectattr; "slice" filters::slice; "sort" filters::sort;
        "split" filters::split; "string" filters::string; "sum" filters::sum; "title" filters::title;
        "tojson" functions::tojson; "trim" filters::trim; "unique" filters::unique; "upper" filters::upper;
    }
}

fn pay_for_filter(budget: &Budget, name: &str, args: &[Value]) -> Result<(), Error> {
    let Some((value, others)) = args.split_first() else { return Ok(()) };
    for other in others {
        budget.pay_all(other)?;
    }
    if CONSTANT_FILTERS.contains(&name) && value.as_str().is_none() {
        return Ok(());
    }
    if OUTSIDE_FILTERS.contains(&name) {
        return budget.pay_outside(value);
    }
    let bytes = budget.price_of_all(value)?;
    let argument = |index: usize| others.get(index).and_then(Value::as_str);
    match name {
        "replace" => pay_for_replacing(budget, value, argument(0), argument(1)),
        "split" => pay_for_parts(budget, value, argument(0)),
        "join" => pay_for_joining(budget, value, argument(0)),
        "format" => pay_for_formatting(budget, value, others),
        "indent" => {
            let lines = value.as_str().map_or(0, |text| text.matches('\n').count() as u64 + 1);
            budget.pay(lines.saturating_mul(largest_number(others)?))
        }
        // Every element may stand on a line of its own, behind spaces.
        "tojson" | "pprint" => budget.pay(bytes.saturating_mul(1 + largest_number(others)?)),
        "list" | "lines" | "batch" | "slice" | "sort" | "unique" | "min" | "max" | "reverse" => {
            budget.pay(largest_number(others)?.saturating_mul(ELEMENT_BYTES))?;
            pay_for_parts(budget, value, Some(""))
        }
        _ => Ok(()),
    }
}

fn pay_for_method(budget: &Budget, value: &Value, method: &str, args: &[Value]) -> Result<(), Error> {
    for arg in args {
        budget.pay_all(arg)?;
    }
    let argument = |index: usize| args.get(index).and_then(Value::as_str);
    match value.as_str() {
        Some(text) => budget.pay(text.len() as u64)?,
        // A list's `count` compares all of it.
        None if method == "count" => budget.pay_all(value)?,
        None => {}
    }
    match method {
        "replace" => pay_for_replacing(budget, value, argument(0), argument(1)),
        "split" => pay_for_parts(budget, value, argument(0)),
        "splitlines" => pay_for_parts(budget, value, Some("\n")),
        "join" => args.first().map_or(Ok(()), |list| pay_for_joining(budget, list, value.as_str())),
        "format" => pay_for_formatting(budget, value, args),
        "count" if argument(0) == Some("") => Err(refused("it counts empty strings")),
        _ => Ok(()),
    }
}

fn pay_for_replacing(budget: &Budget, value: &Value, old: Option<&str>, new: Option<&str>) -> Result<(), Error> {
    let (Some(text), Some(old), Some(new)) = (value.as_str(), old, new) else { return Ok(()) };
    let count = text.matches(old).count() as u64;
    budget.pay(count.saturating_mul(new.len() as u64))
}

/// A list's element for each part of a string: its characters, or what stands between separators.
fn pay_for_parts(budget: &Budget, value: &Value, separator: Option<&str>) -> Result<(), Error> {
    let Some(text) = value.as_str() else { return Ok(()) };
    let parts = match separator {
        Some(separator) => text.matches(separator).count(),
        None => text.matches(char::is_whitespace).count(),
    };
    budget.pay(ELEMENT_BYTES.saturating_mul(parts as u64))
}

fn pay_for_joining(budget: &Budget, list: &Value, separator: Option<&str>) -> Result<(), Error> {
    let elements = list.as_str().map(str::len).or_else(|| list.len()).unwrap_or(0) as u64;
    budget.pay(elements.saturating_mul(separator.map_or(0, str::len) as u64))
}

/// Widths and precisions, in the text or among the arguments, say how much is written.
fn pay_for_formatting(budget: &Budget, format: &Value, args: &[Value]) -> Result<(), Error> {
    let Some(text) = format.as_str() else { return Ok(()) };
    let fields = text.matches(['%', '{']).count() as u64;
    let mut widest = if text.contains('*') || text.contains("{}") { largest_number(args).unwrap_or(0) } else { 0 };
    for digits in text.split(|char: char| !char.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        let number = digits.parse().unwrap_or(i64::MAX);
        widest = widest.max(within_limit(number)?);
    }
    let text_bytes: u64 = args.iter().map(|arg| arg.as_str().map_or(ELEMENT_BYTES, |text| text.len() as u64)).sum();
    budget.pay(fields.saturating_mul(widest + text_bytes))?;
    if text.contains('*') || text.matches('{').count() > text.matches('}').count() || nested(text) {
        return largest_number(args).map(drop);
    }
    Ok(())
}

/// Whether a replacement field stands inside another.
fn nested(text: &str) -> bool {
    let mut depth = 0_i64;
    text.bytes().any(|byte| {
        depth += i64::from(byte == b'{') - i64::from(byte == b'}');
        depth > 1
    })
}

/// The largest integer among the arguments, keyword arguments included.
fn largest_number(args: &[Value]) -> Result<u64, Error> {
    let mut largest = 0;
    for arg in args {
        let named = Kwargs::try_from(arg.clone()).ok().filter(|_| arg.is_kwargs());
        let values = named.iter().flat_map(|kwargs| kwargs.args().filter_map(|name| kwargs.peek::<Value>(name).ok()));
        for number in values.chain([arg.clone()]).filter_map(|value| value.as_i64()) {
            largest = largest.max(within_limit(number)?);
        }
    }
    Ok(largest)
}

fn within_limit(number: i64) -> Result<u64, Error> {
    if number.saturating_abs() > COUNT_MAX {
        return Err(refused(&format!("it asks for {number} of something, and {COUNT_MAX} is the limit")));
    }
    Ok(number.unsigned_abs())
}

/// Tests that compare or search.
fn add_tests(env: &mut Environment<'static>, budget: &Budget) {
    macro_rules! add {
        ($($function:path: $($name:literal)*;)*) => {$($(
            env.add_test(concat!("$", $name), $function);
            let paying = budget.clone();
            env.add_test($name, move |state: &State, args: Rest<Value>| {
                args.iter().try_for_each(|arg| paying.pay_all(arg))?;
                state.perform_test(concat!("$", $name), &args)
            });
        )*)*};
    }
    add! {
        tests::is_eq: "eq" "equalto" "==";
        tests::is_ne: "ne" "!=";
        tests::is_lt: "lt" "lessthan" "<";
        tests::is_le: "le" "<=";
        tests::is_gt: "gt" "greaterthan" ">";
        tests::is_ge: "ge" ">=";
        tests::is_in: "in";
        tests::is_lower: "lower";
        tests::is_upper: "upper";
        tests::is_startingwith: "startingwith";
        tests::is_endingwith: "endingwith";
        tests::is_divisibleby: "divisibleby";
    }
}
