//! Which file is which.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

/// A regular file's identity, under all of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    number: u64,
}

impl FileId {
    /// Nothing for what is no regular file: pipes, terminals and devices are no one's text.
    pub fn of(file: &File) -> io::Result<Option<FileId>> {
        Ok(FileId::of_metadata(&file.metadata()?))
    }

    #[cfg(unix)]
    fn of_metadata(metadata: &Metadata) -> Option<FileId> {
        use std::os::unix::fs::MetadataExt;
        metadata.is_file().then(|| FileId { device: metadata.dev(), number: metadata.ino() })
    }

    #[cfg(not(unix))]
    fn of_metadata(_metadata: &Metadata) -> Option<FileId> {
        None
    }
}

/// Whether a path stands for standard input or output.
pub fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A standard stream as a file, without a buffer.
#[cfg(unix)]
pub fn standard_file(stream: impl std::os::fd::AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

#[cfg(not(unix))]
pub fn standard_file(stream: impl std::os::windows::io::AsHandle) -> io::Result<File> {
    Ok(File::from(stream.as_handle().try_clone_to_owned()?))
}

/// Bytes at the start of a model file that are read for its fingerprint: metadata and the list of tensors, as a rule.
const HEAD_BYTES: u64 = 8 << 20;
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 4 << 10;

/// What tells one model file from another, without reading all of a large one: its length, its first 8 MiB, and 64 pieces of the rest.
pub fn model_fingerprint(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut hasher = Sha256::new();
    hasher.update(file_bytes.to_le_bytes());
    let mut piece = Vec::new();
    let mut add = |start: u64, bytes: u64| {
        piece.clear();
        file.seek(SeekFrom::Start(start))?;
        (&mut file).take(bytes).read_to_end(&mut piece)?;
        hasher.update(&piece);
        io::Result::Ok(())
    };
    add(0, HEAD_BYTES)?;
    let rest = file_bytes.saturating_sub(HEAD_BYTES);
    if rest <= SAMPLES * SAMPLE_BYTES {
        add(HEAD_BYTES, rest)?;
    } else {
        // The last sample ends where the file does.
        let last = rest - SAMPLE_BYTES;
        let start = |sample| HEAD_BYTES + (u128::from(last) * u128::from(sample) / u128::from(SAMPLES - 1)) as u64;
        (0..SAMPLES).try_for_each(|sample| add(start(sample), SAMPLE_BYTES))?;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_differ_in_length_head_or_weights() {
        let folder = tempfile::tempdir().unwrap();
        let fingerprint = |bytes: &[u8]| {
            let path = folder.path().join("model");
            std::fs::write(&path, bytes).unwrap();
            model_fingerprint(&path).unwrap()
        };
        for len in [0, 100, (HEAD_BYTES + 5) as usize, (HEAD_BYTES + 3 * SAMPLES * SAMPLE_BYTES) as usize] {
            let mut bytes = vec![7u8; len];
            let original = fingerprint(&bytes);
            assert_eq!(original, fingerprint(&bytes), "{len}");
            bytes.push(7);
            assert_ne!(original, fingerprint(&bytes), "{len} and a byte");
            bytes.pop();
            for at in [0, len.wrapping_sub(1)].into_iter().filter(|at| *at < len) {
                bytes[at] = 8;
                assert_ne!(original, fingerprint(&bytes), "byte {at} of {len}");
                bytes[at] = 7;
            }
        }
    }
}
