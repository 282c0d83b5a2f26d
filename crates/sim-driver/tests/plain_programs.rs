//! Programs in other languages, unmodified, on the simulated driver: plain C here; Python with ctypes is the docs' worked example.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{assert_success, command, library_folder};

#[test]
fn a_c_program_loads_ptx_text_and_sees_its_mistake() {
    let (here, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), library_folder());
    let program = folder.path().join("plain_c");
    // The program's own addresses are the API's names; nothing of the simulator is named.
    let built = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(here.join("tests/plain_c.c"))
        .arg("-L")
        .arg(folder.path())
        .arg("-lcuda")
        .output()
        .expect("a C compiler");
    assert_success("cc", &built);
    let ran =
        command(&program, folder.path(), &[]).arg(here.join("tests/kernels/kernels.ptx")).output().expect("it runs");
    let (said, complaint) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said, "1000 sums are right\n", "{complaint}");
    assert!(complaint.contains("UseAfterFree in vector_add"), "{complaint}");
    assert!(complaint.contains("cuCtxSynchronize(): CUDA_ERROR_ILLEGAL_ADDRESS"), "{complaint}");
    assert_eq!(ran.status.code(), Some(1));
}
