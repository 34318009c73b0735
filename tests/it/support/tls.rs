//! A redis-server that speaks TLS alone, with a certificate made for the test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::redis::Redis;
use super::{ReservedPort, eventually};

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// The server and its certificates.
pub(crate) struct TlsRedis {
    _redis: Redis,
    port: ReservedPort,
    files: TempDir,
}

impl TlsRedis {
    /// A server whose certificate was signed by [`TlsRedis::ca`].
    pub(crate) async fn signed() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(NAMES.map(String::from))
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("a certificate");
        Self::start(&ca, &certificate.pem(), &key).await
    }

    /// A server whose certificate nobody vouches for.
    pub(crate) async fn self_signed() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(NAMES.map(String::from)).expect("a certificate");
        Self::start(&cert.pem(), &cert.pem(), &signing_key).await
    }

    async fn start(ca: &str, certificate: &str, key: &KeyPair) -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        file(CA_FILE, ca);
        let certificate = file("server.pem", certificate);
        let key = file("server.key", &key.serialize_pem());
        let port = ReservedPort::new();
        let redis = Redis::with(&[
            "--port",
            "0",
            "--tls-port",
            &port.number().to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
        ])
        .await;
        eventually("a redis-server that listens", async || {
            TcpStream::connect(("127.0.0.1", port.number())).await.ok()
        })
        .await;
        Self {
            _redis: redis,
            port,
            files,
        }
    }

    /// `rediss://host:port`, with a host that the certificate names.
    pub(crate) fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port.number())
    }

    /// The PEM file of the certificate to trust.
    pub(crate) fn ca(&self) -> PathBuf {
        Path::new(self.files.path()).join(CA_FILE)
    }
}

const CA_FILE: &str = "ca.pem";
