//! Graphs: made by capture or node by node, instantiated, updated, launched.

use std::collections::BTreeSet;

use super::Driver;
use super::fault::FaultPoint;
use super::queue::TaskId;
use super::table::Handle;
use super::work::{End, KernelWork, Work};
use crate::code::{Code, Res, refuse, require};

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    pub handle: Handle,
    pub work: Work,
    /// Indices of the nodes that it waits for.
    pub after: Vec<usize>,
}

/// A graph that can be changed.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
}

/// Where a node is.
#[derive(Clone, Copy, Debug)]
pub struct NodeRef {
    pub graph: Handle,
    pub index: usize,
}

/// A graph that can be launched.
#[derive(Debug)]
pub struct Exec {
    pub context: Handle,
    pub nodes: Vec<Node>,
    /// The tasks that end its last launch: one launch runs after the other, in whatever streams.
    pub last: Vec<TaskId>,
}

/// `CUgraphExecUpdateResult`, for changes that an update cannot make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateError {
    TopologyChanged = 2,
    NodeTypeChanged = 3,
    ParametersChanged = 5,
}

impl Graph {
    /// The given nodes and all that they wait for.
    pub fn ancestors(&self, nodes: &[usize]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open = nodes.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node) {
                open.extend(&self.nodes[node].after);
            }
        }
        found
    }
}

/// `CUgraphNodeType`.
pub fn node_type(work: &Work) -> u32 {
    match work {
        Work::Kernel(_) => 0,
        Work::Copy(_) => 1,
        Work::Fill(_) => 2,
        Work::Host(_) => 3,
        Work::Free(_) => 11,
        Work::Graph(_) => 4,
        Work::Empty => 5,
        Work::WaitEvent(_) => 6,
        Work::RecordEvent(_) => 7,
    }
}

impl Driver {
    /// Adds a node after others of the same graph, by index.
    pub fn graph_add(&mut self, graph: Handle, work: Work, after: &[usize]) -> Res<Handle> {
        let index = self.graphs.get(graph)?.nodes.len();
        let handle = self.nodes.insert(NodeRef { graph, index });
        self.graphs.get_mut(graph)?.nodes.push(Node { handle, work, after: after.to_vec() });
        Ok(handle)
    }

    /// Adds a node after others, by handle.
    pub fn graph_add_after(&mut self, graph: Handle, work: Work, after: &[Handle]) -> Res<Handle> {
        let after = after.iter().map(|&n| self.node_in(graph, n)).collect::<Res<Vec<_>>>()?;
        let distinct: BTreeSet<usize> = after.iter().copied().collect();
        require(distinct.len() == after.len(), Code::InvalidValue, "a dependency is given twice")?;
        self.graph_add(graph, work, &after)
    }

    /// Makes one node wait for another.
    pub fn graph_add_dependency(&mut self, graph: Handle, from: Handle, to: Handle) -> Res {
        let (from, to) = (self.node_in(graph, from)?, self.node_in(graph, to)?);
        let entry = self.graphs.get(graph)?;
        require(!entry.nodes[to].after.contains(&from), Code::InvalidValue, "the dependency exists already")?;
        require(!entry.ancestors(&[from]).contains(&to), Code::InvalidValue, "the dependency would close a cycle")?;
        self.graphs.get_mut(graph)?.nodes[to].after.push(from);
        Ok(())
    }

    /// Index of a node of this graph.
    pub fn node_in(&self, graph: Handle, node: Handle) -> Res<usize> {
        let node = self.nodes.get(node)?;
        require(node.graph == graph, Code::InvalidValue, "the node belongs to another graph")?;
        Ok(node.index)
    }

    pub fn node(&self, node: Handle) -> Res<&Node> {
        let NodeRef { graph, index } = *self.nodes.get(node)?;
        Ok(&self.graphs.get(graph)?.nodes[index])
    }

    pub fn node_mut(&mut self, node: Handle) -> Res<&mut Node> {
        let NodeRef { graph, index } = *self.nodes.get(node)?;
        Ok(&mut self.graphs.get_mut(graph)?.nodes[index])
    }

    pub fn graph_remove(&mut self, graph: Handle) -> Res {
        self.graphs.remove(graph)?;
        self.nodes.retain(|_, n| n.graph != graph);
        Ok(())
    }

    /// Refuses to destroy a graph that a capture is making.
    pub fn graph_destroy(&mut self, graph: Handle) -> Res {
        let is_captured = self.captures.values().any(|c| c.graph == graph);
        require(!is_captured, Code::IllegalState, "the graph belongs to a capture that goes on")?;
        self.graph_remove(graph)
    }

    pub fn graph_clone(&mut self, graph: Handle) -> Res<Handle> {
        let nodes = self.graphs.get(graph)?.nodes.clone();
        let clone = self.graphs.insert(Graph::default());
        for node in nodes {
            self.graph_add(clone, node.work, &node.after)?;
        }
        Ok(clone)
    }

    pub fn instantiate(&mut self, graph: Handle, flags: u64) -> Res<Handle> {
        let context = self.context()?;
        // Free on launch, upload, device launch, node priority.
        require(flags & !15 == 0, Code::InvalidValue, format!("instantiation flags {flags:#x}"))?;
        require(flags & 4 == 0, Code::NotSupported, "launching graphs from the device is not simulated")?;
        let is_captured = self.captures.values().any(|c| c.graph == graph);
        require(!is_captured, Code::IllegalState, "the graph belongs to a capture that goes on")?;
        let nodes = self.graphs.get(graph)?.nodes.clone();
        Ok(self.execs.insert(Exec { context, nodes, last: Vec::new() }))
    }

    /// Takes the parameters of a graph of the same shape.
    pub fn exec_update(&mut self, exec: Handle, graph: Handle) -> Res<Result<(), (UpdateError, Handle)>> {
        let old = &self.execs.get(exec)?.nodes;
        let new = &self.graphs.get(graph)?.nodes;
        if let Some(error) = first_difference(old, new) {
            return Ok(Err(error));
        }
        let mut nodes = new.clone();
        for (node, old) in nodes.iter_mut().zip(old) {
            node.handle = old.handle;
        }
        self.execs.get_mut(exec)?.nodes = nodes;
        Ok(Ok(()))
    }

    /// Replaces the kernel launch of one node.
    pub fn exec_set_kernel(&mut self, exec: Handle, node: Handle, work: KernelWork) -> Res {
        let nodes = &mut self.execs.get_mut(exec)?.nodes;
        let Some(node) = nodes.iter_mut().find(|n| n.handle == node) else {
            return refuse(Code::InvalidValue, "the executable graph does not have this node");
        };
        let Work::Kernel(old) = &mut node.work else {
            return refuse(Code::InvalidValue, "the node is no kernel");
        };
        *old = work;
        Ok(())
    }

    pub fn exec_launch(&mut self, exec: Handle, stream: Handle) -> Res {
        let stream = self.stream(stream)?;
        let Exec { context, nodes, last } = self.execs.get(exec)?;
        let (context, nodes, last) = (*context, nodes.clone(), last.clone());
        require(
            self.streams.get(stream)?.context == context,
            Code::InvalidValue,
            "the stream belongs to another context than the graph",
        )?;
        self.fault(FaultPoint::Launch)?;
        self.report.graph_launch(nodes.len());
        let ends = self.submit_after(stream, Work::Graph(nodes), &last)?;
        self.execs.get_mut(exec)?.last = ends;
        Ok(())
    }
}

fn first_difference(old: &[Node], new: &[Node]) -> Option<(UpdateError, Handle)> {
    if old.len() != new.len() {
        return Some((UpdateError::TopologyChanged, 0));
    }
    old.iter().zip(new).find_map(|(a, b)| {
        if a.after != b.after {
            return Some((UpdateError::TopologyChanged, b.handle));
        }
        match (&a.work, &b.work) {
            (x, y) if node_type(x) != node_type(y) => Some((UpdateError::NodeTypeChanged, b.handle)),
            // A copy keeps its direction and its devices.
            (Work::Copy(x), Work::Copy(y)) if !same_place(&x.to, &y.to) || !same_place(&x.from, &y.from) => {
                Some((UpdateError::ParametersChanged, b.handle))
            }
            (Work::Graph(x), Work::Graph(y)) => first_difference(x, y).map(|(e, _)| (e, b.handle)),
            _ => None,
        }
    })
}

fn same_place(a: &End, b: &End) -> bool {
    match (a, b) {
        (End::Host(_), End::Host(_)) => true,
        (End::Device { device: x, .. }, End::Device { device: y, .. }) => x == y,
        _ => false,
    }
}
