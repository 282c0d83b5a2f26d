//! Flags that several commands have, each declared once.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kiln::device::KvCacheDType;
use kiln::runtime::{DeviceChoice, RuntimeOptions};
use kiln::tokenizer::ParseSpecial;

use super::CliError;
use super::streams::read_text;

/// The default model, where `cargo xtask setup` puts it.
const DEFAULT_MODEL: &str = "weights/SmolLM2-135M-Instruct-Q4_1.gguf";

/// Names a model where no flag does.
const MODEL_VARIABLE: &str = "KILN_MODEL";

/// Which model.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// GGUF model file [default: what KILN_MODEL names, else weights/SmolLM2-135M-Instruct-Q4_1.gguf here or in kiln's repository]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
}

impl ModelArgs {
    /// The flag's file, `KILN_MODEL`'s, or the default model in the current folder or in the repository that this program was built in.
    ///
    /// # Errors
    /// There is none of the three; `KILN_MODEL` names nothing that is there.
    pub fn path(&self) -> Result<PathBuf, CliError> {
        if let Some(path) = &self.model {
            return Ok(path.clone());
        }
        let program = std::env::current_exe().ok();
        let repository = program.as_deref().and_then(repository_of);
        let folders = [Some(Path::new("")), repository];
        find_model(std::env::var_os(MODEL_VARIABLE).map(PathBuf::from), folders.into_iter().flatten())
    }
}

/// The folder above the `target` folder that a program was built into.
fn repository_of(program: &Path) -> Option<&Path> {
    program.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target"))?.parent()
}

fn find_model<'a>(named: Option<PathBuf>, folders: impl Iterator<Item = &'a Path>) -> Result<PathBuf, CliError> {
    if let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) {
        return match path.exists() {
            true => Ok(path),
            false => Err(CliError::usage(format!(
                "{MODEL_VARIABLE} names {}, which is not there: set it to a GGUF file, or give one with -m",
                path.display()
            ))),
        };
    }
    let mut paths = folders.map(|folder| folder.join(DEFAULT_MODEL));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        CliError::usage(format!(
            "no model: give a GGUF file with -m or name it in {MODEL_VARIABLE}; `cargo xtask setup` in kiln's repository fetches a \
             small one to {DEFAULT_MODEL}, which is then the default"
        ))
    })
}

/// How much of a text a model sees.
#[derive(Clone, Debug, Args)]
pub struct ContextArgs {
    /// Context length of one sequence in tokens [default: what the model was trained for, as far as there is memory]
    #[arg(short, long = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    ctx_size: Option<u32>,
}

impl ContextArgs {
    pub fn tokens(&self) -> Option<u32> {
        self.ctx_size
    }
}

/// How much is computed at once.
#[derive(Clone, Debug, Args)]
pub struct StepArgs {
    /// Rows (tokens) of one step at most; prompts are computed in steps of so many
    #[arg(long = "ubatch-size", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8192))]
    ubatch_size: u32,
}

impl StepArgs {
    pub fn rows_max(&self) -> u32 {
        self.ubatch_size
    }
}

/// How messages become a prompt.
#[derive(Clone, Debug, Args)]
pub struct TemplateArgs {
    /// File with a chat template (Jinja) to take instead of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// Let the texts of messages become control tokens: their writers can then speak as any role
    #[arg(long)]
    parse_special: bool,
}

impl TemplateArgs {
    pub fn is_given(&self) -> bool {
        self.chat_template.is_some() || self.parse_special
    }

    pub fn parse_special(&self) -> ParseSpecial {
        if self.parse_special { ParseSpecial::Yes } else { ParseSpecial::No }
    }

    /// The template's text.
    ///
    /// # Errors
    /// The file cannot be read, or is no text.
    pub fn source(&self) -> Result<Option<String>, CliError> {
        self.chat_template.as_deref().map(read_text).transpose()
    }
}

/// What runs the model.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// Device that runs the model; `auto` takes the fastest one there is
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    device: DeviceName,

    /// Threads of a CPU device [default: all cores]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,

    /// Type of the cached keys and values: int8 takes half the memory of f16 and is nearly as exact
    #[arg(long, value_enum, default_value_t = CacheName::F16)]
    kv_cache_dtype: CacheName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CacheName {
    F16,
    /// With a scale per token and KV head
    Int8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    /// A GPU if there is one, else the CPU
    Auto,
    /// A GPU of compute capability 8.0 or newer
    Cuda,
    /// Fast: AVX-512 VNNI, AVX2 or portable code, chosen at run time
    Cpu,
    /// Naive and slow: what all devices are tested against
    Reference,
}

impl DeviceArgs {
    pub fn threads(&self) -> u32 {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u32)
    }

    /// What these flags say of a runtime, and defaults.
    pub fn runtime_options(&self) -> RuntimeOptions {
        RuntimeOptions {
            device: self.choice(),
            threads: self.threads,
            kv_cache_dtype: self.kv_cache_dtype(),
            ..RuntimeOptions::default()
        }
    }

    pub fn kv_cache_dtype(&self) -> KvCacheDType {
        match self.kv_cache_dtype {
            CacheName::F16 => KvCacheDType::F16,
            CacheName::Int8 => KvCacheDType::Int8,
        }
    }

    pub fn choice(&self) -> DeviceChoice {
        match self.device {
            DeviceName::Auto => DeviceChoice::Auto,
            DeviceName::Cuda => DeviceChoice::Cuda,
            DeviceName::Cpu => DeviceChoice::Cpu,
            DeviceName::Reference => DeviceChoice::Reference,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_looked_for_in_the_variable_here_and_in_the_repository() {
        let folder = tempfile::tempdir().unwrap();
        let (here, repository) = (folder.path().join("here"), folder.path().join("repository"));
        let found = |named: Option<&Path>| {
            find_model(named.map(Path::to_owned), [here.as_path(), repository.as_path()].into_iter())
        };
        let message = |result: Result<PathBuf, CliError>| result.unwrap_err().to_string();
        let nothing = message(found(None));
        for words in ["-m", "KILN_MODEL", "cargo xtask setup"] {
            assert!(nothing.contains(words), "{nothing}");
        }
        for place in [&repository, &here] {
            std::fs::create_dir_all(place.join("weights")).unwrap();
            std::fs::write(place.join(DEFAULT_MODEL), "model").unwrap();
            assert_eq!(found(None).unwrap(), place.join(DEFAULT_MODEL));
        }
        let named = folder.path().join("named.gguf");
        assert!(message(found(Some(&named))).contains("named.gguf, which is not there"));
        std::fs::write(&named, "model").unwrap();
        assert_eq!(found(Some(&named)).unwrap(), named);
        assert_eq!(found(Some(Path::new(""))).unwrap(), here.join(DEFAULT_MODEL), "an empty variable is none");
    }

    #[test]
    fn the_repository_is_above_the_folder_of_builds() {
        let of = |program: &str| repository_of(Path::new(program)).map(Path::to_owned);
        assert_eq!(of("/a/kiln/target/release/kiln"), Some("/a/kiln".into()));
        assert_eq!(of("/a/kiln/target/x86_64-unknown-linux-gnu/debug/deps/kiln-12"), Some("/a/kiln".into()));
        assert_eq!(of("/usr/local/bin/kiln"), None);
    }
}
