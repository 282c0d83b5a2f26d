//! How far a command has come, on a terminal. Elsewhere nothing is shown.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kiln::runtime::{LoadedModel, Progress, Runtime, RuntimeOptions};

use super::CliError;

/// Whether a command shows progress if it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Yes,
    No,
}

impl Shown {
    pub fn unless(is_quiet: bool) -> Shown {
        if is_quiet { Shown::No } else { Shown::Yes }
    }
}

/// Work takes so long before something is shown.
const SILENT_AT_MOST: Duration = Duration::from_secs(1);

/// A bar of `length` steps.
pub fn bar(length: u64, template: &str, message: &str, shown: Shown) -> ProgressBar {
    let bar = if shown == Shown::Yes { ProgressBar::new(length) } else { ProgressBar::hidden() };
    bar.set_style(style(template));
    bar.set_message(message.to_owned());
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Opens a model and makes it ready, showing how far that has come.
pub fn open_runtime(path: &Path, options: &RuntimeOptions, shown: Shown) -> Result<Runtime, CliError> {
    ready(&LoadedModel::open(path)?, options, shown)
}

/// Makes an opened model ready, showing how far that has come.
pub fn ready(loaded: &LoadedModel, options: &RuntimeOptions, shown: Shown) -> Result<Runtime, CliError> {
    let loading = Loading::of(loaded, shown);
    Ok(Runtime::of(loaded, options, &|progress| loading.show(progress))?)
}

/// A model's loading. What is shown goes with it.
#[derive(Debug)]
pub struct Loading(ProgressBar);

impl Loading {
    pub fn of(loaded: &LoadedModel, shown: Shown) -> Loading {
        let message = format!("loading {}", kiln::weights::printable(&loaded.file().path().display().to_string()));
        Loading(bar(loaded.tensor_bytes(), "{msg} {wide_bar} {bytes} of {total_bytes}", &message, shown))
    }

    pub fn show(&self, progress: Progress) {
        match progress {
            Progress::TensorBytes(bytes) => self.0.set_position(bytes),
            Progress::Graphs { captured, total } => {
                self.0.set_style(style("capturing decode steps {wide_bar} {pos} of {len}"));
                self.0.set_length(total.into());
                self.0.set_position(captured.into());
            }
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Says on a terminal what is being done once that has taken a second, until it is dropped.
#[derive(Debug, Default)]
pub struct Busy {
    messages: Option<Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    pub fn with(message: impl Into<String>, shown: Shown) -> Busy {
        if shown == Shown::No || !std::io::stderr().is_terminal() {
            return Busy::default();
        }
        let (messages, received) = channel::<String>();
        let mut message = message.into();
        let show = move || {
            let spinner = ProgressBar::hidden();
            let mut next = Instant::now() + SILENT_AT_MOST;
            loop {
                match received.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(newer) => message = newer,
                    Err(RecvTimeoutError::Disconnected) => return spinner.finish_and_clear(),
                    Err(RecvTimeoutError::Timeout) => {
                        if spinner.is_hidden() {
                            spinner.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                            spinner.set_style(style("{spinner} {msg} ({elapsed})"));
                        }
                        spinner.set_message(message.clone());
                        spinner.tick();
                        next = Instant::now() + Duration::from_millis(100);
                    }
                }
            }
        };
        // Without a thread nothing is shown, and the work goes on.
        let thread = std::thread::Builder::new().name("kiln-progress".to_owned()).spawn(show).ok();
        Busy { messages: Some(messages), thread }
    }

    /// Says something newer.
    pub fn say(&self, message: impl FnOnce() -> String) {
        if let Some(messages) = &self.messages {
            let _ = messages.send(message());
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            // A spinner that panicked has nothing to say.
            let _ = thread.join();
        }
    }
}
