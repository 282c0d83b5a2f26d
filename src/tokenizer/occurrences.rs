//! For every position of a text, the longest of many patterns that starts there.

use std::collections::VecDeque;

/// Patterns as the automaton of Aho and Corasick (1975) over their reversed texts, which reads a text from its end.
pub(super) struct Occurrences {
    /// The children of node `n` are `first_child[n]..first_child[n + 1]`, ascending by their byte.
    first_child: Vec<u32>,
    byte: Vec<u8>,
    /// The node of the longest proper suffix of this node's string that is a node as well.
    suffix: Vec<u32>,
    /// The longest pattern that this node's reversed string starts with.
    longest: Vec<Option<u32>>,
    entries: Vec<Entry>,
}

/// A pattern, and the next shorter patterns that it starts with. With `jump` beside `shorter`, the longest of at most a
/// given length is found in logarithmic time (Myers 1983).
struct Entry {
    token: u32,
    bytes: u32,
    shorter: Option<u32>,
    jump: Option<u32>,
    depth: u32,
}

const ROOT: u32 = 0;

impl Occurrences {
    /// The automaton of these texts and their tokens. Of equal texts the first counts.
    pub(super) fn of(mut patterns: Vec<(&str, u32)>) -> Occurrences {
        let backwards = |text: &str, at: usize| text.as_bytes()[text.len() - 1 - at];
        patterns.sort_by(|(left, _), (right, _)| left.bytes().rev().cmp(right.bytes().rev()));
        patterns.dedup_by(|later, first| later.0 == first.0);
        let mut this = Occurrences {
            first_child: Vec::new(),
            byte: vec![0],
            suffix: vec![ROOT],
            longest: vec![None],
            entries: Vec::new(),
        };
        let mut order: Vec<(u32, u32)> = Vec::new();
        // A node is a range of the sorted patterns that share their last `depth` bytes.
        let mut queue = VecDeque::from([(0, patterns.len(), 0)]);
        while let Some((mut from, to, depth)) = queue.pop_front() {
            let node = this.first_child.len() as u32;
            this.first_child.push(this.byte.len() as u32);
            if from < to && patterns[from].0.len() == depth && depth > 0 {
                order.push((node, from as u32));
                from += 1;
            }
            while from < to {
                let byte = backwards(patterns[from].0, depth);
                let same = patterns[from..to].partition_point(|(text, _)| backwards(text, depth) == byte);
                this.byte.push(byte);
                queue.push_back((from, from + same, depth + 1));
                from += same;
            }
        }
        this.first_child.push(this.byte.len() as u32);
        this.link(&order, &patterns);
        this
    }

    /// Suffixes and longest patterns of all nodes, parents first.
    fn link(&mut self, order: &[(u32, u32)], patterns: &[(&str, u32)]) {
        let nodes = self.byte.len();
        (self.suffix, self.longest) = (vec![ROOT; nodes], vec![None; nodes]);
        let mut ends = order.iter().peekable();
        for node in 0..nodes as u32 {
            let shorter = self.longest[self.suffix[node as usize] as usize];
            let own = ends
                .next_if(|(end, _)| *end == node)
                .map(|&(_, pattern)| self.push(patterns[pattern as usize], shorter));
            self.longest[node as usize] = own.or(shorter);
            for child in self.children(node) {
                if node != ROOT {
                    let byte = self.byte[child as usize];
                    self.suffix[child as usize] = self.step(self.suffix[node as usize], byte);
                }
            }
        }
    }

    fn push(&mut self, (text, token): (&str, u32), shorter: Option<u32>) -> u32 {
        let entry = |index: Option<u32>| index.map(|index| &self.entries[index as usize]);
        let (depth, jump) = match entry(shorter) {
            None => (0, None),
            Some(parent) => {
                // Jumps of equal length meet: the next one spans both.
                let depth = |index: Option<u32>| entry(index).map_or(0, |entry| entry.depth + 1);
                let over = entry(parent.jump).map(|jump| depth(parent.jump) - depth(jump.jump));
                let spans_alike = over == Some(parent.depth + 1 - depth(parent.jump));
                let jump = if spans_alike { entry(parent.jump).and_then(|jump| jump.jump) } else { shorter };
                (parent.depth + 1, jump)
            }
        };
        self.entries.push(Entry { token, bytes: text.len() as u32, shorter, jump, depth });
        self.entries.len() as u32 - 1
    }

    fn children(&self, node: u32) -> std::ops::Range<u32> {
        self.first_child[node as usize]..self.first_child[node as usize + 1]
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let children = self.children(node);
        let bytes = &self.byte[children.start as usize..children.end as usize];
        bytes.binary_search(&byte).ok().map(|index| children.start + index as u32)
    }

    fn step(&self, mut node: u32, byte: u8) -> u32 {
        loop {
            match self.child(node, byte) {
                Some(child) => return child,
                None if node == ROOT => return ROOT,
                None => node = self.suffix[node as usize],
            }
        }
    }

    /// Calls `found(position, entry)` with the longest pattern at each position where one starts, from the end of the text
    /// to its start.
    pub(super) fn each_start(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut node = ROOT;
        let from_root: Vec<u32> = (0..=255).map(|byte| self.child(ROOT, byte).unwrap_or(ROOT)).collect();
        for (at, &byte) in text.iter().enumerate().rev() {
            node = if node == ROOT { from_root[usize::from(byte)] } else { self.step(node, byte) };
            if let Some(entry) = self.longest[node as usize] {
                found(at, entry);
            }
        }
    }

    /// The longest pattern of at most `room` bytes among this entry's and those that it starts with.
    pub(super) fn fitting(&self, entry: u32, room: usize) -> Option<u32> {
        let mut at = Some(entry);
        while let Some(index) = at {
            let Entry { bytes, shorter, jump, .. } = &self.entries[index as usize];
            if *bytes as usize <= room {
                return Some(index);
            }
            let too_long = |jump: &u32| self.entries[*jump as usize].bytes as usize > room;
            at = jump.filter(too_long).or(*shorter);
        }
        None
    }

    pub(super) fn token(&self, entry: u32) -> u32 {
        self.entries[entry as usize].token
    }
}
