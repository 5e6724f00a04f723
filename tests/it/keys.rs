//! Keys of senders, fetched over TLS from a server with a CA of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hooklatch::clock::{Clock, ManualClock, SystemClock};
use hooklatch::event::{SecretName, Timestamp};
use hooklatch::fields::Fields;
use hooklatch::keys::{Fetch, Https, KeyCache};
use hooklatch::provider::preset;
use hooklatch::provider::scheme::Request;
use hooklatch::provider::signature::{LiveKey, SignatureError};
use hooklatch::secret::SecretText;
use hooklatch::upstream::Client;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring as provider};

use crate::fault_server::{FaultServer, read_request};
use crate::support::{App, Connection, Launch, Reply, post};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A TLS server on "localhost" that answers every path with what `answer` says, and counts.
async fn serve(
    ca: &Ca,
    answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (FaultServer, Arc<AtomicUsize>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, ca)
        .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let server = FaultServer::start(move |peer| {
        let (acceptor, answer, count) = (acceptor.clone(), answer.clone(), counted.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(peer.stream).await else {
                return;
            };
            let Some(request) = read_request(&mut stream).await else {
                return;
            };
            count.fetch_add(1, Ordering::SeqCst);
            let text = request.head.clone();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, body) = match answer(&path) {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            drop(stream.write_all(head.as_bytes()).await);
            drop(stream.write_all(&body).await);
            drop(stream.shutdown().await);
        }
    })
    .await;
    (server, count)
}

/// An ES256 key, its JWK Set, and tokens by it.
struct Issuer(KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn set(&self, kid: &str) -> Vec<u8> {
        let point = self.0.der_bytes();
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[1..33]),
            URL_SAFE_NO_PAD.encode(&point[33..65]),
        );
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"{x}","y":"{y}"}}]}}"#).into_bytes()
    }

    fn token(&self, kid: &str, claims: &str) -> String {
        let head = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let random = ring::rand::SystemRandom::new();
        let pair = ring::signature::EcdsaKeyPair::from_pkcs8(
            &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &self.0.serialize_der(),
            &random,
        )
        .unwrap();
        let signature = pair.sign(&random, message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The real gateway, a route like that of Google Pub/Sub, and a key server of our own.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_with_keys_that_are_fetched_once() {
    let ca = ca();
    let issuer = Arc::new(Issuer::new());
    let served = issuer.clone();
    let (server, fetches) = serve(&ca, move |path| (path == "/jwks").then(|| served.set("k1"))).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, ca.pem()).unwrap();
    let app = App::with(|_| Reply::Status(200));
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\nallow_ephemeral = true\n\
         [secrets]\npush = {{ value = \"https://gate.example.com/push push@example.com\" }}\n[[route]]\npath = \"/push\"\n\
         secrets = [\"push\"]\nupstream = {{ url = \"http://{}/\" }}\n[route.verify]\nalgorithm = \"jws\"\nprefix = \"Bearer \"\n\
         jws = {{ jwks = \"https://localhost:{}/jwks\", algorithms = [\"ES256\"], issuer = \"https://issuer.example.com\", \
         secret_claims = [\"aud\", \"email\"], required_claims = {{ email_verified = \"true\" }} }}\n",
        folder.path().join("store"),
        app.address(),
        server.address.port(),
    );
    let gateway =
        tokio::task::spawn_blocking(move || Launch::new(&config).env("SSL_CERT_FILE", roots).start())
            .await
            .unwrap();
    let now = SystemClock.now().0 / 1000;
    let claims = |aud: &str, email: &str, exp: i64| {
        format!(
            r#"{{"iss":"https://issuer.example.com","aud":"{aud}","email":"{email}","email_verified":true,"exp":{exp}}}"#
        )
    };
    let good = claims("https://gate.example.com/push", "push@example.com", now + 300);
    let other = Issuer::new();
    let cases = [
        ("good", issuer.token("k1", &good), 200),
        ("once more", issuer.token("k1", &good), 200),
        ("of another key", other.token("k1", &good), 401),
        (
            "for another audience",
            issuer.token("k1", &claims("https://x", "push@example.com", now + 300)),
            401,
        ),
        (
            "of another account",
            issuer.token(
                "k1",
                &claims("https://gate.example.com/push", "x@example.com", now + 300),
            ),
            401,
        ),
        (
            "run out",
            issuer.token(
                "k1",
                &claims("https://gate.example.com/push", "push@example.com", now - 3600),
            ),
            401,
        ),
        ("of an unknown key id", issuer.token("k2", &good), 401),
        ("no token", "x".to_owned(), 401),
    ];
    let listen = gateway.listen();
    let log = tokio::task::spawn_blocking(move || {
        for (number, (name, token, status)) in cases.iter().enumerate() {
            let body = format!("{{\"n\":{number}}}");
            let answer = post(
                listen,
                "/push",
                &[("authorization", &format!("Bearer {token}"))],
                body.as_bytes(),
            );
            assert_eq!(answer.status, *status, "{name}: {}", answer.text());
        }
        let delivered = app.wait_for(2);
        // A token is a credential: it is neither kept nor sent on.
        assert!(
            delivered
                .iter()
                .all(|request| request.header("authorization").is_none())
        );
        gateway.log()
    })
    .await
    .unwrap();
    assert_eq!(fetches.load(Ordering::SeqCst), 1, "{log}");
}

/// A key server that is down proves no forgery: the sender shall come again, and a route that only watches does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_had_refuse_nobody_for_good() {
    let ca = ca();
    let (server, _) = serve(&ca, |_| None).await;
    let folder = tempfile::tempdir().unwrap();
    let app = App::with(|_| Reply::Status(200));
    let mut config = format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\nallow_ephemeral = true\n\
         [secrets]\npush = {{ value = \"https://gate.example.com/push\" }}\n",
        folder.path().join("store"),
    );
    for (path, enforce) in [("held", true), ("watched", false)] {
        config.push_str(&format!(
            "[[route]]\npath = \"/{path}\"\nsecrets = [\"push\"]\nenforce = {enforce}\nupstream = {{ url = \"http://{}/\" }}\n\
             [route.verify]\nalgorithm = \"jws\"\nprefix = \"Bearer \"\njws = {{ jwks = \"https://localhost:{}/jwks\", \
             algorithms = [\"ES256\"], secret_claims = [\"aud\"] }}\n",
            app.address(),
            server.address.port(),
        ));
    }
    let token = Issuer::new().token("k1", r#"{"aud":"https://gate.example.com/push"}"#);
    tokio::task::spawn_blocking(move || {
        let gateway = Launch::new(&config).start();
        let bearer = format!("Bearer {token}");
        let answer = |path: &str| post(gateway.listen(), path, &[("authorization", &bearer)], b"{}");
        let held = answer("/held");
        assert_eq!(held.status, 503, "{}", held.text());
        assert!(held.header("retry-after").is_some());
        assert_eq!(answer("/watched").status, 200, "{}", gateway.log());
        assert_eq!(app.wait_for(1)[0].header("hooklatch-verified"), Some("false"));
        let mut admin = Connection::open(gateway.admin()).unwrap();
        admin
            .write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let metrics = admin.read_response().unwrap().text();
        let counted = r#"hooklatch_unverified_total{route="watched",reason="keys_unavailable"} 1"#;
        assert!(metrics.contains(counted), "{metrics}");
    })
    .await
    .unwrap();
}

/// Fetches from a local server what stands at any host's address.
#[derive(Debug)]
struct Local {
    https: Https,
    port: u16,
}

#[async_trait]
impl Fetch for Local {
    async fn fetch(&self, url: &str) -> Result<Bytes, String> {
        let (_, rest) = url.split_once("://").unwrap();
        let (_, path) = rest.split_once('/').unwrap();
        self.https
            .fetch(&format!("https://localhost:{}/{path}", self.port))
            .await
    }
}

/// The public key of a vector, to be put into a certificate.
struct RsaKey(Vec<u8>);

impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

/// SNS and PayPal publish certificates: here those of the catalogue's vectors, signed by a CA of ours and by another.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_fetched_and_checked_before_they_are_believed() {
    let ca = ca();
    for (name, other_name) in [("aws-sns", "sns.example.com"), ("paypal", "paypal.example.com")] {
        let preset = preset::find(name).unwrap();
        let scheme = &preset.schemes[0];
        let vector = preset.vectors.iter().find(|vector| vector.valid).unwrap();
        let headers = Fields::from_pairs(
            vector
                .headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        );
        let request = Request::new(&headers, vector.body.as_bytes());
        let need = scheme.need(&request).unwrap().unwrap();
        let hooklatch::provider::fetched::Need::Certificate { names, .. } = &need else {
            panic!("{need:?}");
        };
        let spki = STANDARD.decode(vector.fetched.as_ref().unwrap()).unwrap();
        let certificate = |names: Vec<String>, issuer: &Ca| {
            let params = CertificateParams::new(names).unwrap();
            // An SPKI of RSA with 2048 bits: 24 bytes that name the algorithm, then the key.
            params
                .signed_by(&RsaKey(spki[24..].to_vec()), issuer)
                .unwrap()
                .pem()
        };
        let good = certificate(vec![names[0].to_string()], &ca);
        let stranger = certificate(vec![other_name.to_owned()], &ca);
        let other_ca = self::ca();
        let untrusted = format!(
            "{}{}",
            certificate(vec![names[0].to_string()], &other_ca),
            other_ca.pem()
        );
        for (what, pem, accepted) in [
            ("good", good, true),
            ("another's", stranger, false),
            ("not trusted", untrusted, false),
            ("no certificate", "nothing".to_owned(), false),
        ] {
            let (server, _) = serve(&ca, move |_| Some(pem.clone().into_bytes())).await;
            let client = Client::with_roots(Duration::ZERO, 0, [ca.der().clone()]).unwrap();
            let fetch = Local {
                https: Https::new(client),
                port: server.address.port(),
            };
            // rcgen's certificates are valid from 1975 to 4096.
            let now = Timestamp(vector.now_secs.unwrap() * 1000);
            let root = webpki::anchor_from_trusted_cert(ca.der()).unwrap().to_owned();
            let keys = KeyCache::new(Arc::new(fetch), Arc::new(ManualClock::new(now))).with_roots(vec![root]);
            let fetched = keys.get(&need).await;
            assert_eq!(fetched.is_ok(), accepted, "{name}, {what}: {fetched:?}");
            let key = LiveKey {
                name: SecretName::new("main"),
                key: scheme
                    .key(&SecretText::new(vector.secret.clone().into_bytes()))
                    .unwrap(),
                until: None,
            };
            let known = [key];
            let claim = scheme.claim(&request).unwrap();
            let checked = scheme.check(&claim, &known, now, &request, fetched.as_ref().ok());
            match accepted {
                true => assert!(checked.is_ok(), "{name}: {checked:?}"),
                false => assert_eq!(checked.unwrap_err(), SignatureError::NoKeys, "{name}, {what}"),
            }
        }
    }
}
