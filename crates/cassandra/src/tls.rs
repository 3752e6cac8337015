//! Whom a session trusts: nodes whose certificates an authority of a PEM file signed, for the address by which they are reached.
use std::{path::Path, sync::Arc};

use polybolos_tables::TableError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// TLS with the authorities of this file.
pub(crate) fn trusting(ca_file: &Path) -> Result<Arc<ClientConfig>, TableError> {
    let unusable = |why: String| {
        let message =
            format!("cassandra.ca_file {}: {why}; name a PEM file with the certificates of the authorities", ca_file.display());
        TableError::Rejected { message, source: None }
    };
    let authorities = CertificateDer::pem_file_iter(ca_file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let authorities = authorities.map_err(|error| unusable(error.to_string()))?;
    if authorities.is_empty() {
        return Err(unusable("it has no certificate".into()));
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_refused_by_name() {
        let refused = |path: &Path| trusting(path).expect_err("is refused").to_string();
        let told = refused(Path::new("/nowhere/ca.pem"));
        assert!(told.contains("cassandra.ca_file /nowhere/ca.pem: "), "{told}");
        let told = refused(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")));
        assert!(told.contains("it has no certificate; name a PEM file"), "{told}");
    }
}
