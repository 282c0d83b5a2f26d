//! What a PTX entry says about its launches, which decides whether a driver accepts one.

/// Performance directives between an entry's parameters and its body, and the module's version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `.reqntid`: the only block that may be launched.
    pub block_required: Option<[u32; 3]>,
    /// `.maxntid` multiplied out.
    pub threads_max: Option<u32>,
    /// `.maxnreg`.
    pub registers_max: Option<u32>,
    /// `.minnctapersm`.
    pub blocks_per_sm_min: Option<u32>,
    /// Whether `griddepcontrol.launch_dependents` is in the body.
    pub launches_dependents: bool,
    /// Whether `griddepcontrol.wait` is in the body, or perhaps in a function that it calls.
    pub waits_for_dependencies: bool,
}

impl Directives {
    /// Of the entry `name`; none for an entry that is not there.
    pub fn of(ptx: &str, name: &str) -> Self {
        let mut rest = ptx;
        while let Some((_, after)) = rest.split_once(".entry") {
            rest = after.trim_start();
            let Some(tail) = rest.strip_prefix(name) else { continue };
            if tail.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$')) {
                continue;
            }
            let tail = tail.trim_start();
            let tail = match tail.strip_prefix('(') {
                Some(params) => params.split_once(')').map_or("", |(_, t)| t),
                None => tail,
            };
            let (header, body) = tail.split_once('{').unwrap_or((tail, ""));
            let body = before_closing_brace(body);
            let wait = "griddepcontrol.wait";
            return Directives {
                launches_dependents: body.contains("griddepcontrol.launch_dependents"),
                waits_for_dependencies: body.contains(wait) || body.contains("call") && ptx.contains(wait),
                ..Self::read(header)
            };
        }
        Directives::default()
    }

    fn read(text: &str) -> Self {
        let numbers = |directive: &str| -> Option<Vec<u32>> {
            let (_, after) = text.split_once(directive)?;
            let list = after.split(['.', '\n']).next()?;
            let numbers: Vec<u32> = list.split(',').map_while(|n| n.trim().parse().ok()).collect();
            (!numbers.is_empty()).then_some(numbers)
        };
        let dims = |n: Vec<u32>| std::array::from_fn(|i| n.get(i).copied().unwrap_or(1));
        Directives {
            block_required: numbers(".reqntid").map(dims),
            threads_max: numbers(".maxntid").map(|n| n.iter().product()),
            registers_max: numbers(".maxnreg").map(|n| n[0]),
            blocks_per_sm_min: numbers(".minnctapersm").map(|n| n[0]),
            ..Directives::default()
        }
    }

    /// Threads of a CTA that the entry was compiled for, if it says.
    pub fn threads(&self) -> Option<u32> {
        self.block_required.map(|b| b.iter().product()).or(self.threads_max)
    }
}

/// What is in front of the brace that closes a block whose opening brace is not part of `text`.
fn before_closing_brace(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}

/// PTX version times ten, as `CU_FUNC_ATTRIBUTE_PTX_VERSION` gives it.
pub fn ptx_version(ptx: &str) -> u32 {
    let version = ptx.split_once(".version").and_then(|(_, rest)| rest.split_whitespace().next());
    let parts = version.and_then(|v| v.split_once('.'));
    parts.and_then(|(major, minor)| Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = ".version 8.7\n.target sm_90\n
.visible .entry plain(.param .u64 a) { ret; }
.visible .entry plain_bounded(
    .param .u64 a,
    .param .u32 b
)
.maxntid 128, 2, 1
.minnctapersm 2
.maxnreg 96
{ .reg .b32 %r<2>; ret; }
.entry fixed .reqntid 64 { { griddepcontrol.launch_dependents; } ret; }
.entry second() { griddepcontrol.wait; ret; }";

    #[test]
    fn directives_belong_to_their_entry() {
        assert_eq!(Directives::of(PTX, "plain"), Directives::default());
        let bounded = Directives::of(PTX, "plain_bounded");
        assert_eq!(
            (bounded.threads(), bounded.registers_max, bounded.blocks_per_sm_min),
            (Some(256), Some(96), Some(2))
        );
        assert_eq!(Directives::of(PTX, "fixed").block_required, Some([64, 1, 1]));
        let overlap = |name| {
            let d = Directives::of(PTX, name);
            (d.launches_dependents, d.waits_for_dependencies)
        };
        assert_eq!(
            [overlap("plain"), overlap("fixed"), overlap("second")],
            [(false, false), (true, false), (false, true)]
        );
        assert_eq!(Directives::of(PTX, "absent"), Directives::default());
        assert_eq!(ptx_version(PTX), 87);
    }
}
