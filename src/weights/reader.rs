//! A checked cursor over untrusted bytes: every read is bounded, every error says what was being read.

use super::WeightsError;

/// What is being read, for errors; cheap to make, formatted only when something is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    Field(&'a str),
    Key(u64),
    Value(&'a str),
    Element(&'a str, u64),
    TensorNumber(u64),
    Tensor(&'a str),
}

impl std::fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Field(name) => f.write_str(name),
            Subject::Key(index) => write!(f, "metadata key number {index}"),
            Subject::Value(key) => write!(f, "metadata key {key}"),
            Subject::Element(key, index) => write!(f, "metadata key {key}, element {index}"),
            Subject::TensorNumber(index) => write!(f, "tensor number {index}"),
            Subject::Tensor(name) => write!(f, "tensor {name}"),
        }
    }
}

/// Reads little-endian fields from the front of `bytes`.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position as u64
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub fn take(&mut self, count: u64, subject: Subject) -> Result<&'a [u8], WeightsError> {
        let remaining = self.remaining();
        let count = usize::try_from(count).ok().filter(|&c| c <= remaining).ok_or_else(|| {
            let found = format!("{remaining} left of a file of {} bytes", self.bytes.len());
            WeightsError::invalid(subject, format!("{count} bytes"), found)
        })?;
        let taken = &self.bytes[self.position..self.position + count];
        self.position += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, subject: Subject) -> Result<[u8; N], WeightsError> {
        let taken = self.take(N as u64, subject)?;
        Ok(taken.try_into().expect("take gives what was asked for"))
    }

    pub fn u8(&mut self, subject: Subject) -> Result<u8, WeightsError> {
        Ok(self.array::<1>(subject)?[0])
    }

    pub fn u32(&mut self, subject: Subject) -> Result<u32, WeightsError> {
        self.array(subject).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, subject: Subject) -> Result<u64, WeightsError> {
        self.array(subject).map(u64::from_le_bytes)
    }

    /// A scalar of `N` bytes.
    pub fn scalar<const N: usize, T>(&mut self, from: fn([u8; N]) -> T, subject: Subject) -> Result<T, WeightsError> {
        self.array(subject).map(from)
    }

    /// `count` scalars of `N` bytes; nothing is allocated before the file has shown that it holds them.
    pub fn scalars<const N: usize, T>(
        &mut self,
        count: u64,
        from: fn([u8; N]) -> T,
        subject: Subject,
    ) -> Result<Vec<T>, WeightsError> {
        self.check_count(count, N as u64, subject)?;
        let bytes = self.take(count * N as u64, subject)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|b| from(*b)).collect())
    }

    /// That `count` elements of at least `element_bytes` each can still follow.
    pub fn check_count(&self, count: u64, element_bytes: u64, subject: Subject) -> Result<(), WeightsError> {
        let fit = self.remaining() as u64 / element_bytes;
        if count <= fit {
            return Ok(());
        }
        let expected = format!("at most {fit} elements of {element_bytes} bytes or more in the rest of the file");
        Err(WeightsError::invalid(subject, expected, count))
    }

    /// A length-prefixed string of at most `bytes_max` bytes that may hold anything.
    pub fn byte_string(&mut self, bytes_max: u64, subject: Subject) -> Result<Vec<u8>, WeightsError> {
        let length = self.u64(subject)?;
        if length > bytes_max {
            return Err(WeightsError::invalid(subject, format!("a string of at most {bytes_max} bytes"), length));
        }
        Ok(self.take(length, subject)?.to_vec())
    }

    /// A length-prefixed string of at most `bytes_max` bytes. It is copied before it is checked, so that a file that is
    /// overwritten in between cannot make it invalid afterwards.
    pub fn string(&mut self, bytes_max: u64, subject: Subject) -> Result<String, WeightsError> {
        let bytes = self.byte_string(bytes_max, subject)?;
        String::from_utf8(bytes).map_err(|error| WeightsError::invalid(subject, "UTF-8", error.utf8_error()))
    }
}
