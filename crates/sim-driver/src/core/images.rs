//! The PTX in fatbins that were loaded before: programs load the same few again and again, and unpacking takes time.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sim_fatbin::{Fatbin, FatbinError};

/// By the image and the compute capability.
type Texts = Mutex<HashMap<(Box<[u8]>, (u32, u32)), Arc<str>>>;

static TEXTS: LazyLock<Texts> = LazyLock::new(Texts::default);

/// The PTX in a fatbin that a device of this compute capability takes.
///
/// # Errors
/// Every [`FatbinError`].
pub fn ptx(image: &[u8], (major, minor): (u32, u32)) -> Result<Arc<str>, FatbinError> {
    let texts = || TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (image.into(), (major, minor));
    if let Some(text) = texts().get(&key) {
        return Ok(text.clone());
    }
    let text: Arc<str> = Fatbin::parse(image)?.ptx_for(major, minor)?.into();
    texts().insert(key, text.clone());
    Ok(text)
}
