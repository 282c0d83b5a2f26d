//! Pointers as a C caller passes them. Here, and in [`crate::host`], is all that trusts a caller.
//!
//! Each type can only come into being as an argument of an exported function. The documentation of the driver API says what
//! such an argument must point to: that promise is what makes the reads and writes here sound. What can be checked is: null,
//! alignment, lengths.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use crate::code::{Code, Res, refuse, require};
use crate::core::images;

/// Where a result goes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// Refuses a null or misaligned pointer.
    pub fn check(&self) -> Res {
        require(!self.0.is_null(), Code::InvalidValue, "an output pointer is null")?;
        require(self.0.is_aligned(), Code::InvalidValue, "an output pointer is misaligned")
    }

    /// Writes what `make` returns; `make` does not run if there is nowhere to write.
    pub fn give(&self, make: impl FnOnce() -> Res<T>) -> Res {
        self.check()?;
        let value = make()?;
        // SAFETY: not null, aligned, and by the API's contract room for a `T`.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Replaces the value there by what `make` makes of it.
    pub fn exchange(&self, make: impl FnOnce(T) -> Res<T>) -> Res {
        self.check()?;
        // SAFETY: not null, aligned, and by the API's contract an initialised `T`.
        let old = unsafe { self.0.read() };
        self.give(|| make(old))
    }

    /// Writes unless the pointer is null, which many calls allow.
    pub fn offer(&self, value: T) -> Res {
        if self.0.is_null() { Ok(()) } else { self.give(|| Ok(value)) }
    }

    /// Writes the first of `values` that fit into `room` elements and returns how many did.
    pub fn give_slice(&self, values: &[T], room: usize) -> Res<usize> {
        self.check()?;
        let count = values.len().min(room);
        // SAFETY: not null, aligned, and by the API's contract room for `room` elements.
        unsafe { self.0.copy_from_nonoverlapping(values.as_ptr(), count) };
        Ok(count)
    }

    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The address as a number, to check alignment beyond the type's.
    pub fn address(&self) -> usize {
        self.0.addr()
    }

    /// The address, for arguments that mean different types by an attribute.
    pub fn retype<U>(&self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// A struct or array to read.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// A pointer inside a struct that a caller gave.
    pub(crate) fn from_field(pointer: *const T) -> Self {
        In(pointer)
    }

    /// Reads it.
    pub fn get(&self) -> Res<T> {
        Ok(self.slice(1)?[0])
    }

    /// Reads an array.
    pub fn slice(&self, count: usize) -> Res<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        require(!self.0.is_null(), Code::InvalidValue, "an input pointer is null")?;
        require(self.0.is_aligned(), Code::InvalidValue, "an input pointer is misaligned")?;
        // SAFETY: not null, aligned, and by the API's contract `count` initialised elements.
        Ok(unsafe { std::slice::from_raw_parts(self.0, count) }.to_vec())
    }

    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// As another type, for arguments that mean different types by an attribute.
    pub fn retype<U>(&self) -> In<U> {
        In(self.0.cast())
    }
}

/// A NUL-terminated string.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// Reads it.
    pub fn get(&self) -> Res<String> {
        require(!self.0.is_null(), Code::InvalidValue, "a string is null")?;
        // SAFETY: not null, and by the API's contract NUL-terminated.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).or_else(|_| refuse(Code::InvalidValue, "a string is not UTF-8"))
    }
}

/// An image for `cuModuleLoadData` and its kin: a fatbin, a wrapper around one, a cubin or NUL-terminated PTX.
#[repr(transparent)]
pub struct ImagePtr(*const u8);

impl ImagePtr {
    /// The PTX in the image that a device of this compute capability takes.
    pub fn ptx(&self, cc: (u32, u32)) -> Res<Arc<str>> {
        require(!self.0.is_null(), Code::InvalidValue, "the image is null")?;
        let magic: [u8; 4] = match self.prefix() {
            Some(magic) => magic,
            // Text of fewer than four bytes.
            None => return refuse(Code::InvalidImage, "the image is empty"),
        };
        match sim_fatbin::Image::classify(magic) {
            sim_fatbin::Image::Text => Text(self.0.cast()).get().map(Arc::from),
            sim_fatbin::Image::Cubin => {
                refuse(Code::NoBinaryForGpu, "the image is a cubin: machine code of a real device, with no PTX to run")
            }
            sim_fatbin::Image::Wrapper => {
                // SAFETY: by the API's contract a wrapper is 24 bytes, and its second word is a fatbin's address.
                let fatbin = unsafe { self.0.add(8).cast::<*const u8>().read_unaligned() };
                require(!fatbin.is_null(), Code::InvalidImage, "the wrapper's fatbin is null")?;
                ImagePtr(fatbin).fatbin_ptx(cc)
            }
            sim_fatbin::Image::Fatbin => self.fatbin_ptx(cc),
        }
    }

    fn fatbin_ptx(&self, cc: (u32, u32)) -> Res<Arc<str>> {
        // SAFETY: by the API's contract a fatbin starts here, which has a header of this length.
        let header = unsafe { self.0.cast::<[u8; sim_fatbin::HEADER_BYTES]>().read_unaligned() };
        let bytes = sim_fatbin::image_bytes(&header).or_else(image_refusal)?;
        // SAFETY: by the API's contract the fatbin is as long as its header says.
        let image = unsafe { std::slice::from_raw_parts(self.0, bytes as usize) };
        images::ptx(image, cc).or_else(image_refusal)
    }

    /// The first four bytes, unless a NUL comes sooner.
    fn prefix(&self) -> Option<[u8; 4]> {
        let mut magic = [0; 4];
        for (i, byte) in magic.iter_mut().enumerate() {
            // SAFETY: no byte before this one was NUL, so that text goes on, and every other kind of image is longer.
            *byte = unsafe { self.0.add(i).read() };
            if *byte == 0 {
                return None;
            }
        }
        Some(magic)
    }
}

fn image_refusal<T>(error: sim_fatbin::FatbinError) -> Res<T> {
    let code = match error {
        sim_fatbin::FatbinError::NoPtx { .. } => Code::NoBinaryForGpu,
        _ => Code::InvalidImage,
    };
    refuse(code, error.to_string())
}

/// `kernelParams`: an address of a value for each parameter.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct KernelParams(pub *const *const u8);

impl KernelParams {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Packs the values into a parameter buffer; `slots` are offsets and lengths in bytes.
    pub fn pack(self, slots: &[(usize, usize)], bytes: usize) -> Res<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        for (i, &(offset, length)) in slots.iter().enumerate() {
            require(!self.0.is_null(), Code::InvalidValue, "kernelParams is null, the kernel has parameters")?;
            // SAFETY: by the API's contract there is an address for every parameter.
            let value = unsafe { self.0.add(i).read_unaligned() };
            require(!value.is_null(), Code::InvalidValue, format!("kernelParams[{i}] is null"))?;
            // SAFETY: by the API's contract the address holds a value of the parameter's length.
            buffer[offset..offset + length].copy_from_slice(unsafe { std::slice::from_raw_parts(value, length) });
        }
        Ok(buffer)
    }
}

/// `extra`: a list of tags and values that gives the parameters as one buffer.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct LaunchExtra(pub *const *const u8);

impl LaunchExtra {
    const END: usize = 0;
    const BUFFER_POINTER: usize = 1;
    const BUFFER_SIZE: usize = 2;

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The buffer.
    pub fn buffer(self) -> Res<Vec<u8>> {
        let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), None);
        for pair in 0..3 {
            // SAFETY: the tag that ends the list has not been seen, so that by the API's contract there is another.
            let tag = unsafe { self.0.add(2 * pair).read() };
            if tag.addr() == Self::END {
                break;
            }
            // SAFETY: a tag other than the end is followed by its value.
            let value = unsafe { self.0.add(2 * pair + 1).read() };
            match tag.addr() {
                Self::BUFFER_POINTER => buffer = value,
                // SAFETY: by the API's contract this value is the address of a `size_t`.
                Self::BUFFER_SIZE if !value.is_null() => bytes = Some(unsafe { value.cast::<usize>().read() }),
                other => return refuse(Code::InvalidValue, format!("extra has the tag {other}")),
            }
        }
        let Some(bytes) = bytes else { return refuse(Code::InvalidValue, "extra gives no buffer size") };
        require(
            !buffer.is_null() && bytes <= 64 << 10,
            Code::InvalidValue,
            "extra gives no buffer, or one above 64 KiB",
        )?;
        // SAFETY: by the API's contract the buffer has the length given.
        Ok(unsafe { std::slice::from_raw_parts(buffer, bytes) }.to_vec())
    }
}
