//! `endpoints.json`: where everything listens, for scripts and the command line. Written atomically when all is ready, by whoever leads where several share a folder;
//! removed at exit, unless another process has written its own since.
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

/// Removes the file when dropped.
#[derive(Debug)]
pub struct EndpointsFile {
    path: PathBuf,
    content: Vec<u8>,
    written: AtomicBool,
}

impl EndpointsFile {
    /// A flat object of `host:port` by name, to be written.
    pub fn new(path: PathBuf, endpoints: &BTreeMap<&str, String>) -> io::Result<Self> {
        let content = serde_json::to_vec_pretty(endpoints).map_err(io::Error::other)?;
        Ok(Self { path, content, written: AtomicBool::new(false) })
    }

    /// Whether there is one, of whatever process.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Replaces what is there.
    pub fn write(&self) -> io::Result<()> {
        // Another process may write its own at the same moment.
        let temporary = self.path.with_extension(format!("json.{}.new", std::process::id()));
        let written = std::fs::write(&temporary, &self.content).and_then(|()| std::fs::rename(&temporary, &self.path));
        self.written.fetch_or(written.is_ok(), Ordering::Relaxed);
        written.inspect_err(|_| _ = std::fs::remove_file(&temporary))
    }
}

impl Drop for EndpointsFile {
    fn drop(&mut self) {
        let is_ours = || std::fs::read(&self.path).is_ok_and(|content| content == self.content);
        if !self.written.load(Ordering::Relaxed) || !is_ours() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "endpoints file already gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_wrote_last_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.json");
        let file = |http: &str| EndpointsFile::new(path.clone(), &BTreeMap::from([("http", http.to_owned())])).unwrap();
        let (first, second) = (file("here:1"), file("here:2"));
        assert!(!first.exists());
        first.write().unwrap();
        assert!(second.exists());
        second.write().unwrap();
        drop(first);
        assert!(std::fs::read_to_string(&path).unwrap().contains("here:2"));
        drop(second);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_was_not_written_leaves_nothing_and_removes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = |http: &str| BTreeMap::from([("http", http.to_owned())]);
        // A file cannot take the place of a folder.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(EndpointsFile::new(taken, &endpoints("here:1")).unwrap().write().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let path = folder.path().join("endpoints.json");
        let leader = EndpointsFile::new(path.clone(), &endpoints("here:1")).unwrap();
        leader.write().unwrap();
        for http in ["here:1", "here:2"] {
            drop(EndpointsFile::new(path.clone(), &endpoints(http)).unwrap());
        }
        assert!(leader.exists());
    }
}
