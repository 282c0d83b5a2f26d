//! Work that was submitted and has not run: the asynchronous half of the driver.
//!
//! Submitting work makes a [`Task`] that waits for others: for what its stream did before, for events, for the legacy stream. Any
//! task that waits for nothing may run next, and the seed chooses which; so unordered work of two streams runs in either
//! order, and what a program reads before it waited is often not there yet. Tasks run when a call waits for them, by chance
//! while other calls go on, and when the program has made no call for a while (a device works by itself).

use std::collections::{BTreeMap, BTreeSet};

use super::Driver;
use super::graph::Node;
use super::table::Handle;
use super::work::Work;
use crate::code::{Code, Res, refuse};
use crate::host::HostCall;

/// Tasks in the order of their submission.
pub type TaskId = u64;

/// Tasks that may wait: the call that submits one more waits for the oldest, as a full queue of a device makes it.
const TASKS_MAX: usize = 1024;

/// A piece of submitted work.
#[derive(Debug)]
pub struct Task {
    pub context: Handle,
    pub work: Work,
    /// The number of the launch, which its schedule derives from; 0 for other work.
    pub launch: u64,
    /// How many tasks come first and are not done.
    waits_for: usize,
    /// Tasks that wait for this one.
    followers: Vec<TaskId>,
}

/// What waits to run.
#[derive(Debug)]
pub struct Queue {
    tasks: BTreeMap<TaskId, Task>,
    /// Those that wait for nothing, but for host functions that a thread is inside of.
    ready: BTreeSet<TaskId>,
    next: TaskId,
    random: u64,
    /// A call asked whether work is done: some more of it must run, or asking again would never help.
    owes_step: bool,
}

/// What a call does when its wait is over, with its argument.
type Then = fn(&mut Driver, u64) -> Res;

/// What a call must wait for before it returns, and what it does then.
#[derive(Debug)]
pub struct Waiting {
    pub until: Vec<TaskId>,
    /// The context whose loss meanwhile is the call's result.
    context: Option<Handle>,
    then: Option<(Then, u64)>,
}

/// One turn of a device.
#[derive(Debug)]
pub enum Turn {
    /// What was waited for is done.
    Done,
    /// A task ran.
    Ran,
    /// This host function is to be called, without the driver's lock, and the task reported done.
    Call(TaskId, HostCall),
    /// All that could run next is inside a host function of another thread.
    Blocked,
}

impl Queue {
    pub fn new(seed: u64) -> Self {
        Queue { tasks: BTreeMap::new(), ready: BTreeSet::new(), next: 1, random: seed, owes_step: false }
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub fn holds(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Whether the device takes a turn after a call: one in four, and whenever a call asked for progress.
    pub fn takes_turn(&mut self) -> bool {
        let owed = std::mem::take(&mut self.owes_step);
        !self.tasks.is_empty() && (owed || self.draw(4) == 0)
    }

    /// Tasks of some contexts.
    pub fn of(&self, is_meant: impl Fn(Handle) -> bool) -> Vec<TaskId> {
        self.tasks.iter().filter(|(_, t)| is_meant(t.context)).map(|(&id, _)| id).collect()
    }

    /// Adds a task after others; those that are done do not count.
    fn add(&mut self, context: Handle, work: Work, launch: u64, after: &[TaskId]) -> TaskId {
        let id = self.next;
        self.next += 1;
        let mut waits_for = 0;
        for earlier in BTreeSet::from_iter(after) {
            if let Some(earlier) = self.tasks.get_mut(earlier) {
                earlier.followers.push(id);
                waits_for += 1;
            }
        }
        if waits_for == 0 {
            self.ready.insert(id);
        }
        self.tasks.insert(id, Task { context, work, launch, waits_for, followers: Vec::new() });
        id
    }

    /// A task that may run now, chosen by the seed.
    fn choose(&mut self) -> Option<TaskId> {
        let count = self.ready.len();
        (count > 0).then(|| self.draw(count)).and_then(|n| self.ready.iter().nth(n).copied())
    }

    fn remove(&mut self, task: TaskId) -> Option<Task> {
        self.ready.remove(&task);
        let removed = self.tasks.remove(&task)?;
        for id in &removed.followers {
            if let Some(follower) = self.tasks.get_mut(id) {
                follower.waits_for -= 1;
                if follower.waits_for == 0 {
                    self.ready.insert(*id);
                }
            }
        }
        Some(removed)
    }

    /// A number below `bound`, by SplitMix64.
    fn draw(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

impl Driver {
    /// Makes the current call wait for tasks. `context` is the one whose loss it then returns.
    pub fn wait_for(&mut self, until: Vec<TaskId>, context: Handle) {
        self.waiting = Some(Waiting { until, context: Some(context), then: None });
    }

    /// Makes the current call wait for tasks, whatever becomes of them, and then act.
    pub fn wait_and(&mut self, until: Vec<TaskId>, then: Then, argument: u64) {
        self.waiting = Some(Waiting { until, context: None, then: Some((then, argument)) });
    }

    /// Ends a wait.
    pub fn waited(&mut self, waiting: &Waiting) -> Res {
        if let Some(context) = waiting.context
            && let Some(refusal) = &self.contexts.get(context)?.poison
        {
            return Err(refusal.clone());
        }
        waiting.then.map_or(Ok(()), |(then, argument)| then(self, argument))
    }

    /// Refuses to say that tasks are done while they are not; asking often enough makes them so.
    pub fn ask_done(&mut self, tasks: &[TaskId]) -> Res {
        if tasks.iter().all(|&t| !self.queue.holds(t)) {
            return Ok(());
        }
        self.queue.owes_step = true;
        refuse(Code::NotReady, "work that was submitted before has not run yet")
    }

    /// Adds a task after others, some of which may be done.
    pub fn enqueue(&mut self, context: Handle, work: Work, after: &[TaskId]) -> TaskId {
        if matches!(work, Work::Kernel(_)) {
            self.launches += 1;
        }
        let launch = if matches!(work, Work::Kernel(_)) { self.launches } else { 0 };
        self.queue.add(context, work, launch, after)
    }

    /// Adds a task for each node of a graph; returns those that nothing in the graph comes after.
    pub fn enqueue_graph(&mut self, context: Handle, nodes: &[Node], before: &[TaskId]) -> Res<Vec<TaskId>> {
        let mut tasks: Vec<Option<Vec<TaskId>>> = vec![None; nodes.len()];
        let mut is_last = vec![true; nodes.len()];
        nodes.iter().flat_map(|n| &n.after).for_each(|&n| is_last[n] = false);
        // Dependencies may point forward, so that nodes are taken when those before them are.
        let mut left: Vec<usize> = (0..nodes.len()).collect();
        while !left.is_empty() {
            let (ready, later): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|&n| nodes[n].after.iter().all(|&a| tasks[a].is_some()));
            assert!(!ready.is_empty(), "a graph has a cycle");
            for node in ready {
                let earlier = nodes[node].after.iter().filter_map(|&a| tasks[a].as_ref()).flatten();
                // A node after an empty child graph waits for what the graph waits for.
                let after: Vec<TaskId> = earlier.chain(before).copied().collect();
                tasks[node] = Some(self.enqueue_node(context, &nodes[node].work, &after)?);
            }
            left = later;
        }
        let ends: Vec<TaskId> =
            tasks.into_iter().zip(is_last).filter(|(_, last)| *last).flat_map(|(t, _)| t).flatten().collect();
        Ok(if nodes.is_empty() { before.to_vec() } else { ends })
    }

    /// As [`Driver::enqueue`], for work of any kind; returns the tasks that end it.
    pub fn enqueue_node(&mut self, context: Handle, work: &Work, after: &[TaskId]) -> Res<Vec<TaskId>> {
        Ok(match work {
            Work::Graph(nodes) => self.enqueue_graph(context, nodes, after)?,
            Work::WaitEvent(event) => {
                let recorded = self.events.get(*event)?.pending();
                vec![self.enqueue(context, Work::Empty, &[after, &Vec::from_iter(recorded)].concat())]
            }
            Work::RecordEvent(event) => vec![self.enqueue_record(context, *event, after)?],
            Work::Kernel(kernel) => {
                self.functions.get(kernel.function)?;
                vec![self.enqueue(context, work.clone(), after)]
            }
            _ => vec![self.enqueue(context, work.clone(), after)],
        })
    }

    /// Makes the current call wait while too much waits to run.
    pub fn limit_queue(&mut self) {
        if self.waiting.is_none() && self.queue.tasks.len() > TASKS_MAX {
            let excess = self.queue.tasks.len() - TASKS_MAX / 2;
            let until = self.queue.tasks.keys().take(excess).copied().collect();
            self.waiting = Some(Waiting { until, context: None, then: None });
        }
    }

    /// Runs one task, unless all of `until` are done.
    pub fn turn(&mut self, until: &[TaskId]) -> Turn {
        if !until.iter().any(|&t| self.queue.holds(t)) {
            return Turn::Done;
        }
        let Some(id) = self.queue.choose() else { return Turn::Blocked };
        let Some(task) = self.queue.tasks.get(&id) else { return Turn::Done };
        if let Work::Host(call) = task.work {
            self.queue.ready.remove(&id);
            return Turn::Call(id, call);
        }
        if let Some(task) = self.queue.remove(id)
            && let Err(refusal) = self.run(id, &task)
        {
            self.poison(task.context, &refusal);
        }
        Turn::Ran
    }

    /// A host function has returned.
    pub fn turn_done(&mut self, task: TaskId) {
        self.queue.remove(task);
    }

    /// Drops what a lost context had submitted; memory that it freed is freed all the same.
    pub fn drop_tasks(&mut self, context: Handle) {
        for id in self.queue.of(|c| c == context) {
            if let Some(Task { work: Work::Free(free), .. }) = self.queue.remove(id) {
                // Nothing can be said about it any more.
                let _ = self.run_free(&free);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order in which tasks a, b after a, and c run.
    fn order(seed: u64) -> Vec<TaskId> {
        let mut queue = Queue::new(seed);
        let mut add = |after: &[TaskId]| queue.add(7, Work::Empty, 0, after);
        let first = add(&[]);
        add(&[first, first]);
        add(&[]);
        let mut order = Vec::new();
        while let Some(id) = queue.choose() {
            queue.remove(id);
            order.push(id);
        }
        order
    }

    #[test]
    fn seeds_find_every_order_that_dependencies_allow_and_no_other() {
        let orders: std::collections::BTreeSet<Vec<TaskId>> = (0..100).map(order).collect();
        let expected = [vec![1, 2, 3], vec![1, 3, 2], vec![3, 1, 2]];
        assert_eq!(orders, expected.into());
        assert_eq!(order(5), order(5), "a seed repeats itself");
    }
}
