//! The public key of a certificate that a sender names by URL, taken only once the certificate has been checked.

use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, ring};

/// Bytes of PEM text that are read.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;
/// Certificates that a text may hold.
pub const CERTIFICATES_MAX: usize = 6;

/// SHA-1 is left out on purpose: no public CA has signed with it since 2016.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::ED25519,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
    ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// Why a certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Longer than [`CHAIN_BYTES_MAX`].
    #[error("the certificate file is larger than {CHAIN_BYTES_MAX} bytes; check what its URL answers")]
    TooLarge,
    /// More than [`CERTIFICATES_MAX`].
    #[error(
        "the certificate file holds more than {CERTIFICATES_MAX} certificates; check what its URL answers"
    )]
    TooMany,
    /// No certificate, or a broken block.
    #[error("the certificate file is not PEM text with a certificate; check what its URL answers")]
    NotPem,
    /// The certificate cannot be read.
    #[error("the sender's certificate cannot be read ({0})")]
    Unreadable(webpki::Error),
    /// It is outside its dates.
    #[error("the sender's certificate is not valid at this time; check the clock")]
    Time,
    /// No way from it to a root.
    #[error(
        "the sender's certificate does not lead to a trusted root ({0}); check the system's root certificates"
    )]
    Untrusted(webpki::Error),
    /// It is another's.
    #[error("the sender's certificate is for none of the names expected of it")]
    Name,
}

/// The SubjectPublicKeyInfo of the first certificate in `chain_pem`, once it leads to one of `roots`, is in its dates
/// at `now_ms` (milliseconds since 1970) and is a TLS server's for one of `names`.
///
/// Intermediates come after it in `chain_pem`, or from `more_intermediates`: Amazon SNS serves its certificate alone.
/// Revocation is not looked at.
///
/// # Errors
/// Every [`CertificateError`].
pub fn checked_spki(
    chain_pem: &[u8],
    more_intermediates: &[CertificateDer<'_>],
    roots: &[TrustAnchor<'_>],
    names: &[&str],
    now_ms: i64,
) -> Result<Vec<u8>, CertificateError> {
    let chain = read(chain_pem)?;
    let (first, rest) = chain.split_first().ok_or(CertificateError::NotPem)?;
    let end_entity = EndEntityCert::try_from(first).map_err(CertificateError::Unreadable)?;
    let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now_ms).unwrap_or(0)));
    let intermediates: Vec<CertificateDer<'_>> = rest.iter().chain(more_intermediates).cloned().collect();
    end_entity
        .verify_for_usage(
            ALGORITHMS,
            roots,
            &intermediates,
            now,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                CertificateError::Time
            }
            error => CertificateError::Untrusted(error),
        })?;
    check_names(&end_entity, names)?;
    Ok(end_entity.subject_public_key_info().as_ref().to_vec())
}

/// The SubjectPublicKeyInfo of the first certificate in `pem`: by its chain, where intermediates came with it; where it came
/// alone, as Amazon SNS serves it, by the host that served it over TLS, and by its dates.
///
/// # Errors
/// Every [`CertificateError`].
pub fn spki(
    pem: &[u8],
    roots: &[TrustAnchor<'_>],
    names: &[&str],
    now_ms: i64,
) -> Result<Vec<u8>, CertificateError> {
    match checked_spki(pem, &[], roots, names, now_ms) {
        // No issuer is known for it: that is the one thing that a missing intermediate explains.
        Err(CertificateError::Untrusted(webpki::Error::UnknownIssuer)) if read(pem)?.len() == 1 => {
            fetched_spki(pem, names)
        }
        checked => checked,
    }
}

/// The SubjectPublicKeyInfo of the first certificate in `pem`, if it is for one of `names`; neither its chain nor its
/// dates are checked.
///
/// Only for bytes that came over TLS, checked against the system's roots, from a host that the URL rule of the
/// provider allows: then the host vouches for the certificate, as in Amazon's own validators for SNS
/// (aws/aws-js-sns-message-validator), which look at no chain.
///
/// # Errors
/// `TooLarge`, `TooMany`, `NotPem`, `Unreadable` or `Name`.
pub fn fetched_spki(pem: &[u8], names: &[&str]) -> Result<Vec<u8>, CertificateError> {
    let chain = read(pem)?;
    let first = chain.first().ok_or(CertificateError::NotPem)?;
    let end_entity = EndEntityCert::try_from(first).map_err(CertificateError::Unreadable)?;
    check_names(&end_entity, names)?;
    Ok(end_entity.subject_public_key_info().as_ref().to_vec())
}

fn read(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    if pem.len() > CHAIN_BYTES_MAX {
        return Err(CertificateError::TooLarge);
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::NotPem)?;
    if chain.len() > CERTIFICATES_MAX {
        return Err(CertificateError::TooMany);
    }
    Ok(chain)
}

fn check_names(end_entity: &EndEntityCert<'_>, names: &[&str]) -> Result<(), CertificateError> {
    let fits = |name: &&str| {
        ServerName::try_from(*name)
            .is_ok_and(|name| end_entity.verify_is_valid_for_subject_name(&name).is_ok())
    };
    if names.iter().any(fits) {
        Ok(())
    } else {
        Err(CertificateError::Name)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    /// 2025-07-01, within the dates of every certificate here but those made old on purpose.
    const NOW_MS: i64 = 1_751_328_000_000;
    const NAME: &str = "sender.example.com";

    fn params(name: &str, years: std::ops::Range<i32>) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        params
    }

    fn ca_params(name: &str) -> CertificateParams {
        let mut params = params(name, 2020..2040);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    struct World {
        root: CertifiedIssuer<'static, KeyPair>,
        middle: CertifiedIssuer<'static, KeyPair>,
    }

    impl World {
        fn new() -> Self {
            let root = CertifiedIssuer::self_signed(ca_params("root"), KeyPair::generate().unwrap()).unwrap();
            let middle =
                CertifiedIssuer::signed_by(ca_params("middle"), KeyPair::generate().unwrap(), &root).unwrap();
            Self { root, middle }
        }

        /// A leaf of the middle one, and its SubjectPublicKeyInfo.
        fn leaf(&self, params: CertificateParams) -> (String, Vec<u8>) {
            let key = KeyPair::generate().unwrap();
            let pem = params.signed_by(&key, &self.middle).unwrap().pem();
            (pem, rcgen::PublicKeyData::subject_public_key_info(&key))
        }

        fn check(&self, pem: &str, names: &[&str]) -> Result<Vec<u8>, CertificateError> {
            let root = self.root.der().clone();
            let roots = [webpki::anchor_from_trusted_cert(&root).unwrap().to_owned()];
            checked_spki(pem.as_bytes(), &[], &roots, names, NOW_MS)
        }
    }

    #[test]
    fn a_chain_to_the_root() {
        let world = World::new();
        let (leaf, spki) = world.leaf(params(NAME, 2025..2026));
        let middle = world.middle.pem();
        let own = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let own = own.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let issuer = Err(CertificateError::Untrusted(webpki::Error::UnknownIssuer));
        for (name, pem, names, expected) in [
            (
                "leaf and intermediate",
                format!("{leaf}{middle}"),
                &[NAME][..],
                Ok(()),
            ),
            (
                "any of the names",
                format!("{leaf}{middle}"),
                &["a.example.com", NAME],
                Ok(()),
            ),
            (
                "another name",
                format!("{leaf}{middle}"),
                &["a.example.com"],
                Err(CertificateError::Name),
            ),
            (
                "no name",
                format!("{leaf}{middle}"),
                &[],
                Err(CertificateError::Name),
            ),
            (
                "a name that is none",
                format!("{leaf}{middle}"),
                &["a b"],
                Err(CertificateError::Name),
            ),
            ("leaf alone", leaf.clone(), &[NAME], issuer.clone()),
            ("signed by itself", own.clone(), &[NAME], issuer.clone()),
            (
                "signed by itself, before a good chain",
                format!("{own}{leaf}{middle}"),
                &[NAME],
                issuer,
            ),
            (
                "no PEM",
                "hello".to_owned(),
                &[NAME],
                Err(CertificateError::NotPem),
            ),
            (
                "cut short",
                leaf[..leaf.len() / 2].to_owned(),
                &[NAME],
                Err(CertificateError::NotPem),
            ),
            ("six", leaf.clone() + &middle.repeat(5), &[NAME], Ok(())),
            (
                "seven",
                leaf.clone() + &middle.repeat(6),
                &[NAME],
                Err(CertificateError::TooMany),
            ),
            (
                "too large",
                leaf.clone() + &" ".repeat(CHAIN_BYTES_MAX),
                &[NAME],
                Err(CertificateError::TooLarge),
            ),
        ] {
            assert_eq!(
                world.check(&pem, names),
                expected.map(|()| spki.clone()),
                "{name}"
            );
        }
        let other = World::new();
        assert!(matches!(
            other.check(&format!("{leaf}{middle}"), &[NAME]),
            Err(CertificateError::Untrusted(_))
        ));
    }

    #[test]
    fn dates_and_purposes() {
        let world = World::new();
        let with = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = params(NAME, 2025..2026);
            change(&mut params);
            world.check(&(world.leaf(params).0 + &world.middle.pem()), &[NAME])
        };
        assert!(with(&|_| ()).is_ok());
        let expired = with(&|params| params.not_after = date_time_ymd(2025, 6, 30));
        assert_eq!(expired, Err(CertificateError::Time));
        let future = with(&|params| params.not_before = date_time_ymd(2025, 7, 2));
        assert_eq!(future, Err(CertificateError::Time));
        let server = with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert!(server.is_ok());
        let mail =
            with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]);
        assert!(matches!(mail, Err(CertificateError::Untrusted(_))), "{mail:?}");
        let ca = with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert!(matches!(ca, Err(CertificateError::Untrusted(_))), "{ca:?}");
    }

    #[test]
    fn intermediates_from_elsewhere_and_no_chain_at_all() {
        let world = World::new();
        let (leaf, spki) = world.leaf(params(NAME, 2025..2026));
        let root = world.root.der().clone();
        let roots = [webpki::anchor_from_trusted_cert(&root).unwrap()];
        let more = [world.middle.der().clone()];
        assert_eq!(
            checked_spki(leaf.as_bytes(), &more, &roots, &[NAME], NOW_MS).as_ref(),
            Ok(&spki)
        );
        assert_eq!(fetched_spki(leaf.as_bytes(), &[NAME]), Ok(spki));
        assert_eq!(
            fetched_spki(leaf.as_bytes(), &["example.com"]),
            Err(CertificateError::Name)
        );
        assert_eq!(fetched_spki(b"", &[NAME]), Err(CertificateError::NotPem));
    }
}
