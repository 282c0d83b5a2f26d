//! Runs one matrix instruction of one warp on given registers, and encodes small numbers, for the tests of matrix layouts.
#![allow(dead_code, clippy::unwrap_used, clippy::needless_range_loop)]

use sim_exec::{Arithmetic, Gpu, GpuConfig, LaunchConfig, LoadError, LoadedModule};

/// A register of a warp.
pub type Lanes = [u64; 32];

/// Registers of an operand, and their PTX type.
#[derive(Clone, Debug)]
pub struct Operand {
    pub ty: &'static str,
    pub registers: Vec<Lanes>,
}

/// `{%d0, %d1, …}`
pub fn list(name: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("%{name}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// A kernel around `body`, in which `%a0…`, `%b0…` and `%c0…` hold the operands, and `%d0…`, `count` registers of type `ty`, the
/// result.
pub fn kernel(body: &str, operands: &[Operand], ty: &str, count: usize) -> String {
    let mut text = format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out) {{
        .reg .b64 %in, %out, %at; .reg .b32 %lane; .reg .{ty} %d<{count}>;
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %lane, %laneid; mul.wide.u32 %at, %lane, 8;
        add.s64 %in, %in, %at; add.s64 %out, %out, %at;\n"
    );
    let mut row = 0;
    for (operand, name) in operands.iter().zip(["a", "b", "c"]) {
        text += &format!(".reg .{} %{name}<{}>;\n", operand.ty, operand.registers.len());
        for i in 0..operand.registers.len() {
            text += &format!("ld.global.{} %{name}{i}, [%in+{}];\n", operand.ty, 256 * row);
            row += 1;
        }
    }
    text += body;
    for i in 0..count {
        text += &format!("\nst.global.{ty} [%out+{}], %d{i};", 256 * i);
    }
    text + "\nret; }"
}

/// The result of a [`kernel`].
pub fn run(body: &str, operands: &[Operand], ty: &str, count: usize, truncates: bool) -> Vec<Lanes> {
    let arithmetic = Arithmetic { mma_truncates: truncates, ..Arithmetic::default() };
    let gpu = Gpu::new(GpuConfig { arithmetic, workers: 1, ..GpuConfig::default() });
    let text = kernel(body, operands, ty, count);
    let module = LoadedModule::load(&gpu, &text, "k.ptx").unwrap_or_else(|e| panic!("{e}\n{body}"));
    let input: Vec<u8> =
        operands.iter().flat_map(|o| o.registers.iter().flatten()).flat_map(|v| v.to_le_bytes()).collect();
    let from = gpu.memory.alloc(input.len().max(1) as u64, "in").unwrap();
    gpu.memory.write(from, &input).unwrap();
    let mut output = vec![0; 256 * count];
    let to = gpu.memory.alloc(output.len() as u64, "out").unwrap();
    gpu.memory.write(to, &output).unwrap();
    let params: Vec<u8> = [from, to].iter().flat_map(|a| a.to_le_bytes()).collect();
    let launch = LaunchConfig { block: [32, 1, 1], params: &params, ..LaunchConfig::default() };
    gpu.launch(&module.kernels["k"], &launch).unwrap_or_else(|e| panic!("{e}\n{body}"));
    gpu.memory.read(to, &mut output).unwrap();
    let words: Vec<u64> = output.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    words.chunks_exact(32).map(|lanes| lanes.try_into().unwrap()).collect()
}

/// Why a [`kernel`] with one instruction is refused; the error must name its line.
pub fn refusal(instruction: &str, operands: &[Operand], ty: &str, count: usize) -> String {
    let gpu = Gpu::new(GpuConfig::default());
    let text = kernel(&format!("\n{instruction}"), operands, ty, count);
    let expected = text.lines().position(|line| line == instruction).unwrap() as u32 + 1;
    match LoadedModule::load(&gpu, &text, "k.ptx") {
        Err(LoadError::Unsupported { file, line, message }) if file == "k.ptx" && line == expected => message,
        other => panic!("expected `{instruction}` to be refused with line {expected}, got {other:?}"),
    }
}

/// A number format of matrix elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Exponent and fraction bits.
    Float(u32, u32),
    Signed(u32),
    Unsigned(u32),
}

pub const F16: Format = Format::Float(5, 10);
pub const BF16: Format = Format::Float(8, 7);
pub const F32: Format = Format::Float(8, 23);
pub const F64: Format = Format::Float(11, 52);
pub const E4M3: Format = Format::Float(4, 3);
pub const E5M2: Format = Format::Float(5, 2);

impl Format {
    pub fn bits(self) -> u32 {
        match self {
            Format::Float(exponent, fraction) => 1 + exponent + fraction,
            Format::Signed(bits) | Format::Unsigned(bits) => bits,
        }
    }

    /// Makes a random number one that the format holds, small enough that sums of products of such numbers are exact.
    pub fn fit(self, noise: u64) -> i64 {
        match self {
            Format::Float(..) => (noise % 15) as i64 - 7,
            Format::Signed(bits) => (noise << (64 - bits)) as i64 >> (64 - bits),
            Format::Unsigned(bits) => (noise & ((1 << bits) - 1)) as i64,
        }
    }

    /// The code of a number that the format holds.
    pub fn encode(self, value: i64) -> u64 {
        let Format::Float(exponent, fraction) = self else { return value as u64 & ((1 << self.bits()) - 1) };
        let magnitude = value.unsigned_abs();
        if magnitude == 0 {
            return 0;
        }
        let top = magnitude.ilog2();
        let field = u64::from(top) + (1 << (exponent - 1)) - 1;
        let rest = magnitude - (1 << top);
        let digits = if fraction >= top { rest << (fraction - top) } else { rest >> (top - fraction) };
        assert!(fraction >= top || digits << (top - fraction) == rest, "{value} does not fit {self:?}");
        u64::from(value < 0) << (exponent + fraction) | field << fraction | digits
    }

    /// The number of a code that stands for an integer.
    pub fn decode(self, code: u64) -> i64 {
        let Format::Float(exponent, fraction) = self else {
            return self.fit(code);
        };
        let magnitude = code & ((1 << (exponent + fraction)) - 1);
        if magnitude == 0 {
            return 0;
        }
        let scale = (magnitude >> fraction) as i64 - ((1 << (exponent - 1)) - 1);
        let significand = magnitude & ((1 << fraction) - 1) | 1 << fraction;
        let value = if scale >= i64::from(fraction) {
            significand << (scale - i64::from(fraction))
        } else {
            let shift = i64::from(fraction) - scale;
            assert!(
                (0..64).contains(&shift) && significand.trailing_zeros() >= shift as u32,
                "{code:#x} is no integer"
            );
            significand >> shift
        };
        if code >> (exponent + fraction) & 1 != 0 { -(value as i64) } else { value as i64 }
    }
}

/// A generator for what a test derives from one seed.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// A matrix of numbers in rows.
pub type Matrix = Vec<Vec<i64>>;

/// A random matrix of a format.
pub fn matrix(noise: &mut Noise, rows: usize, columns: usize, format: Format) -> Matrix {
    (0..rows).map(|_| (0..columns).map(|_| format.fit(noise.next())).collect()).collect()
}

/// `a b + c` for numbers, wrapped to 32 bits if `wraps`.
pub fn product(a: &Matrix, b: &Matrix, c: &Matrix) -> Matrix {
    let dot = |i: usize, j: usize| (0..b.len()).map(|k| a[i][k] * b[k][j]).sum::<i64>();
    (0..a.len()).map(|i| (0..b[0].len()).map(|j| c[i][j] + dot(i, j)).collect()).collect()
}

/// Where element `i` of lane 4 g + t lies: `(g, t, i)` to row and column.
pub type Place = fn(usize, usize, usize) -> (usize, usize);

/// The registers, of `width` bits, that hold a matrix whose elements take `bits` each.
pub fn fragment(matrix: &Matrix, elements: usize, format: Format, bits: u32, width: u32, place: Place) -> Vec<Lanes> {
    let per = (width / bits) as usize;
    let mut registers = vec![[0; 32]; elements / per];
    for lane in 0..32 {
        for i in 0..elements {
            let (row, column) = place(lane / 4, lane % 4, i);
            registers[i / per][lane] |= format.encode(matrix[row][column]) << (bits as usize * (i % per));
        }
    }
    registers
}

/// The inverse of [`fragment`].
pub fn matrix_of(registers: &[Lanes], rows: usize, columns: usize, format: Format, width: u32, place: Place) -> Matrix {
    let per = (width / format.bits()) as usize;
    let mut matrix = vec![vec![i64::MIN; columns]; rows];
    for lane in 0..32 {
        for i in 0..registers.len() * per {
            let (row, column) = place(lane / 4, lane % 4, i);
            let code = registers[i / per][lane] >> (format.bits() as usize * (i % per));
            let code = if format.bits() == 64 { code } else { code & ((1 << format.bits()) - 1) };
            matrix[row][column] = format.decode(code);
        }
    }
    matrix
}

/// The bytes of a matrix in memory, in rows or in columns that start `stride` elements apart.
pub fn in_memory(matrix: &Matrix, format: Format, rows_first: bool, stride: usize) -> Vec<u8> {
    let (rows, columns, bits) = (matrix.len(), matrix[0].len(), format.bits() as usize);
    let lines = if rows_first { rows } else { columns };
    let mut bytes = vec![0; (lines * stride * bits).div_ceil(8)];
    for row in 0..rows {
        for column in 0..columns {
            let element = if rows_first { row * stride + column } else { column * stride + row };
            let code = format.encode(matrix[row][column]);
            for bit in (0..bits).filter(|bit| code >> bit & 1 != 0) {
                bytes[(element * bits + bit) / 8] |= 1 << ((element * bits + bit) % 8);
            }
        }
    }
    bytes
}

/// The inverse of [`in_memory`].
pub fn from_memory(
    bytes: &[u8],
    rows: usize,
    columns: usize,
    format: Format,
    rows_first: bool,
    stride: usize,
) -> Matrix {
    let width = format.bits() as usize / 8;
    let at = |row: usize, column: usize| {
        let element = if rows_first { row * stride + column } else { column * stride + row };
        let mut code = [0; 8];
        code[..width].copy_from_slice(&bytes[element * width..][..width]);
        format.decode(u64::from_le_bytes(code))
    };
    (0..rows).map(|row| (0..columns).map(|column| at(row, column)).collect()).collect()
}

/// Runs kernel `k` of a module in one CTA on buffers; the last one is returned.
pub fn run_on(
    ptx: &str,
    threads: u32,
    truncates: bool,
    buffers: &[Vec<u8>],
) -> Result<Vec<u8>, Box<sim_exec::Finding>> {
    let arithmetic = Arithmetic { mma_truncates: truncates, ..Arithmetic::default() };
    let gpu = Gpu::new(GpuConfig { arithmetic, workers: 1, ..GpuConfig::default() });
    let module = LoadedModule::load(&gpu, ptx, "k.ptx").unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let mut params = Vec::new();
    let mut last = 0;
    for bytes in buffers {
        last = gpu.memory.alloc(bytes.len() as u64, "buffer").unwrap();
        gpu.memory.write(last, bytes).unwrap();
        params.extend(last.to_le_bytes());
    }
    let launch = LaunchConfig { block: [threads, 1, 1], params: &params, ..LaunchConfig::default() };
    match gpu.launch(&module.kernels["k"], &launch) {
        Ok(_) => {}
        Err(sim_exec::LaunchError::Finding(finding)) => return Err(finding),
        Err(other) => panic!("{other}"),
    }
    let mut out = vec![0; buffers.last().unwrap().len()];
    gpu.memory.read(last, &mut out).unwrap();
    Ok(out)
}
