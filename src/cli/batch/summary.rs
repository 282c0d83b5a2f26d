//! What came of a batch, told at its end.

use std::collections::BTreeMap;

use kiln::text::Refusal;
use kiln::weights::printable;

use crate::cli::streams::say;

/// Failed requests that are named.
const NAMED_MAX: usize = 5;

/// Counts what becomes of the requests.
#[derive(Debug, Default)]
pub struct Summary {
    pub requests: usize,
    pub already_done: usize,
    pub answered: usize,
    pub failed: usize,
    too_long: usize,
    /// Lines about the first that failed.
    named: Vec<String>,
    /// Requests by the field that nothing read.
    ignored: BTreeMap<String, usize>,
}

impl Summary {
    /// Of so many requests, before any is answered.
    pub fn of(requests: usize) -> Summary {
        Summary { requests, ..Summary::default() }
    }

    pub fn add_failed(&mut self, custom_id: &str, refusal: &Refusal) {
        self.failed += 1;
        self.too_long += usize::from(refusal.code == Some("context_length_exceeded"));
        if self.named.len() < NAMED_MAX {
            let Refusal { status, message, .. } = refusal;
            self.named.push(format!("failed: {custom_id:?}: {status}: {}", printable(message)));
        }
    }

    pub fn add_ignored(&mut self, fields: &[String]) {
        for field in fields {
            *self.ignored.entry(field.clone()).or_default() += 1;
        }
    }

    /// Requests without an answer.
    pub fn left(&self) -> usize {
        self.requests - self.already_done - self.answered - self.failed
    }

    /// Tells all of it on standard error; answers are in `output`.
    pub fn tell(&self, output: &str) {
        self.lines(output).iter().for_each(say);
    }

    fn lines(&self, output: &str) -> Vec<String> {
        let Summary { requests, already_done, answered, failed, .. } = self;
        let mut lines = vec![format!(
            "{requests} request{}: {answered} answered, {failed} failed, {already_done} done before",
            if *requests == 1 { "" } else { "s" }
        )];
        if self.left() > 0 {
            lines[0].push_str(&format!(", {} left: give the same command to go on", self.left()));
        }
        lines.extend(self.named.iter().cloned());
        if *failed > self.named.len() {
            lines.push(format!("failed: {} more, in {}", failed - self.named.len(), printable(output)));
        }
        if self.too_long > 0 {
            lines.push(format!("{} prompts were too long: raise --ctx-size", self.too_long));
        }
        if !self.ignored.is_empty() {
            let field = |(name, count): (&String, &usize)| format!("{} ({count})", printable(name));
            let fields: Vec<String> = self.ignored.iter().map(field).collect();
            lines.push(format!("ignored fields, with the number of requests: {}", fields.join(", ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_and_nothing_twice() {
        let mut summary = Summary { requests: 20, already_done: 3, answered: 4, ..Summary::default() };
        for i in 0..7 {
            summary.add_failed(&format!("r{i}\n"), &Refusal::bad_request(None, "bad \x1b[31m"));
        }
        summary.add_ignored(&["user".to_owned(), "x\n".to_owned()]);
        summary.add_ignored(&["user".to_owned()]);
        let lines = summary.lines("OUT");
        assert_eq!(
            lines[0],
            "20 requests: 4 answered, 7 failed, 3 done before, 6 left: give the same command to go on"
        );
        assert_eq!(lines[1], "failed: \"r0\\n\": 400: bad \\u{1b}[31m");
        assert_eq!(lines[6], "failed: 2 more, in OUT");
        assert_eq!(lines[7], "ignored fields, with the number of requests: user (2), x\\n (1)");
        let done = Summary { requests: 3, already_done: 3, ..Summary::default() };
        assert_eq!(done.lines("OUT"), ["3 requests: 0 answered, 0 failed, 3 done before"]);
    }
}
