//! The modifiers of one instruction, as a set that lowering empties: what is left over is an error, so that no modifier is
//! ever ignored by accident.

/// Modifiers in the order written, without their dots.
#[derive(Clone, Debug)]
pub struct Modifiers<'a> {
    list: Vec<&'a str>,
}

const TYPES: &[&str] = &[
    "pred", "b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16", "f16x2",
    "bf16", "bf16x2", "f32", "f64", "tf32", "s4", "u4", "b1", "e4m3", "e5m2", "e4m3x2", "e5m2x2", "u16x2", "s16x2",
];

impl<'a> Modifiers<'a> {
    pub fn new(list: Vec<&'a str>) -> Self {
        Modifiers { list }
    }

    /// Removes `name` and says whether it was there.
    pub fn take(&mut self, name: &str) -> bool {
        let found = self.list.iter().position(|m| *m == name);
        if let Some(i) = found {
            self.list.remove(i);
        }
        found.is_some()
    }

    /// Removes the first modifier that is one of `names`.
    pub fn take_one(&mut self, names: &[&str]) -> Option<&'a str> {
        let i = self.list.iter().position(|m| names.contains(m))?;
        Some(self.list.remove(i))
    }

    /// Removes the first modifier that satisfies `f`.
    pub fn take_where(&mut self, f: impl Fn(&str) -> bool) -> Option<&'a str> {
        let i = self.list.iter().position(|m| f(m))?;
        Some(self.list.remove(i))
    }

    /// Removes all of `names`.
    pub fn drop_all(&mut self, names: &[&str]) {
        self.list.retain(|m| !names.contains(m));
    }

    /// Removes all that satisfy `f`.
    pub fn drop_where(&mut self, f: impl Fn(&str) -> bool) {
        self.list.retain(|m| !f(m));
    }

    /// Removes the type modifiers and returns them in order.
    pub fn take_types(&mut self) -> Vec<&'a str> {
        let (types, rest) = self.list.iter().partition(|m| TYPES.contains(m));
        self.list = rest;
        types
    }

    /// Removes and returns everything that is left.
    pub fn take_rest(&mut self) -> Vec<&'a str> {
        std::mem::take(&mut self.list)
    }

    pub fn has(&self, name: &str) -> bool {
        self.list.contains(&name)
    }

    /// # Errors
    /// Names what was not understood.
    pub fn finish(&self) -> Result<(), String> {
        match self.list.as_slice() {
            [] => Ok(()),
            rest => Err(format!("modifier .{} is not known here", rest.join("."))),
        }
    }
}
