//! `endpoints.json`: where everything listens, for scripts. Written when all is ready, atomically; removed at exit.
use std::{collections::BTreeMap, io, path::PathBuf};

/// Removes the file when dropped.
#[derive(Debug)]
pub struct EndpointsFile {
    path: PathBuf,
}

impl EndpointsFile {
    /// A flat object of `host:port` by name.
    pub fn write(path: PathBuf, endpoints: &BTreeMap<&str, String>) -> io::Result<Self> {
        let temporary = path.with_extension("json.new");
        std::fs::write(&temporary, serde_json::to_vec_pretty(endpoints).map_err(io::Error::other)?)?;
        std::fs::rename(&temporary, &path)?;
        Ok(Self { path })
    }
}

impl Drop for EndpointsFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "endpoints file already gone");
        }
    }
}
