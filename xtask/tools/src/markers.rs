//! Generated parts of written pages: what lies between two marker lines is replaced, the rest stays as it is.

use crate::error::Error;
use std::fs;
use std::path::Path;

/// Puts `text` between the lines `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a file.
pub fn replace(path: &Path, name: &str, text: &str) -> Result<(), Error> {
    let before = fs::read_to_string(path).map_err(Error::io("reading", path))?;
    let after =
        with_replaced(&before, name, text).ok_or_else(|| Error::NoMarkers { path: path.into(), name: name.into() })?;
    let partial = path.with_extension("partial");
    fs::write(&partial, after).map_err(Error::io("writing", &partial))?;
    fs::rename(&partial, path).map_err(Error::io("replacing", path))
}

fn with_replaced(before: &str, name: &str, text: &str) -> Option<String> {
    let [begin, end] = ["begin", "end"].map(|which| format!("<!-- {name}: {which} -->"));
    let (head, rest) = before.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{}\n{end}{tail}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let before = "# Title\n\n<!-- a: begin -->\nold\n<!-- a: end -->\n\nMore.\n";
        let after = with_replaced(before, "a", "| new |\n\n").unwrap();
        assert_eq!(after, "# Title\n\n<!-- a: begin -->\n| new |\n<!-- a: end -->\n\nMore.\n");
        assert_eq!(with_replaced(&after, "a", "| new |"), Some(after.clone()), "writing twice changes nothing");
        assert_eq!(with_replaced(before, "b", "x"), None);
        assert_eq!(with_replaced("<!-- a: end -->\n<!-- a: begin -->\n", "a", "x"), None, "in the wrong order");
    }
}
