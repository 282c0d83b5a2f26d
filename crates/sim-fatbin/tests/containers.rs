//! Containers as `nvcc` writes them, and whatever else may be handed to a driver.

use proptest::prelude::*;
use sim_fatbin::{EntryKind, Fatbin, FatbinError, HEADER_BYTES, Image, UNPACKED_BYTES_MAX, image_bytes};

const ZSTD: u64 = 0x8000;
const LZ4: u64 = 0x2000;

/// An entry's header and body.
fn entry(kind: u16, arch: u32, flags: u64, packed: &[u8], unpacked_bytes: u64) -> Vec<u8> {
    let padded = packed.len().next_multiple_of(8);
    let mut out = vec![0; 64];
    out[0..2].copy_from_slice(&kind.to_le_bytes());
    out[2..4].copy_from_slice(&0x101u16.to_le_bytes());
    out[4..8].copy_from_slice(&64u32.to_le_bytes());
    out[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
    if flags & (ZSTD | LZ4) != 0 {
        out[16..20].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        out[56..64].copy_from_slice(&unpacked_bytes.to_le_bytes());
    }
    out[28..32].copy_from_slice(&arch.to_le_bytes());
    out[40..48].copy_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(packed);
    out.resize(64 + padded, 0);
    out
}

fn container(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let mut out = 0xBA55_ED50u32.to_le_bytes().to_vec();
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&16u16.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend(body);
    out
}

fn ptx(target: &str) -> String {
    format!(".version 8.5\n.target {target}\n.address_size 64\n{}", "// padding that packs well\n".repeat(40))
}

fn packed(flags: u64, text: &str) -> Vec<u8> {
    match flags {
        ZSTD => ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest),
        LZ4 => lz4_flex::block::compress(text.as_bytes()),
        _ => text.as_bytes().to_vec(),
    }
}

fn ptx_entry(flags: u64, arch: u32, text: &str) -> Vec<u8> {
    entry(1, arch, flags, &packed(flags, text), text.len() as u64)
}

#[test]
fn every_compression_yields_the_same_text() {
    for flags in [0, ZSTD, LZ4] {
        let text = ptx("sm_80");
        let fatbin = Fatbin::parse(&container(&[ptx_entry(flags, 80, &text)])).expect("a container");
        assert_eq!(fatbin.entries[0].kind, EntryKind::Ptx);
        assert_eq!(fatbin.ptx_for(8, 6), Ok(text.as_str()), "flags {flags:#x}");
    }
}

#[test]
fn the_choice_looks_at_the_text_of_every_entry() {
    let texts = [ptx("sm_80"), ptx("sm_90a"), ptx("sm_90"), ptx("sm_100f")];
    let mut entries: Vec<Vec<u8>> = texts.iter().map(|t| ptx_entry(ZSTD, 90, t)).collect();
    entries.insert(1, entry(2, 90, ZSTD, b"machine code, never unpacked", 1 << 60));
    let fatbin = Fatbin::parse(&container(&entries)).expect("a container");
    for ((major, minor), expected) in [((8, 9), 0), ((9, 0), 1), ((10, 0), 3), ((12, 0), 2)] {
        assert_eq!(fatbin.ptx_for(major, minor), Ok(texts[expected].as_str()), "{major}.{minor}");
    }
    let refusal = fatbin.ptx_for(7, 5).expect_err("nothing fits").to_string();
    assert!(
        refusal.contains("7.5") && refusal.contains("PTX sm_80") && refusal.contains("machine code sm_90"),
        "{refusal}"
    );
}

#[test]
fn images_are_told_apart() {
    let fatbin = container(&[]);
    assert_eq!(Image::classify([fatbin[0], fatbin[1], fatbin[2], fatbin[3]]), Image::Fatbin);
    assert_eq!(Image::classify(0x4662_43B1u32.to_le_bytes()), Image::Wrapper);
    assert_eq!(Image::classify(*b"\x7fELF"), Image::Cubin);
    assert_eq!(Image::classify(*b".ver"), Image::Text);
}

#[test]
fn only_machine_code_is_no_ptx() {
    let fatbin = Fatbin::parse(&container(&[entry(2, 80, 0, b"\x7fELF", 0)])).expect("a container");
    assert!(matches!(fatbin.ptx_for(8, 0), Err(FatbinError::NoPtx { .. })));
}

/// What is done to a good container, and the refusal.
type Damage = (&'static str, fn(&mut Vec<u8>), fn(&FatbinError) -> bool);

fn empty_body_past_the_end(bytes: &mut [u8]) {
    bytes[22] = 0xff;
    bytes[24..36].fill(0);
}

#[test]
fn damage_is_refused_by_kind() {
    let cases: &[Damage] = &[
        ("magic", |b| b[0] ^= 1, |e| matches!(e, FatbinError::Magic { .. })),
        ("version", |b| b[4] = 2, |e| matches!(e, FatbinError::Version { found: 2 })),
        ("small header", |b| b[6] = 8, |e| matches!(e, FatbinError::Field { field: "header size", .. })),
        ("huge container", |b| b[8..16].fill(0xff), |e| matches!(e, FatbinError::Field { .. })),
        ("cut", |b| b.truncate(100), |e| matches!(e, FatbinError::Truncated { subject: "container", .. })),
        ("empty", Vec::clear, |e| matches!(e, FatbinError::Truncated { subject: "container header", .. })),
        ("entry header", |b| b[20] = 1, |e| matches!(e, FatbinError::Field { field: "header size", .. })),
        ("empty body past the end", |b| empty_body_past_the_end(b), |e| matches!(e, FatbinError::Truncated { .. })),
        ("entry size wraps", |b| b[24..32].fill(0xff), |e| matches!(e, FatbinError::Truncated { .. })),
        ("packed size", |b| b[32..36].fill(0xff), |e| matches!(e, FatbinError::Field { field: "compressed size", .. })),
        ("unpacked size", |b| b[72..80].fill(0xff), |e| matches!(e, FatbinError::TooLarge { .. })),
        ("too long", |b| b[72] -= 1, |e| matches!(e, FatbinError::Compression { method: "zstd", .. })),
        ("too short", |b| b[72] += 1, |e| matches!(e, FatbinError::Compression { method: "zstd", .. })),
        ("not zstd", |b| b[80] ^= 1, |e| matches!(e, FatbinError::Compression { method: "zstd", .. })),
        ("not LZ4", |b| b[57] = 0x20, |e| matches!(e, FatbinError::Compression { method: "LZ4", .. })),
    ];
    let good = container(&[ptx_entry(ZSTD, 80, &ptx("sm_80"))]);
    Fatbin::parse(&good).expect("the container is good before it is damaged");
    for (name, damage, is_expected) in cases {
        let mut bytes = good.clone();
        damage(&mut bytes);
        let error = Fatbin::parse(&bytes).expect_err(name);
        assert!(is_expected(&error), "{name}: {error:?}");
    }
}

#[test]
fn a_small_image_cannot_ask_for_much_memory() {
    for flags in [ZSTD, LZ4] {
        let bytes = container(&[entry(1, 80, flags, &packed(flags, "x"), UNPACKED_BYTES_MAX)]);
        assert!(matches!(Fatbin::parse(&bytes), Err(FatbinError::Compression { .. })), "flags {flags:#x}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Fatbin::parse(&bytes);
    }

    #[test]
    fn any_damage_is_parsed_or_refused(
        flags in prop_oneof![Just(0), Just(ZSTD), Just(LZ4)],
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let good = container(&[ptx_entry(flags, 80, &ptx("sm_80")), ptx_entry(flags, 90, &ptx("sm_90a"))]);
        let cut = cut.index(good.len());
        prop_assert!(Fatbin::parse(&good[..cut]).is_err(), "a cut container has a length that is not there");
        let mut bytes = good;
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(fatbin) = Fatbin::parse(&bytes) {
            let _ = fatbin.ptx_for(9, 0);
        }
    }

    #[test]
    fn any_header_has_a_length_or_a_refusal(mut header in any::<[u8; HEADER_BYTES]>(), keep_magic in any::<bool>()) {
        if keep_magic {
            header[..8].copy_from_slice(&[0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0]);
        }
        if let Ok(bytes) = image_bytes(&header) {
            prop_assert!((16..=isize::MAX as u64).contains(&bytes));
        }
    }

    #[test]
    fn any_text_compresses_and_comes_back(flags in prop_oneof![Just(0), Just(ZSTD), Just(LZ4)], text in "[ -~\n]{0,2000}") {
        let text = format!(".target sm_80\n{text}");
        let fatbin = Fatbin::parse(&container(&[ptx_entry(flags, 80, &text)])).expect("a container");
        prop_assert_eq!(fatbin.entries[0].data.as_slice(), text.as_bytes());
    }
}
