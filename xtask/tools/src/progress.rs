//! Progress bars on standard error; invisible where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over steps with remaining time.
pub fn steps(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:40} {wide_bar} {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what.to_owned())
}
