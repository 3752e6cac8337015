//! `endpoints.json`: where everything listens, for scripts and the command line. Written when all is ready, atomically; removed at exit, unless
//! another process has written its own since.
use std::{collections::BTreeMap, io, path::PathBuf};

/// Removes the file when dropped.
#[derive(Debug)]
pub struct EndpointsFile {
    path: PathBuf,
    content: Vec<u8>,
}

impl EndpointsFile {
    /// A flat object of `host:port` by name.
    pub fn write(path: PathBuf, endpoints: &BTreeMap<&str, String>) -> io::Result<Self> {
        let temporary = path.with_extension("json.new");
        let content = serde_json::to_vec_pretty(endpoints).map_err(io::Error::other)?;
        std::fs::write(&temporary, &content)?;
        std::fs::rename(&temporary, &path)?;
        Ok(Self { path, content })
    }
}

impl Drop for EndpointsFile {
    fn drop(&mut self) {
        if std::fs::read(&self.path).is_ok_and(|content| content != self.content) {
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
        let write = |http: &str| EndpointsFile::write(path.clone(), &BTreeMap::from([("http", http.to_owned())])).unwrap();
        let (first, second) = (write("here:1"), write("here:2"));
        drop(first);
        assert!(std::fs::read_to_string(&path).unwrap().contains("here:2"));
        drop(second);
        assert!(!path.exists());
    }
}
