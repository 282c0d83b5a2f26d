//! `for`, and the `loop` variable in it.

use super::{Flow, Interp};
use crate::ast::For;
use crate::error::Error;
use crate::eval::Env;
use crate::text::Text;
use crate::value::{Generator, Object, Result, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Where a loop's elements come from.
enum Source {
    Items(Vec<Value>),
    /// Shared: what the loop leaves is there for others.
    Generator(Rc<RefCell<Generator>>),
}

pub(crate) struct LoopState {
    node: Arc<For>,
    env: Rc<Env>,
    depth0: i128,
    source: RefCell<Source>,
    /// How many elements of `Source::Items` have been taken.
    taken: Cell<usize>,
    /// How many elements have passed the loop's filter and been seen.
    index0: Cell<i128>,
    before: RefCell<Option<Value>>,
    current: RefCell<Option<Value>>,
    /// Elements that were looked at in advance.
    after: RefCell<std::collections::VecDeque<Value>>,
    last_changed: RefCell<Option<Vec<Value>>>,
}

impl Interp<'_> {
    pub(super) fn for_statement(&self, node: &Arc<For>, env: &Rc<Env>) -> Result<Flow> {
        let iterable = self.eval(&node.iter, env)?;
        if node.recursive {
            let text = self.capture(|| self.for_loop(node, &iterable, env, 0).map(drop))?;
            self.print(&Value::Str(text))?;
            return Ok(Flow::Next);
        }
        self.for_loop(node, &iterable, env, 0)
    }

    fn for_loop(&self, node: &Arc<For>, iterable: &Value, env: &Rc<Env>, depth0: i128) -> Result<Flow> {
        let source = match iterable {
            Value::Generator(generator) => Source::Generator(Rc::clone(generator)),
            other => Source::Items(self.items(other)?),
        };
        let state = Rc::new(Object::Loop(Box::new(LoopState {
            node: Arc::clone(node),
            env: Rc::clone(env),
            depth0,
            source: RefCell::new(source),
            taken: Cell::new(0),
            index0: Cell::new(-1),
            before: RefCell::default(),
            current: RefCell::default(),
            after: RefCell::default(),
            last_changed: RefCell::default(),
        })));
        let Object::Loop(this) = &*state else { unreachable!("made three lines above") };
        let loop_name = self.names.find("loop");
        let mut ran_to_the_end = false;
        while let Some(item) = self.advance(this)? {
            self.budget.step()?;
            let inside = self.enter(&node.body.frame, Some(env));
            if let Some(name) = loop_name {
                inside.set(name, Value::Object(Rc::clone(&state)));
            }
            self.assign(&node.target, item, &inside)?;
            match self.exec(&node.body.body, &inside)? {
                Flow::Next => ran_to_the_end = true,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        // As in Jinja2, `continue` and `break` skip what notes that there was an element.
        if !ran_to_the_end && !node.other.body.is_empty() {
            let inside = self.enter(&node.other.frame, Some(env));
            return self.exec(&node.other.body, &inside);
        }
        Ok(Flow::Next)
    }

    /// Goes on to the next element.
    fn advance(&self, state: &LoopState) -> Result<Option<Value>> {
        let ahead = state.after.borrow_mut().pop_front();
        let Some(item) = (match ahead {
            Some(item) => Some(item),
            None => self.pull(state)?,
        }) else {
            return Ok(None);
        };
        state.index0.set(state.index0.get() + 1);
        let before = state.current.replace(Some(item.clone()));
        state.before.replace(before);
        Ok(Some(item))
    }

    /// The next element that passes the loop's filter.
    fn pull(&self, state: &LoopState) -> Result<Option<Value>> {
        loop {
            let next = match &*state.source.borrow() {
                Source::Items(items) => items.get(state.taken.get()).cloned(),
                Source::Generator(generator) => self.next_of(generator)?,
            };
            state.taken.set(state.taken.get() + 1);
            let (Some(item), Some(test)) = (&next, &state.node.test) else { return Ok(next) };
            self.budget.step()?;
            let inside = self.enter(&state.node.test_frame, Some(&state.env));
            self.assign(&state.node.target, item.clone(), &inside)?;
            if self.eval(test, &inside)?.is_true() {
                return Ok(next);
            }
        }
    }

    fn peek(&self, state: &LoopState) -> Result<Option<Value>> {
        if state.after.borrow().is_empty() {
            let item = self.pull(state)?;
            state.after.borrow_mut().extend(item);
        }
        Ok(state.after.borrow().front().cloned())
    }

    fn loop_length(&self, state: &LoopState) -> Result<i128> {
        while let Some(item) = self.pull(state)? {
            state.after.borrow_mut().push_back(item);
        }
        Ok(state.index0.get() + 1 + state.after.borrow().len() as i128)
    }

    pub(super) fn loop_attribute(&self, state: &LoopState, attr: &str) -> Result<Option<Value>> {
        let index0 = state.index0.get();
        Ok(Some(match attr {
            "index0" => Value::Int(index0),
            "index" => Value::Int(index0 + 1),
            "length" => Value::Int(self.loop_length(state)?),
            "revindex" => Value::Int(self.loop_length(state)? - index0),
            "revindex0" => Value::Int(self.loop_length(state)? - index0 - 1),
            "first" => Value::Bool(index0 == 0),
            "last" => Value::Bool(self.peek(state)?.is_none()),
            "depth" => Value::Int(state.depth0 + 1),
            "depth0" => Value::Int(state.depth0),
            "previtem" => match (index0, &*state.before.borrow()) {
                (1.., Some(item)) => item.clone(),
                _ => Value::undefined("there is no previous item"),
            },
            "nextitem" => self.peek(state)?.unwrap_or_else(|| Value::undefined("there is no next item")),
            _ => return Ok(None),
        }))
    }

    /// `loop.cycle` and `loop.changed`.
    pub(super) fn loop_method(&self, state: &LoopState, name: &str, args: Vec<Value>) -> Result<Value> {
        if name == "cycle" {
            let Some(len) = (args.len() as i128 > 0).then_some(args.len() as i128) else {
                return Err(Error::runtime("no items for cycling given"));
            };
            return Ok(args[state.index0.get().rem_euclid(len) as usize].clone());
        }
        let unchanged = match &*state.last_changed.borrow() {
            Some(last) => self.equal(&Value::tuple(last.clone()), &Value::tuple(args.clone()))?,
            None => false,
        };
        if !unchanged {
            state.last_changed.replace(Some(args));
        }
        Ok(Value::Bool(!unchanged))
    }

    /// `loop(iterable)`: the loop once more, one level deeper.
    pub(super) fn loop_again(&self, state: &LoopState, iterable: &Value) -> Result<Text> {
        if !state.node.recursive {
            let message = "The loop must have the 'recursive' marker to be called recursively.";
            return Err(Error::runtime(message));
        }
        self.capture(|| self.for_loop(&state.node, iterable, &state.env, state.depth0 + 1).map(drop))
    }
}
