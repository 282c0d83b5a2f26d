//! The PTX in fatbins that were loaded before: programs load the same few again and again, and unpacking takes time.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sim_fatbin::{Fatbin, FatbinError};

/// By the image, and in it by the compute capability.
type Texts = Mutex<HashMap<Box<[u8]>, HashMap<(u32, u32), Arc<str>>>>;

static TEXTS: LazyLock<Texts> = LazyLock::new(Texts::default);

/// The PTX in a fatbin that a device of this compute capability takes.
///
/// # Errors
/// Every [`FatbinError`].
pub fn ptx(image: &[u8], (major, minor): (u32, u32)) -> Result<Arc<str>, FatbinError> {
    let texts = || TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = texts().get(image).and_then(|texts| texts.get(&(major, minor))) {
        return Ok(text.clone());
    }
    let text: Arc<str> = Fatbin::parse(image)?.ptx_for(major, minor)?.into();
    texts().entry(image.into()).or_default().insert((major, minor), text.clone());
    Ok(text)
}
