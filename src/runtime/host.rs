//! The thread that owns an engine, and handles to it. Requests come as ids, events go back; everything about text happens on the
//! callers' side.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use crate::device::Sampled;
use crate::engine::{AdmittedRequest, Engine, EngineError, EngineFacts, Event};
use crate::ids::{SeqId, TokenId};

/// An event of sequence `index` of a request, or why the engine ends all of them.
pub type Delivery = Result<(u32, Event), Arc<EngineError>>;

/// Takes a request's events, on the engine's thread: it must be quick and not block.
type Sink = Box<dyn FnMut(Delivery) + Send>;

type Scores = Result<Vec<Option<Sampled>>, EngineError>;

enum Command {
    Submit {
        request: u64,
        admitted: AdmittedRequest,
        sink: Sink,
    },
    /// One sequence of a request, or all.
    Cancel {
        request: u64,
        index: Option<u32>,
    },
    Score {
        ids: Vec<TokenId>,
        top_n: u32,
        reply: Sender<Scores>,
    },
}

/// A handle to an engine on its thread. Cheap to clone; the thread ends with the last handle and ticket.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    facts: Arc<EngineFacts>,
    commands: Sender<Command>,
    next_request: Arc<AtomicU64>,
}

/// A request under way. Dropping it cancels what has not ended.
#[derive(Debug)]
pub struct Ticket {
    request: u64,
    commands: Sender<Command>,
}

/// A request under way, and its events.
#[derive(Debug)]
pub struct Events {
    deliveries: Receiver<Delivery>,
    ticket: Ticket,
}

impl EngineHandle {
    /// Gives `engine` a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn(engine: Engine) -> std::io::Result<EngineHandle> {
        let facts = Arc::clone(engine.facts());
        let (commands, received) = channel();
        let host = Host { engine, requests: HashMap::new(), by_seq: HashMap::new(), scores: Vec::new() };
        std::thread::Builder::new().name("kiln-engine".to_owned()).spawn(move || host.run(&received))?;
        Ok(EngineHandle { facts, commands, next_request: Arc::default() })
    }

    /// What the engine is and can; [`EngineFacts::admit`] checks requests for it.
    pub fn facts(&self) -> &Arc<EngineFacts> {
        &self.facts
    }

    /// Submits a request whose events go to `sink`, which runs on the engine's thread and must not block: for instance the sending
    /// end of a channel. Every sequence has one last event, or there is one `Err` in place of all that were to come.
    pub fn submit_to(&self, admitted: AdmittedRequest, sink: impl FnMut(Delivery) + Send + 'static) -> Ticket {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        // If the thread is gone, the sink is dropped, and its receiver learns by that.
        let _ = self.commands.send(Command::Submit { request, admitted, sink: Box::new(sink) });
        Ticket { request, commands: self.commands.clone() }
    }

    /// Submits a request and yields its events.
    pub fn submit(&self, admitted: AdmittedRequest) -> Events {
        let (sender, deliveries) = channel();
        let ticket = self.submit_to(admitted, move |delivery| {
            // Nobody listens any more: the ticket was dropped, too.
            let _ = sender.send(delivery);
        });
        Events { deliveries, ticket }
    }

    /// Teacher forcing: the log-probability of every id given those before it, with the `top_n` best at its place; nothing for the
    /// first. Waits until no request is under way.
    ///
    /// # Errors
    /// Ids that the engine cannot score, or the device's.
    pub fn score(&self, ids: Vec<TokenId>, top_n: u32) -> Scores {
        let (reply, scores) = channel();
        let _ = self.commands.send(Command::Score { ids, top_n, reply });
        scores.recv().unwrap_or(Err(EngineError::Stopped))
    }
}

impl Ticket {
    /// Ends one sequence of the request where it is; its last event says so, unless it had ended already.
    pub fn cancel_sequence(&self, index: u32) {
        let _ = self.commands.send(Command::Cancel { request: self.request, index: Some(index) });
    }

    /// Ends all sequences of the request where they are.
    pub fn cancel(&self) {
        let _ = self.commands.send(Command::Cancel { request: self.request, index: None });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Events {
    /// Waits for the next event. After each sequence's last one there is no more to wait for.
    pub fn receive(&self) -> Delivery {
        self.deliveries.recv().unwrap_or_else(|_| Err(Arc::new(EngineError::Stopped)))
    }

    /// To cancel with.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

/// What the thread owns.
struct Host {
    engine: Engine,
    requests: HashMap<u64, Running>,
    by_seq: HashMap<SeqId, (u64, u32)>,
    /// They wait until the engine is idle.
    scores: Vec<(Vec<TokenId>, u32, Sender<Scores>)>,
}

/// A request under way.
struct Running {
    seqs: Vec<SeqId>,
    /// Sequences without a last event.
    num_open: usize,
    sink: Sink,
}

impl Host {
    /// Until the last handle is gone: takes all commands that are there, then makes a step.
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            if self.engine.is_idle() {
                for (ids, top_n, reply) in std::mem::take(&mut self.scores) {
                    let _ = reply.send(self.engine.score(&ids, top_n));
                }
                let Ok(command) = commands.recv() else { return };
                self.obey(command);
            }
            loop {
                match commands.try_recv() {
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.step();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit { request, admitted, sink } => self.submit(request, admitted, sink),
            Command::Score { ids, top_n, reply } => self.scores.push((ids, top_n, reply)),
            Command::Cancel { request, index } => {
                let Some(running) = self.requests.get(&request) else { return };
                let chosen = |i: &usize| index.is_none_or(|index| index as usize == *i);
                for i in (0..running.seqs.len()).filter(chosen) {
                    self.engine.cancel(running.seqs[i]);
                }
            }
        }
    }

    fn submit(&mut self, request: u64, admitted: AdmittedRequest, mut sink: Sink) {
        let mut seqs = Vec::new();
        for (index, sequence) in (0..).zip(admitted.sequences) {
            match self.engine.start(sequence) {
                Ok(seq) => {
                    self.by_seq.insert(seq, (request, index));
                    seqs.push(seq);
                }
                // The device has failed: there are no others.
                Err(error) => return sink(Err(Arc::new(error))),
            }
        }
        let num_open = seqs.len();
        self.requests.insert(request, Running { seqs, num_open, sink });
    }

    fn step(&mut self) {
        match self.engine.step() {
            Ok(events) => events.into_iter().for_each(|event| self.deliver(event)),
            Err(error) => {
                let error = Arc::new(error);
                self.by_seq.clear();
                for (_, mut running) in self.requests.drain() {
                    (running.sink)(Err(Arc::clone(&error)));
                }
            }
        }
    }

    fn deliver(&mut self, event: Event) {
        let seq = event.seq();
        let Some(&(request, index)) = self.by_seq.get(&seq) else { return };
        let Some(running) = self.requests.get_mut(&request) else { return };
        let is_last = event.is_last();
        (running.sink)(Ok((index, event)));
        if is_last {
            self.by_seq.remove(&seq);
            running.num_open -= 1;
            if running.num_open == 0 {
                self.requests.remove(&request);
            }
        }
    }
}
