//! wgmma on one warp, which owns 16 of the 64 rows of its warpgroup.
//!
//! The sum is computed when the instruction is issued, and nobody may see it before `wgmma.wait_group`: until then the registers
//! that it writes may not be touched, those that it reads may not be written, and neither may its operands in shared memory.
//! A copy between registers passes on what is known of the source: compilers rename registers with them.

use super::state::{Fault, Wait};
use super::warp::{Flow, Step};
use crate::finding::FindingKind;
use crate::lanes::{FULL, Lanes};
use crate::matrix::descriptor::{Descriptor, Major};
use crate::matrix::moves::{self, Arrangement};
use crate::program::{Op, Slot, Watch, Wgmma, WgmmaA};

/// What a wgmma that was not waited for does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Accumulates in it: its columns, and the registers of the whole accumulator.
    Sum { columns: usize, registers: usize },
    /// Reads A from it.
    A,
}

#[derive(Clone, Copy, Debug, Default)]
struct Register {
    /// The last use that was not waited for, and its group.
    pending: Option<(Use, u32)>,
    /// Changed since the last `wgmma.fence`.
    changed: bool,
}

/// A group that was not waited for.
#[derive(Clone, Copy, Debug)]
struct Pending {
    group: u32,
    /// The wgmmas that the warp had issued at its end.
    issued: u64,
}

/// A warp's wgmma state.
#[derive(Debug, Default)]
pub struct Wgmmas {
    /// Groups committed so far, which is the number of the open one.
    group: u32,
    fenced: bool,
    pending: Vec<Pending>,
    /// By slot; empty before the first use.
    registers: Vec<Register>,
}

impl Wgmmas {
    fn register(&mut self, slot: Slot) -> &mut Register {
        let at = slot as usize;
        if at >= self.registers.len() {
            self.registers.resize(at + 1, Register::default());
        }
        &mut self.registers[at]
    }
}

fn not_waited(message: &str) -> Fault {
    Fault::new(FindingKind::AsyncNotWaited, None, message)
}

fn not_fenced(message: &str) -> Fault {
    Fault::new(FindingKind::MissingWgmmaFence, None, message)
}

impl Step<'_, '_> {
    pub(super) fn wgmma_op(&mut self, op: &Op) -> Result<Flow, Fault> {
        let wgmmas = &mut self.warp.wgmmas;
        match op {
            Op::WgmmaFence => {
                wgmmas.fenced = true;
                wgmmas.registers.iter_mut().for_each(|r| r.changed = false);
            }
            Op::WgmmaCommit => {
                let group = wgmmas.group;
                wgmmas.group += 1;
                let issued = self.issued_wgmmas();
                self.warp.wgmmas.pending.push(Pending { group, issued });
            }
            Op::WgmmaWait { pending } => {
                let limit = wgmmas.group.saturating_sub(*pending);
                return self.wait_for_wgmmas(limit);
            }
            Op::Wgmma(wgmma) => self.wgmma(wgmma)?,
            other => panic!("{other:?} is no wgmma operation"),
        }
        Ok(Flow::Next)
    }

    /// Ends the groups below `limit`, once all warps of the warpgroup have issued their wgmmas.
    fn wait_for_wgmmas(&mut self, limit: u32) -> Result<Flow, Fault> {
        let due = |p: &&Pending| p.group < limit;
        if let Some(issued) = self.warp.wgmmas.pending.iter().rfind(due).map(|p| p.issued)
            && self.launch.gpu.config.checks.races
            && !self.finish_operands(issued)
        {
            return Ok(Flow::Wait(Wait::Warpgroup { issued }));
        }
        let wgmmas = &mut self.warp.wgmmas;
        wgmmas.pending.retain(|p| p.group >= limit);
        for register in &mut wgmmas.registers {
            if register.pending.is_some_and(|(_, group)| group < limit) {
                register.pending = None;
            }
        }
        Ok(Flow::Next)
    }

    fn wgmma(&mut self, wgmma: &Wgmma) -> Result<(), Fault> {
        let group_end = (self.warp.index as u32 / 4 + 1) * 128;
        if group_end > self.launch.config.block.iter().product() {
            let message = "the warp belongs to no whole warpgroup of four";
            return Err(Fault::new(FindingKind::BadOperand, None, message));
        }
        let scale = self.pred(wgmma.scale_d);
        if scale != 0 && scale != FULL {
            let message = format!("scale-d differs between lanes: {scale:#x}");
            return Err(Fault::new(FindingKind::BadOperand, None, message));
        }
        let checked = self.launch.gpu.config.checks.races;
        if checked {
            self.check_wgmma_registers(wgmma)?;
            self.check_warpgroup_issue()?;
        }
        if scale != 0 {
            self.registers_must_be_defined(&wgmma.d, "a matrix product")?;
        }
        let mut pieces = Vec::new();
        let first_row = self.warp.index % 4 * 16;
        let mut a: Vec<Lanes> = match &wgmma.a {
            WgmmaA::Registers(slots) => slots.iter().map(|&slot| *self.reg(slot)).collect(),
            WgmmaA::Memory(slot, major) => self.wgmma_operand(*slot, *major, (first_row, 16), 2, &mut pieces)?,
        };
        a.iter_mut().flatten().for_each(|lane| *lane ^= wgmma.flip);
        let b = self.wgmma_operand(wgmma.b, wgmma.b_major, (0, wgmma.columns), 1, &mut pieces)?;
        self.wgmma_multiply(wgmma, &a, &b, scale != 0);
        if checked {
            self.guard_operands(pieces);
        }
        Ok(())
    }

    fn wgmma_multiply(&mut self, wgmma: &Wgmma, a: &[Lanes], b: &[Lanes], accumulates: bool) {
        const ZERO: Lanes = [0; 32];
        let tile = &wgmma.tile;
        let a: Vec<&Lanes> = a.iter().collect();
        let mut out = vec![ZERO; wgmma.d.len()];
        let b: Vec<&Lanes> = b.iter().collect();
        let c: Vec<&Lanes> = wgmma.d.iter().map(|&slot| if accumulates { self.reg(slot) } else { &ZERO }).collect();
        (tile.multiply)(&mut out, &a, &b, &c, self.summation());
        for (&slot, values) in wgmma.d.iter().zip(&out) {
            self.set(slot, FULL, values);
        }
    }

    /// Registers with fragments of `lines` (first and count) rows of A or columns of B: blocks of 8 × 16 bytes, the two along K one
    /// after the other, each for `together` groups of eight lines.
    fn wgmma_operand(
        &mut self,
        slot: Slot,
        major: Major,
        (first, count): (usize, usize),
        together: usize,
        pieces: &mut Vec<u32>,
    ) -> Result<Vec<Lanes>, Fault> {
        let bits = self.reg(slot);
        if let Some(lane) = (0..32).find(|&lane| bits[lane] != bits[0]) {
            let message = "a matrix descriptor must be the same in all lanes";
            return Err(Fault::new(FindingKind::BadOperand, Some(lane), message));
        }
        let bad = |message| Fault::new(FindingKind::BadOperand, None, message);
        let descriptor = Descriptor::parse(bits[0]).map_err(bad)?;
        let mut registers = Vec::with_capacity(count / 4);
        for line in (first..first + count).step_by(8 * together) {
            for half in 0..2 {
                for block in 0..together {
                    let line = (line + 8 * block) as u32;
                    registers.push(self.core_matrix(&descriptor, major, line, half, pieces)?);
                }
            }
        }
        Ok(registers)
    }

    /// Eight lines by 16 bytes along K, as a register's fragment.
    fn core_matrix(
        &mut self,
        descriptor: &Descriptor,
        major: Major,
        line: u32,
        half: u32,
        pieces: &mut Vec<u32>,
    ) -> Result<Lanes, Fault> {
        let mut rows = [[0; 4]; 8];
        for (i, row) in rows.iter_mut().enumerate() {
            let i = i as u32;
            let address = match major {
                Major::K => descriptor.along_k(line + i, half),
                Major::Mn => descriptor.along_mn(8 * half + i, line / 8),
            };
            let (cta, offset) = self.shared_at(address.into(), 16, 0)?;
            self.check_operand_read(cta, offset)?;
            self.check_async_proxy(cta, offset, 16, None, "reads")?;
            pieces.push(offset);
            *row = self.ctas[cta].shared.load_piece(offset);
        }
        let arrangement = if major == Major::K { Arrangement::Plain } else { Arrangement::Halves };
        Ok(moves::fragment(&rows, arrangement))
    }

    /// Checks the registers that a wgmma accumulates in and reads A from, and notes that they are in use.
    fn check_wgmma_registers(&mut self, wgmma: &Wgmma) -> Result<(), Fault> {
        let wgmmas = &mut self.warp.wgmmas;
        if !wgmmas.fenced {
            return Err(not_fenced("no wgmma.fence before the first wgmma.mma_async"));
        }
        let group = wgmmas.group;
        let sum = Use::Sum { columns: wgmma.columns, registers: wgmma.d.len() };
        if let WgmmaA::Registers(a) = &wgmma.a {
            for &slot in a {
                let register = wgmmas.register(slot);
                if register.changed {
                    return Err(not_fenced("a register of A was written after the last wgmma.fence"));
                }
                if let Some((Use::Sum { .. }, _)) = register.pending {
                    return Err(not_waited("a register of A holds the sum of a wgmma that was not waited for"));
                }
                register.pending = Some((Use::A, group));
            }
        }
        for &slot in &wgmma.d {
            let register = wgmmas.register(slot);
            if register.changed {
                return Err(not_fenced("an accumulator was written after the last wgmma.fence"));
            }
            match register.pending {
                Some((Use::A, _)) => {
                    return Err(not_waited("an accumulator is read by a wgmma that was not waited for"));
                }
                Some((other, _)) if other != sum => {
                    return Err(not_waited("an accumulator is that of a wgmma of another shape, not waited for"));
                }
                _ => register.pending = Some((sum, group)),
            }
        }
        Ok(())
    }

    /// Checks an operation, other than wgmma, on registers that some wgmma uses.
    pub(super) fn check_watched(&mut self, watch: &Watch) -> Result<(), Fault> {
        if !self.launch.gpu.config.checks.races {
            return Ok(());
        }
        let wgmmas = &mut self.warp.wgmmas;
        if let (true, [from], [to]) = (watch.copies, &*watch.reads, &*watch.writes) {
            let source = *wgmmas.register(*from);
            let target = wgmmas.register(*to);
            if target.pending.is_none() || source.pending.is_some() {
                *target = source;
                return Ok(());
            }
        } else if watch.reads.iter().any(|&r| matches!(wgmmas.register(r).pending, Some((Use::Sum { .. }, _)))) {
            return Err(not_waited("read of an accumulator of a wgmma that was not waited for"));
        }
        for &slot in &watch.writes {
            let register = wgmmas.register(slot);
            match register.pending {
                Some((Use::A, _)) => return Err(not_waited("write of a register that a wgmma still reads A from")),
                Some(_) => return Err(not_waited("write of an accumulator of a wgmma that was not waited for")),
                None => register.changed = true,
            }
        }
        Ok(())
    }
}
