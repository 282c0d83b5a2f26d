//! Names and immediates to register slots.

use std::collections::HashMap;

use sim_ptx::{Function, Operand, Variable, VariableSpace};

use crate::program::{Address, Pred, PredSlot, Program, RESERVED_SHARED_BYTES, SINK, Slot, Special};

/// What a name stands for inside a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Register {
        slot: Slot,
        bits: u32,
    },
    Pred(PredSlot),
    /// Offset in shared memory.
    Shared(u32),
    /// Offset in the thread's local memory.
    Local(u32),
    /// Offset in the kernel's parameters.
    Param(u32),
    /// Address in global memory.
    Global(u64),
}

/// Names of one (inlined) function.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub names: HashMap<String, Binding>,
    pub labels: HashMap<String, u32>,
}

/// A program under construction.
pub struct Builder<'m> {
    pub program: Program,
    pub globals: &'m HashMap<String, Binding>,
    pub scope: Scope,
    constants: HashMap<u64, Slot>,
    specials: Vec<(Special, Slot)>,
    shared_variables: HashMap<String, u32>,
    preds: usize,
    always: Option<PredSlot>,
}

impl<'m> Builder<'m> {
    pub fn new(globals: &'m HashMap<String, Binding>) -> Self {
        Builder {
            program: Program::default(),
            globals,
            scope: Scope::default(),
            constants: HashMap::new(),
            specials: Vec::new(),
            shared_variables: HashMap::new(),
            preds: 0,
            always: None,
        }
    }

    /// A fresh register.
    pub fn slot(&mut self) -> Result<Slot, String> {
        let slot = self.program.slots;
        self.program.slots += 1;
        u16::try_from(slot).ok().filter(|s| *s != SINK).ok_or_else(|| "more than 65534 registers".to_owned())
    }

    /// A fresh predicate register.
    pub fn pred_slot(&mut self) -> Result<PredSlot, String> {
        let slot = self.preds;
        self.preds += 1;
        self.program.preds = self.preds;
        u16::try_from(slot).ok().filter(|s| *s != SINK).ok_or_else(|| "more than 65534 predicates".to_owned())
    }

    /// Room in the thread's local memory.
    pub fn local(&mut self, bytes: u64, align: u64) -> u32 {
        let at = u64::from(self.program.local_bytes).next_multiple_of(align.max(1));
        self.program.local_bytes = (at + bytes) as u32;
        at as u32
    }

    /// Binds the variables of a function.
    pub fn declare(&mut self, function: &Function) -> Result<(), String> {
        for v in &function.variables {
            // However often a function is inlined, its shared variables are the same memory.
            let key = (v.space == VariableSpace::Shared).then(|| format!("{}::{}", function.name, v.name));
            match key.as_ref().and_then(|key| self.shared_variables.get(key)) {
                Some(at) => {
                    self.scope.names.insert(v.name.clone(), Binding::Shared(*at));
                }
                None => self.declare_one(v)?,
            }
            if let (Some(key), Some(Binding::Shared(at))) = (key, self.binding(&v.name)) {
                self.shared_variables.insert(key, at);
            }
        }
        Ok(())
    }

    pub fn declare_one(&mut self, v: &Variable) -> Result<(), String> {
        let binding = match v.space {
            VariableSpace::Register if v.ty == "pred" => Binding::Pred(self.pred_slot()?),
            VariableSpace::Register => Binding::Register { slot: self.slot()?, bits: v.bytes as u32 * 8 },
            VariableSpace::Local | VariableSpace::Param => Binding::Local(self.local(v.bytes, v.align)),
            VariableSpace::Shared if v.dynamic => return Ok(()),
            VariableSpace::Shared => Binding::Shared(self.shared(v)),
            VariableSpace::Global | VariableSpace::Const => return Ok(()),
        };
        self.scope.names.insert(v.name.clone(), binding);
        Ok(())
    }

    /// Room in static shared memory.
    pub fn shared(&mut self, v: &Variable) -> u32 {
        let at = u64::from(self.program.static_shared_bytes).next_multiple_of(v.align.max(1));
        self.program.static_shared_bytes = (at + v.bytes) as u32;
        at as u32
    }

    pub fn binding(&self, name: &str) -> Option<Binding> {
        self.scope.names.get(name).or_else(|| self.globals.get(name)).copied()
    }

    /// A register that holds `value` in every lane.
    pub fn constant(&mut self, value: u64) -> Result<Slot, String> {
        if let Some(&slot) = self.constants.get(&value) {
            return Ok(slot);
        }
        let slot = self.slot()?;
        self.constants.insert(value, slot);
        self.program.constants.push((slot, value));
        Ok(slot)
    }

    fn special(&mut self, name: &str) -> Result<Slot, String> {
        let special = parse_special(name).ok_or_else(|| format!("{name} is not declared"))?;
        if let Some((_, slot)) = self.specials.iter().find(|(s, _)| *s == special) {
            return Ok(*slot);
        }
        let slot = self.slot()?;
        self.specials.push((special, slot));
        self.program.specials.push((slot, special));
        Ok(slot)
    }

    /// A source operand of type `ty`.
    pub fn source(&mut self, operand: &Operand, ty: &str) -> Result<Slot, String> {
        match operand {
            Operand::Integer(value) if ty == "f32" => self.constant(u64::from((*value as i64 as f32).to_bits())),
            Operand::Integer(value) if ty == "f64" => self.constant((*value as i64 as f64).to_bits()),
            Operand::Integer(value) => self.constant(*value),
            Operand::Single(bits) if ty == "f64" => self.constant(f64::from(f32::from_bits(*bits)).to_bits()),
            Operand::Single(bits) => self.constant((*bits).into()),
            Operand::Double(bits) if ty == "f32" => self.constant(u64::from((f64::from_bits(*bits) as f32).to_bits())),
            Operand::Double(bits) => self.constant(*bits),
            Operand::Name(name) => self.named(name, 0),
            Operand::NameOffset(name, offset) => self.named(name, *offset),
            other => Err(format!("expected a register or a number, found {other:?}")),
        }
    }

    fn named(&mut self, name: &str, offset: i64) -> Result<Slot, String> {
        let moved = |base: u64| base.wrapping_add(offset as u64);
        match self.binding(name) {
            Some(Binding::Register { slot, .. }) => Ok(slot),
            Some(Binding::Shared(at) | Binding::Local(at) | Binding::Param(at)) => self.constant(moved(at.into())),
            Some(Binding::Global(address)) => self.constant(moved(address)),
            Some(Binding::Pred(_)) => Err(format!("{name} is a predicate, expected a register")),
            None if name == "WARP_SZ" => self.constant(32),
            None => self.special(name),
        }
    }

    /// A destination register.
    pub fn destination(&mut self, operand: &Operand) -> Result<Slot, String> {
        match operand {
            Operand::Sink => Ok(SINK),
            Operand::Name(name) => match self.binding(name) {
                Some(Binding::Register { slot, .. }) => Ok(slot),
                _ => Err(format!("{name} is not a register")),
            },
            other => Err(format!("expected a register, found {other:?}")),
        }
    }

    /// A predicate operand.
    pub fn pred(&mut self, operand: &Operand) -> Result<Pred, String> {
        match operand {
            Operand::Name(name) => self.named_pred(name, false),
            Operand::Not(name) => self.named_pred(name, true),
            Operand::Integer(value) => {
                // A register that is never written is false in every lane.
                let slot = match self.always {
                    Some(slot) => slot,
                    None => self.pred_slot()?,
                };
                self.always = Some(slot);
                Ok(Pred { slot, negated: *value != 0 })
            }
            other => Err(format!("expected a predicate, found {other:?}")),
        }
    }

    pub fn named_pred(&self, name: &str, negated: bool) -> Result<Pred, String> {
        match self.binding(name) {
            Some(Binding::Pred(slot)) => Ok(Pred { slot, negated }),
            _ => Err(format!("{name} is not a predicate")),
        }
    }

    /// A predicate destination.
    pub fn pred_destination(&mut self, operand: &Operand) -> Result<PredSlot, String> {
        match operand {
            Operand::Sink => Ok(SINK),
            other => Ok(self.pred(other)?.slot),
        }
    }

    pub fn is_pred(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Name(name) | Operand::Not(name) => matches!(self.binding(name), Some(Binding::Pred(_))),
            _ => false,
        }
    }

    /// `[base + offset]`, and what the base names if it is a variable.
    pub fn address(&mut self, operand: &Operand) -> Result<(Address, Option<Binding>), String> {
        let Operand::Memory(base, offset) = operand else {
            return Err(format!("expected an address in brackets, found {operand:?}"));
        };
        let fixed = |at: u64, binding| {
            Ok((Address { base: None, offset: (at as i64).wrapping_add(*offset), wide: true }, binding))
        };
        match &**base {
            Operand::Integer(at) => fixed(*at, None),
            Operand::Name(name) => match self.binding(name) {
                Some(Binding::Register { slot, bits }) => {
                    Ok((Address { base: Some(slot), offset: *offset, wide: bits == 64 }, None))
                }
                Some(b @ (Binding::Shared(at) | Binding::Local(at) | Binding::Param(at))) => fixed(at.into(), Some(b)),
                Some(b @ Binding::Global(at)) => fixed(at, Some(b)),
                _ => Err(format!("{name} is no register or variable")),
            },
            other => Err(format!("expected a register or variable, found {other:?}")),
        }
    }
}

fn parse_special(name: &str) -> Option<Special> {
    let (base, axis) = match name.rsplit_once('.') {
        Some((base, axis)) => (
            base,
            match axis {
                "x" => 0,
                "y" => 1,
                "z" => 2,
                _ => return None,
            },
        ),
        None => (name, 0),
    };
    if let Some(n) = base.strip_prefix("%envreg") {
        return n.parse().ok().map(Special::EnvReg);
    }
    Some(match base {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        "%ctaid" => Special::Ctaid(axis),
        "%nctaid" => Special::Nctaid(axis),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%clusterid" => Special::ClusterId(axis),
        "%nclusterid" => Special::NClusterId(axis),
        "%cluster_ctaid" => Special::ClusterCtaId(axis),
        "%cluster_nctaid" => Special::ClusterNCtaId(axis),
        "%cluster_ctarank" => Special::ClusterCtaRank,
        "%cluster_nctarank" => Special::ClusterNCtaRank,
        "%dynamic_smem_size" => Special::DynamicSharedBytes,
        "%total_smem_size" => Special::TotalSharedBytes,
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" => Special::ReservedSharedOffset(0),
        "%reserved_smem_offset_1" => Special::ReservedSharedOffset(RESERVED_SHARED_BYTES / 2),
        "%reserved_smem_offset_end" => Special::ReservedSharedOffset(RESERVED_SHARED_BYTES),
        "%reserved_smem_offset_cap" => Special::ReservedSharedBytes,
        _ => return None,
    })
}
