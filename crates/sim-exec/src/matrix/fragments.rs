//! Fragments of wmma: which element each register of each lane holds.
//!
//! The ISA leaves this open; here it is the layout of mma.sync, tile by tile, so that wmma.mma is a series of mma. Fragments of
//! f16 A and B have more registers than elements (compute capability 7.0 kept copies): the rest repeats the first.

/// An operand of wmma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    A,
    B,
    /// Also D.
    C,
}

/// The elements that a register holds: element i of lane 4 g + t is `step t + i` along the minor axis and g along the major axis
/// from the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub row: usize,
    pub column: usize,
}

/// The fragment of one operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub role: Role,
    pub rows: usize,
    pub columns: usize,
    /// Bits of an element in memory.
    pub bits: usize,
    /// Elements per register.
    pub per: usize,
    /// One per register that holds something new.
    pub origins: Vec<Origin>,
    /// Registers in all.
    pub registers: usize,
}

impl Fragment {
    /// The fragment of an operand of m × n × k with elements of type `ty`; `None` if wmma has no such shape.
    pub fn find([m, n, k]: [usize; 3], role: Role, ty: &str) -> Option<Fragment> {
        let sixteen = matches!([m, n], [16, 16] | [32, 8] | [8, 32]);
        let possible = match (role, ty) {
            (Role::C, "f16" | "f32" | "s32") if sixteen && k == 16 => true,
            (Role::C, "f32") => [m, n, k] == [16, 16, 8],
            (Role::C, "s32") => [m, n, k] == [8, 8, 32] || [m, n, k] == [8, 8, 128],
            (_, "f64") => [m, n, k] == [8, 8, 4],
            (Role::C, _) => false,
            (_, "f16" | "bf16" | "s8" | "u8") => sixteen && k == 16,
            (_, "tf32") => [m, n, k] == [16, 16, 8],
            (_, "s4" | "u4") => [m, n, k] == [8, 8, 32],
            (_, "b1") => [m, n, k] == [8, 8, 128],
            _ => false,
        };
        if !possible {
            return None;
        }
        let (bits, width) = match ty {
            "f64" => (64, 64),
            "f32" | "s32" | "tf32" => (32, 32),
            "f16" | "bf16" => (16, 32),
            "s8" | "u8" => (8, 32),
            "s4" | "u4" => (4, 32),
            _ => (1, 32),
        };
        let per = width / bits;
        let (rows, columns) = match role {
            Role::A => (m, k),
            Role::B => (k, n),
            Role::C => (m, n),
        };
        let origins = match role {
            Role::A => a_origins(m, k, 4 * per),
            Role::B => b_origins(n, k, 4 * per),
            Role::C => c_origins(m, n, per),
        };
        let registers = if ty == "f16" && role != Role::C { 8 } else { origins.len() };
        Some(Fragment { role, rows, columns, bits, per, origins, registers })
    }

    /// Row and column of the first element that a lane holds in a register.
    pub fn place(&self, origin: Origin, lane: usize) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        match self.role {
            Role::A => (origin.row + g, origin.column + self.per * t),
            Role::B => (origin.row + self.per * t, origin.column + g),
            Role::C => (origin.row + g, origin.column + 2 * t),
        }
    }
}

/// Tiles of 16 rows, in each blocks of `width` columns, in each two blocks of 8 rows.
fn a_origins(m: usize, k: usize, width: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for tile in (0..m).step_by(16) {
        for column in (0..k).step_by(width) {
            origins.extend((tile..m.min(tile + 16)).step_by(8).map(|row| Origin { row, column }));
        }
    }
    origins
}

/// Panels of 8 columns, in each blocks of `width` rows.
fn b_origins(n: usize, k: usize, width: usize) -> Vec<Origin> {
    let panels = (0..n).step_by(8);
    panels.flat_map(|column| (0..k).step_by(width).map(move |row| Origin { row, column })).collect()
}

/// Tiles of 16 rows, in each panels of 8 columns, in each two blocks of 8 rows: two columns per lane, in one register or two.
fn c_origins(m: usize, n: usize, per: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for tile in (0..m).step_by(16) {
        for panel in (0..n).step_by(8) {
            for row in (tile..m.min(tile + 16)).step_by(8) {
                origins.extend((0..2).step_by(per).map(|i| Origin { row, column: panel + i }));
            }
        }
    }
    origins
}
