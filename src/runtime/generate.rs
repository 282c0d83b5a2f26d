//! Requests for text: submitted as ids, collected as answers.

use crate::engine::{EngineError, Event};
use crate::sampling::GenerateRequest;
use crate::text::{AnswerCollector, Generation, TextDelta};

use super::{Delivery, Runtime, RuntimeError, Ticket};

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    Stop,
}

/// A request under way, and what has come of it. Dropping it cancels it.
#[derive(Debug)]
pub struct Generating {
    ticket: Ticket,
    collector: AnswerCollector,
}

impl Runtime {
    /// Submits a request whose events go to `sink`, on the engine's thread; they are to be given to [`Generating::receive`].
    ///
    /// # Errors
    /// Refused at once: parameters out of their range, prompts that do not fit.
    pub fn submit_to(
        &self,
        request: GenerateRequest,
        sink: impl FnMut(Delivery) + Send + 'static,
    ) -> Result<Generating, RuntimeError> {
        let facts = self.facts();
        let admitted = facts.admit(&request)?;
        let (num_sequences, seed) = (admitted.sequences.len(), admitted.seed);
        let tokenizer = self.text().tokenizer();
        let collector = AnswerCollector::new(tokenizer, request, num_sequences, seed, facts.memory)?;
        Ok(Generating { ticket: self.engine().submit_to(admitted, sink), collector })
    }

    /// Generates what one request asks for, telling `on` about every token as it comes.
    ///
    /// # Errors
    /// As [`Runtime::submit_to`]; logits that are unusable; the device's.
    pub fn generate(
        &self,
        request: GenerateRequest,
        on: &mut dyn FnMut(&TextDelta) -> Control,
    ) -> Result<Vec<Generation>, RuntimeError> {
        let (sender, deliveries) = std::sync::mpsc::channel();
        let mut generating = self.submit_to(request, move |delivery| drop(sender.send(delivery)))?;
        while !generating.is_done() {
            let (index, event) = deliveries.recv().map_err(|_| EngineError::Stopped)??;
            if let Some(delta) = generating.receive(index, event)
                && on(&delta) == Control::Stop
            {
                generating.cancel();
            }
        }
        generating.finish()
    }
}

impl Generating {
    /// Takes the next event; the text that it brought.
    pub fn receive(&mut self, index: u32, event: Event) -> Option<TextDelta> {
        let received = self.collector.receive(index, event);
        if received.is_stopped {
            self.ticket.cancel_sequence(index);
        }
        received.delta
    }

    /// Ends the answers where they are. Their last events are still to come.
    pub fn cancel(&self) {
        self.ticket.cancel();
    }

    /// Whether all its events have come.
    pub fn is_done(&self) -> bool {
        self.collector.is_done()
    }

    /// The answers, best first, or in their own order if all were asked for.
    ///
    /// # Errors
    /// Logits that were unusable.
    pub fn finish(self) -> Result<Vec<Generation>, RuntimeError> {
        Ok(self.collector.finish().map_err(EngineError::BadRow)?)
    }
}
