//! The front door's certificate: loaded and checked before Pingora sees it, and replaceable while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or holds no PEM of that kind.
    #[error("{path}: cannot read a {what} from it: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// `certificate chain` or `private key`.
        what: &'static str,
        /// The library's words; never the content.
        reason: String,
    },
    /// They do not belong together, or are of no known kind.
    #[error("certificate {cert} and key {key} cannot be used together: {reason}")]
    Unusable {
        /// The chain's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The library's words.
        reason: String,
    },
}

/// The certificate in use. A reload swaps it; handshakes under way keep theirs.
#[derive(Debug)]
pub struct TlsIdentity(ArcSwap<CertifiedKey>);

impl TlsIdentity {
    /// Reads chain (leaf first) and key, both PEM.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::new(Arc::new(read(cert, key)?)))))
    }

    /// Reads both files again.
    ///
    /// # Errors
    /// See [`TlsError`]; the old certificate stays.
    pub fn reload(&self, cert: &Path, key: &Path) -> Result<(), TlsError> {
        self.0.store(Arc::new(read(cert, key)?));
        Ok(())
    }
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let unreadable = |path: &Path, what, reason: String| TlsError::Unreadable {
        path: path.to_owned(),
        what,
        reason,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(cert, "certificate chain", error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable(cert, "certificate chain", "it holds none".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable(key, "private key", error.to_string()))?;
    let unusable = |error: rustls::Error| TlsError::Unusable {
        cert: cert.to_owned(),
        key: key.to_owned(),
        reason: error.to_string(),
    };
    let certified = CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(unusable)?;
    certified.keys_match().map_err(unusable)?;
    Ok(certified)
}

impl ResolvesServerCert for TlsIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
