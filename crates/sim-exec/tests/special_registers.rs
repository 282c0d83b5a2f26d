//! Special registers that outside code depends on.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, finding};
use sim_exec::{FindingKind, LaunchConfig};

/// Cooperative groups join `%envreg1` and `%envreg2`, in this order, to the address of the grid's workspace.
#[test]
fn the_grid_workspace_has_its_high_half_in_the_first_register() {
    let mut bench = Bench::new(
        ".visible .entry workspace(.param .u64 out) {
           .reg .b32 %r<3>; .reg .b64 %rd<2>;
           ld.param.u64 %rd1, [out]; mov.u32 %r1, %envreg1; mov.u32 %r2, %envreg2;
           st.global.v2.u32 [%rd1], {%r1, %r2};
           ret;
         }",
    );
    let out = bench.room(8);
    bench.launch(LaunchConfig { grid_workspace: 0x0000_0007_8000_0100, ..LaunchConfig::default() }).unwrap();
    assert_eq!(bench.words(out, 2), [7, 0x8000_0100]);
}

/// Barriers between warps live in shared memory that no program declares; it is apart from the program's own and has a value.
#[test]
fn reserved_shared_memory_is_apart_and_defined() {
    let ptx = |offset: &str| {
        format!(
            ".visible .entry reserved(.param .u64 out) {{
               .reg .b32 %r<6>; .reg .b64 %rd<2>; .shared .align 4 .b8 tile[64];
               ld.param.u64 %rd1, [out];
               mov.u32 %r1, %reserved_smem_offset_1; mov.u32 %r2, %reserved_smem_offset_end;
               mov.u32 %r3, tile; st.shared.u32 [%r3+60], 1;
               atom.shared.or.b32 %r4, [{offset}], 6;
               ld.shared.u32 %r5, [{offset}];
               st.global.v2.u32 [%rd1], {{%r4, %r5}};
               ret;
             }}"
        )
    };
    let mut bench = Bench::new(&ptx("%r1"));
    let out = bench.room(8);
    bench.run(1).unwrap();
    assert_eq!(bench.words(out, 2), [0, 6]);
    for outside in ["%r2", "%r3+64"] {
        let mut bench = Bench::new(&ptx(outside));
        bench.room(8);
        assert_eq!(finding(bench.run(1)).kind, FindingKind::OutOfBounds, "{outside}");
    }
}
