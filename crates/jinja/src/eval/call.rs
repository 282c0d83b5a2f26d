//! Calls: arguments, macros, and the functions that every template has.

use super::{Env, Interp};
use crate::ast::{Args, Expr};
use crate::error::Error;
use crate::methods;
use crate::print;
use crate::text::Text;
use crate::value::{Dict, Function, Key, MacroValue, Object, Range, Result, Value};
use std::cell::Cell;
use std::rc::Rc;

/// The sandbox's limit on ranges.
const RANGE_MAX: i128 = 100_000;

/// The arguments of a call.
#[derive(Default)]
pub(crate) struct Call {
    pub(crate) args: Vec<Value>,
    pub(crate) kwargs: Vec<(Text, Value)>,
}

impl Call {
    /// The arguments by the parameters' names, of which the first `required` must be there.
    pub(crate) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.args.len() > N {
            let found = self.args.len();
            return Err(Error::runtime(format!("{function}() takes at most {N} arguments ({found} given)")));
        }
        for (slot, value) in bound.iter_mut().zip(self.args) {
            *slot = Some(value);
        }
        for (name, value) in self.kwargs {
            let Some(at) = names.iter().position(|other| *other == name.as_str() && !other.is_empty()) else {
                let name = name.as_str();
                return Err(Error::runtime(format!("{function}() got an unexpected keyword argument '{name}'")));
            };
            if bound[at].replace(value).is_some() {
                let name = name.as_str();
                return Err(Error::runtime(format!("{function}() got multiple values for argument '{name}'")));
            }
        }
        if let Some(at) = bound[..required].iter().position(Option::is_none) {
            let name = names[at];
            return Err(Error::runtime(format!("{function}() missing required argument: '{name}'")));
        }
        Ok(bound)
    }

    /// Arguments that have no names.
    pub(crate) fn positional<const N: usize>(self, function: &str, required: usize) -> Result<[Option<Value>; N]> {
        self.bind(function, [""; N], required)
    }
}

impl Interp<'_> {
    pub(super) fn arguments(&self, args: &Args, env: &Rc<Env>) -> Result<Call> {
        let mut call = Call { args: self.eval_all(&args.positional, env)?, kwargs: Vec::new() };
        for (name, value) in &args.keyword {
            call.kwargs.push((name.clone(), self.eval(value, env)?));
        }
        if let Some(all) = &args.all_positional {
            let all = self.eval(all, env)?;
            call.args.extend(self.items(&all)?);
        }
        if let Some(all) = &args.all_keyword {
            let Value::Dict(dict) = self.eval(all, env)? else {
                return Err(Error::runtime("argument after ** must be a mapping"));
            };
            self.budget.pay_elements(dict.0.len())?;
            for (key, value) in dict.pairs() {
                let Value::Str(name) = key else { return Err(Error::runtime("keywords must be strings")) };
                if args.keyword.iter().any(|(other, _)| other.as_str() == name.as_str()) {
                    let name = name.as_str();
                    return Err(Error::runtime(format!("got multiple values for keyword argument '{name}'")));
                }
                call.kwargs.push((name.clone(), value.clone()));
            }
        }
        Ok(call)
    }

    pub(super) fn call_with_caller(&self, call: &Expr, caller: Value, env: &Rc<Env>) -> Result<Value> {
        let Expr::Call(callee, args) = call else { return Err(Error::runtime("expected a call")) };
        let callee = self.eval(callee, env)?;
        let mut call = self.arguments(args, env)?;
        if call.kwargs.iter().any(|(name, _)| name.as_str() == "caller") {
            return Err(Error::runtime("got multiple values for keyword argument 'caller'"));
        }
        call.kwargs.push((Text::own("caller"), caller));
        self.call(&callee, call)
    }

    pub(crate) fn call(&self, callee: &Value, call: Call) -> Result<Value> {
        self.budget.step()?;
        match callee {
            Value::Undefined(message) => Err(Error::runtime(&**message)),
            Value::Object(object) => self.deeper(|| self.call_object(object, call)),
            other => Err(Error::runtime(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn call_object(&self, object: &Rc<Object>, call: Call) -> Result<Value> {
        match &**object {
            Object::Macro(found) => self.call_macro(found, call),
            Object::Function(function) => self.call_function(*function, call),
            Object::Method { receiver, name } => match receiver {
                Value::Object(object) => self.call_object_method(object, name.as_str(), call),
                _ => methods::call(self, receiver, name.as_str(), call),
            },
            Object::Joiner { separator, used } => {
                call.positional::<0>("joiner", 0)?;
                Ok(if used.replace(true) { separator.clone() } else { Value::own("") })
            }
            Object::Loop(state) => {
                let [iterable] = call.bind("loop", ["iterable"], 1)?;
                self.loop_again(state, &iterable.unwrap_or(Value::None)).map(Value::Str)
            }
            Object::Namespace(_) | Object::Cycler { .. } => {
                let name = Value::Object(Rc::clone(object)).type_name();
                Err(Error::runtime(format!("'{name}' object is not callable")))
            }
        }
    }

    fn call_object_method(&self, object: &Rc<Object>, name: &str, call: Call) -> Result<Value> {
        match &**object {
            Object::Loop(state) => {
                if !call.kwargs.is_empty() {
                    return Err(Error::runtime(format!("{name}() takes no keyword arguments")));
                }
                self.loop_method(state, name, call.args)
            }
            Object::Cycler { items, at } => {
                call.positional::<0>(name, 0)?;
                if name == "reset" {
                    at.set(0);
                    return Ok(Value::None);
                }
                let current = items[at.get()].clone();
                at.set((at.get() + 1) % items.len());
                Ok(current)
            }
            _ => Err(Error::runtime(format!("no method {name}"))),
        }
    }

    fn call_macro(&self, found: &MacroValue, call: Call) -> Result<Value> {
        let node = &found.node;
        let inside = self.enter(&node.inner.frame, Some(&found.env));
        let Call { args, mut kwargs } = call;
        let mut missing = Vec::new();
        let mut found_caller = false;
        let mut args = args.into_iter();
        for (param, default) in &node.params {
            let is_caller = self.names.text(*param).as_ref() == "caller";
            if let Some(value) = args.next() {
                found_caller |= is_caller;
                inside.set(*param, value);
                continue;
            }
            found_caller |= is_caller;
            let name = self.names.text(*param);
            match kwargs.iter().position(|(other, _)| other.as_str() == &**name) {
                Some(at) => inside.set(*param, kwargs.remove(at).1),
                None => missing.push((*param, default)),
            }
        }
        if node.reads_caller && !found_caller {
            let caller = kwargs.iter().position(|(name, _)| name.as_str() == "caller");
            let caller = caller.map(|at| kwargs.remove(at).1).filter(|value| !matches!(value, Value::None));
            self.set_special("caller", caller.unwrap_or_else(|| Value::undefined("No caller defined")), &inside);
        }
        if node.reads_kwargs {
            let mut dict = Dict::default();
            self.budget.pay_elements(kwargs.len())?;
            kwargs.drain(..).for_each(|(name, value)| dict.insert(name, value));
            self.set_special("kwargs", Value::dict(dict), &inside);
        } else if let Some((name, _)) = kwargs.first() {
            return Err(Error::runtime(format!("macro takes no keyword argument '{}'", name.as_str())));
        }
        let rest: Vec<Value> = args.collect();
        if node.reads_varargs {
            self.set_special("varargs", Value::tuple(rest), &inside);
        } else if !rest.is_empty() {
            let most = node.params.len();
            return Err(Error::runtime(format!("macro takes not more than {most} argument(s)")));
        }
        self.capture(|| {
            for (param, default) in missing {
                let value = match default {
                    Some(default) => self.eval(default, &inside)?,
                    None => {
                        let name = self.names.text(param);
                        Value::undefined(format!("parameter '{name}' was not provided"))
                    }
                };
                inside.set(param, value);
            }
            self.exec(&node.inner.body, &inside).map(drop)
        })
        .map(Value::Str)
    }

    fn set_special(&self, name: &str, value: Value, env: &Env) {
        if let Some(name) = self.names.find(name) {
            env.set(name, value);
        }
    }

    pub(super) fn macro_attribute(&self, found: &MacroValue, attr: &str) -> Result<Option<Value>> {
        let name = |name| Value::Str(Text::own(self.names.text(name).as_ref()));
        Ok(Some(match attr {
            "name" => found.name.map_or(Value::None, name),
            "arguments" => Value::tuple(found.node.params.iter().map(|(param, _)| name(*param)).collect()),
            "catch_kwargs" => Value::Bool(found.node.reads_kwargs),
            "catch_varargs" => Value::Bool(found.node.reads_varargs),
            "caller" => Value::Bool(found.node.reads_caller),
            _ => return Ok(None),
        }))
    }

    fn call_function(&self, function: Function, call: Call) -> Result<Value> {
        match function {
            Function::Range => self.range(call),
            Function::Dict => self.dict_of("dict", call).map(Value::dict),
            Function::Namespace => self.dict_of("namespace", call).map(|dict| self.namespace(dict)),
            Function::Cycler => {
                if call.args.is_empty() || !call.kwargs.is_empty() {
                    return Err(Error::runtime("at least one item has to be provided"));
                }
                Ok(Value::object(Object::Cycler { items: call.args, at: Cell::new(0) }))
            }
            Function::Joiner => {
                let [separator] = call.bind("joiner", ["sep"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::own(", "));
                Ok(Value::object(Object::Joiner { separator, used: Cell::new(false) }))
            }
            Function::Lipsum => Err(Error::runtime("lipsum is random: a prompt must not be")),
            Function::RaiseException => {
                let [message] = call.bind("raise_exception", ["m"], 1)?;
                let message = print::str(&message.unwrap_or(Value::None), &self.budget)?;
                Err(Error::raised(message.as_str()))
            }
            Function::StrftimeNow => {
                let [format] = call.bind("strftime_now", ["f"], 1)?;
                let Some(Value::Str(format)) = format else {
                    return Err(Error::runtime("strftime_now expects a string"));
                };
                self.budget.pay_times(format.len(), 16)?;
                Ok(Value::Str(Text::new(self.now.format(format.as_str())?, format.origin())))
            }
        }
    }

    fn range(&self, call: Call) -> Result<Value> {
        let numbers = call.positional::<3>("range", 1)?;
        let mut ints = [None; 3];
        for (int, number) in ints.iter_mut().zip(&numbers) {
            if let Some(number) = number {
                let found = number.type_name();
                let wrong = || Error::runtime(format!("'{found}' object cannot be interpreted as an integer"));
                *int = Some(number.as_int().filter(|int| int.abs() < 1 << 64).ok_or_else(wrong)?);
            }
        }
        let range = match ints {
            [Some(stop), None, _] => Range { start: 0, stop, step: 1 },
            [start, stop, step] => {
                Range { start: start.unwrap_or(0), stop: stop.unwrap_or(0), step: step.unwrap_or(1) }
            }
        };
        if range.step == 0 {
            return Err(Error::runtime("range() arg 3 must not be zero"));
        }
        if range.len() > RANGE_MAX {
            return Err(Error::runtime(format!("Range too big. The sandbox blocks ranges larger than {RANGE_MAX}.")));
        }
        Ok(Value::Range(range))
    }

    /// What `dict(…)` makes of its arguments.
    fn dict_of(&self, function: &str, call: Call) -> Result<Dict> {
        let Call { args, kwargs } = call;
        let [first] = Call { args, kwargs: Vec::new() }.positional(function, 0)?;
        let mut dict = Dict::default();
        match first {
            None => {}
            Some(Value::Dict(other)) => {
                self.budget.pay_elements(other.0.len())?;
                dict = (*other).clone();
            }
            Some(other) => {
                for pair in self.items(&other)? {
                    let pair: Result<[Value; 2]> = self
                        .items(&pair)?
                        .try_into()
                        .map_err(|_| Error::runtime("dictionary update sequence elements need a length of 2"));
                    let [key, value] = pair?;
                    dict.0.insert(Key::new(key, &self.budget)?, value);
                }
            }
        }
        self.budget.pay_elements(kwargs.len())?;
        kwargs.into_iter().for_each(|(name, value)| dict.insert(name, value));
        Ok(dict)
    }
}
