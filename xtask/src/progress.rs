//! Progress bars on standard error; invisible where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes with rate and remaining time.
pub fn bytes(what: &str, total_bytes: u64) -> ProgressBar {
    let template = "{msg:28} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar(total_bytes, template, what)
}

/// A bar over steps with remaining time.
pub fn steps(what: &str, total: u64) -> ProgressBar {
    bar(total, "{msg:40} {wide_bar} {pos}/{len} {eta}", what)
}

fn bar(total: u64, template: &str, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what.to_owned())
}

/// Elapsed time beside what goes on, for work whose length is unknown.
pub fn spinner(what: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}
