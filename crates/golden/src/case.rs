//! The cases of a pipeline folder: `tests/<case>/input/*` and `tests/<case>/expected/*`, each file named by its table (or topic).
use std::{
    fs,
    path::{Path, PathBuf},
};

use polybolos_sql::names::RelationName;

use crate::{
    GoldenError,
    rows::{Format, Rows},
};

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub folder: PathBuf,
    pub inputs: Vec<Input>,
    pub expected: Vec<Expected>,
}

/// Records, as they are produced: a line each, whatever it holds. Empty lines are nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub name: String,
    pub lines: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Expected {
    pub table: RelationName,
    pub file: PathBuf,
    pub format: Format,
    /// Without columns: an empty file, which expects an empty table.
    pub rows: Rows,
}

impl Expected {
    /// As people know it: its name in the case's folder.
    pub fn label(&self) -> String {
        format!("expected/{}", self.file.file_name().unwrap_or_default().to_string_lossy())
    }
}

/// `users` or `schema.users`.
pub fn relation(name: &str) -> RelationName {
    match name.split_once('.') {
        Some((schema, name)) => RelationName::new(schema, name),
        None => RelationName::public(name),
    }
}

/// All cases of a pipeline, by name; none when it has no `tests` folder.
pub fn read_all(pipeline: &Path) -> Result<Vec<Case>, GoldenError> {
    let folder = pipeline.join("tests");
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let folders = entries(&folder)?.into_iter().filter(|path| path.is_dir());
    folders.map(|folder| read(&folder)).collect()
}

fn read(folder: &Path) -> Result<Case, GoldenError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut inputs = vec![];
    for path in files(&folder.join("input"))? {
        let (stem, extension) = split_name(&path);
        if Format::of_extension(&extension) != Some(Format::Ndjson) {
            return Err(GoldenError::invalid(path.display(), "input is ndjson; name the file <table>.ndjson"));
        }
        let lines = text(&path)?.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        inputs.push(Input { name: stem, lines });
    }
    if inputs.is_empty() {
        return Err(GoldenError::invalid(folder.display(), "the case has no input; write input/<table>.ndjson, a record per line"));
    }
    let mut expected = vec![];
    for path in files(&folder.join("expected"))? {
        let (stem, extension) = split_name(&path);
        let Some(format) = Format::of_extension(&extension) else {
            return Err(GoldenError::invalid(
                path.display(),
                "expected rows are ndjson or csv; name the file <table>.ndjson or <table>.csv",
            ));
        };
        let rows = format.read(&path.display().to_string(), &text(&path)?)?;
        expected.push(Expected { table: relation(&stem), file: path, format, rows });
    }
    Ok(Case { name, folder: folder.to_owned(), inputs, expected })
}

fn split_name(path: &Path) -> (String, String) {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    (part(path.file_stem()), part(path.extension()))
}

fn text(path: &Path) -> Result<String, GoldenError> {
    fs::read_to_string(path).map_err(|source| GoldenError::Read { path: path.display().to_string(), source })
}

/// Hidden files are nobody's.
fn files(folder: &Path) -> Result<Vec<PathBuf>, GoldenError> {
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    Ok(entries(folder)?.into_iter().filter(|path| path.is_file() && !hidden(path)).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, GoldenError> {
    let unreadable = |source| GoldenError::Read { path: folder.display().to_string(), source };
    let mut paths = vec![];
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Writes what was found as what is expected.
pub fn write(file: &Path, format: Format, rows: &Rows) -> Result<(), GoldenError> {
    let failed = |source| GoldenError::Write { path: file.display().to_string(), source };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(file, format.write(rows)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join("tests/some case").join(name);
        for (name, text) in [
            ("input/readings.ndjson", "{\"v\":1}\n\nnot json\n"),
            ("expected/k.stats.csv", "v\n1\n"),
            ("expected/none.ndjson", ""),
            ("expected/.swp", "x"),
        ] {
            fs::create_dir_all(path(name).parent().expect("a parent")).expect("folders");
            fs::write(path(name), text).expect("a file");
        }
        let cases = read_all(folder.path()).expect("cases");
        let [case] = cases.as_slice() else { panic!("one case") };
        assert_eq!(case.name, "some case");
        assert_eq!(case.inputs, [Input { name: "readings".into(), lines: vec!["{\"v\":1}".into(), "not json".into()] }]);
        let tables: Vec<String> = case.expected.iter().map(|expected| expected.table.to_string()).collect();
        assert_eq!(tables, ["k.stats", "none"]);
        assert_eq!(case.expected[0].label(), "expected/k.stats.csv");
        assert!(case.expected[1].rows.columns.is_empty());

        fs::remove_dir_all(path("input")).expect("removed");
        assert!(read_all(folder.path()).expect_err("no input").to_string().contains("input/<table>.ndjson"));
        assert!(read_all(&folder.path().join("tests")).expect("none").is_empty());
    }
}
