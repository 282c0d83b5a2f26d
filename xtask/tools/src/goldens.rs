//! `cargo xtask goldens`: records golden files again from other people's implementations.
//!
//! Each script in `xtask/goldens/` opens with a docstring that says what it records and from what, and holds one line
//!
//! ```text
//! # goldens: --model {model} --out {root}/tests/golden/tokens.json
//! ```
//!
//! with its arguments: `{root}` is the repository, `{model}` the default model.

use crate::error::Error;
use crate::model;
use crate::process;
use crate::repo::Repo;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct GoldensArgs {
    /// An interpreter with the packages of xtask/goldens/requirements.txt.
    #[arg(long)]
    python: PathBuf,
    /// Only the scripts of these names, without `.py` (default: all).
    scripts: Vec<String>,
}

pub fn run(repo: &Repo, args: &GoldensArgs) -> Result<(), Error> {
    let folder = repo.root().join("xtask/goldens");
    check_versions(&args.python, &folder.join("requirements.txt"))?;
    let model = model::ensure_default_model(repo)?;
    for script in chosen(scripts_in(&folder)?, &args.scripts)? {
        let text = std::fs::read_to_string(&script).map_err(Error::io("reading", &script))?;
        println!("{}: {}", repo.relative(&script), first_docstring_line(&text).unwrap_or("(says nothing of itself)"));
        let arguments = arguments_of(&text, repo.root(), &model).ok_or_else(|| Error::Goldens {
            subject: repo.relative(&script),
            problem: "no line `# goldens: …` with its arguments".to_owned(),
        })?;
        process::run(Command::new(&args.python).current_dir(repo.root()).arg(&script).args(arguments))?;
    }
    println!("recorded; `git diff` shows what changed");
    Ok(())
}

/// Goldens from other versions would change for reasons that nobody could tell apart.
fn check_versions(python: &Path, requirements: &Path) -> Result<(), Error> {
    const CHECK: &str = "import importlib.metadata as m, sys\n\
        wrong = False\n\
        for line in open(sys.argv[1]):\n    \
            name, _, pinned = line.split('#')[0].strip().partition('==')\n    \
            if not name: continue\n    \
            try: found = m.version(name)\n    \
            except m.PackageNotFoundError: found = 'nothing'\n    \
            wrong |= found != pinned\n    \
            print(f'  {name} {found}' + ('' if found == pinned else f' (pinned: {pinned})'))\n\
        sys.exit(wrong)";
    println!("recording with:");
    let checked = process::run(Command::new(python).args(["-c", CHECK]).arg(requirements));
    checked.map_err(|error| match error {
        xtask::Error::Failed { .. } => Error::Goldens {
            subject: python.display().to_string(),
            problem: format!("other packages than pinned; `pip install -r {}`", requirements.display()),
        },
        other => other.into(),
    })
}

fn scripts_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("listing", folder))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut scripts: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "py")).collect();
    scripts.sort();
    Ok(scripts)
}

fn chosen(scripts: Vec<PathBuf>, names: &[String]) -> Result<Vec<PathBuf>, Error> {
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(unknown) = names.iter().find(|name| !scripts.iter().any(|script| stem(script) == **name)) {
        let problem = format!("no such script; there are {}", scripts.iter().map(stem).collect::<Vec<_>>().join(", "));
        return Err(Error::Goldens { subject: unknown.clone(), problem });
    }
    Ok(scripts.into_iter().filter(|script| names.is_empty() || names.contains(&stem(script))).collect())
}

fn first_docstring_line(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("\"\"\"")).map(|line| line.trim_end_matches("\"\"\""))
}

fn arguments_of(text: &str, root: &Path, model: &Path) -> Option<Vec<String>> {
    let line = text.lines().find_map(|line| line.strip_prefix("# goldens:"))?;
    let (root, model) = (root.display().to_string(), model.display().to_string());
    Some(line.split_whitespace().map(|word| word.replace("{root}", &root).replace("{model}", &model)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_states_its_purpose_and_its_arguments() {
        let text = "\"\"\"Ids of odd strings, from llama.cpp.\n\nMore.\n\"\"\"\n# goldens: --model {model} --out {root}/a b.json\n";
        assert_eq!(first_docstring_line(text), Some("Ids of odd strings, from llama.cpp."));
        let arguments = arguments_of(text, Path::new("/a repo"), Path::new("/m/x.gguf")).unwrap();
        assert_eq!(arguments, ["--model", "/m/x.gguf", "--out", "/a repo/a", "b.json"]);
        assert_eq!(arguments_of("import sys", Path::new("/"), Path::new("/")), None);
    }

    #[test]
    fn unknown_scripts_are_refused_by_name() {
        let scripts = vec![PathBuf::from("g/dequant.py"), PathBuf::from("g/tokens.py")];
        assert_eq!(chosen(scripts.clone(), &["tokens".to_owned()]).unwrap(), [PathBuf::from("g/tokens.py")]);
        assert_eq!(chosen(scripts.clone(), &[]).unwrap().len(), 2);
        let error = chosen(scripts, &["tokenz".to_owned()]).expect_err("misspelt");
        assert!(error.to_string().contains("dequant, tokens"), "{error}");
    }
}
