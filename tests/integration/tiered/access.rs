//! Access to the server: TLS, users, databases, and warnings about the configuration of the server.

use super::servers::cluster::Cluster;
use super::servers::replicated::Replicated;
use super::servers::{Server, deployed, soon};
use super::{builder, fails, proven, value};
use hotset::{Consistency, Propagation, RemoteError, TieredCache, TieredCacheBuilder, Warning};
use support::caches::wait_until_proven;

/// Checks that a cache with this builder has all required rights, by calls that need each of them.
async fn check_all_rights(builder: TieredCacheBuilder<u64, u64>) {
    let cache = builder.build().unwrap();
    wait_until_proven(&cache).await;
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    cache.get_or_load_async(&1, fails).await.unwrap();
    let loaded = hotset::Loaded::new(20).tags(["a"]);
    assert_eq!(
        cache.insert_loaded(2, loaded).await,
        Propagation::Acknowledged
    );
    let written = cache.write_through(3, 30, |_| value(())).await;
    assert_eq!(written, Ok(Propagation::Acknowledged));
    assert_eq!(cache.invalidate_tag("a").await, Propagation::Acknowledged);
    assert_eq!(cache.invalidate(&1).await, Propagation::Acknowledged);
    assert_eq!(cache.clear().await, Propagation::Acknowledged);
    let failed = cache.get_or_load_async(&4, fails).await;
    assert!(failed.is_err());
    let health = cache.health();
    assert!(health.last_error.is_none() && health.not_subscribed.is_none());
    assert_eq!(
        health.warnings,
        [],
        "the deployed ACL file grants all rights"
    );
}

/// Returns the path of the deployed ACL file.
fn users() -> String {
    deployed("users.acl").display().to_string()
}

/// Returns the URL with the user of the ACL file.
fn as_user(url: &str) -> String {
    url.replace("://", "://hotset:change-me@")
}

#[tokio::test]
async fn deployed_user_has_all_required_rights() {
    let server = Server::start_with(&["--aclfile", &users()]);
    check_all_rights(builder(&as_user(&server.url()), Consistency::Realtime)).await;
    // A cache that waits for replicas fails because there are none, not because of a missing right.
    let cache: TieredCache<u64, u64> = builder(&as_user(&server.url()), Consistency::Realtime)
        .replicas(1)
        .build()
        .unwrap();
    soon("the missing replica is reported", || {
        matches!(cache.health().last_error, Some(RemoteError::Undecided(_)))
    })
    .await;
}

#[tokio::test]
async fn replica_logs_in_with_its_own_user() {
    let primary = Server::start_with(&["--aclfile", &users()]);
    let port = primary.port().to_string();
    let replica = Server::start_with(&[
        "--masteruser",
        "replica",
        "--masterauth",
        "change-me",
        "--replicaof",
        &format!("127.0.0.1 {port}"),
    ]);
    soon("the replica follows", || {
        let info: redis::InfoDict = replica.command(&[b"INFO", b"replication"]);
        info.get("master_link_status") == Some("up".to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_user_has_all_required_rights_with_sentinels_and_in_a_cluster() {
    let acl = std::fs::read_to_string(users()).unwrap();
    let user: Vec<&str> = acl.lines().last().unwrap().split(' ').collect();
    let set = |server: &Server| {
        let words = ["ACL", "SETUSER"].iter().chain(&user[1..]);
        let () = server.command(&words.map(|word| word.as_bytes()).collect::<Vec<_>>());
    };
    let replicated = Replicated::start().await;
    replicated.servers.iter().for_each(set);
    check_all_rights(builder(&as_user(&replicated.url()), Consistency::Realtime)).await;
    let cluster = Cluster::start();
    cluster.servers.iter().for_each(set);
    check_all_rights(builder(&as_user(&cluster.url()), Consistency::Realtime)).await;
}

#[tokio::test]
async fn missing_right_is_a_warning() {
    let server = Server::start();
    for missing in ["-evalsha", "-subscribe", "-script|load", "-info", "-zadd"] {
        // A user of its own, whose connections no earlier cache has opened.
        let user = format!("without{missing}").replace('|', "-");
        let rights = [
            "ACL", "SETUSER", &user, "on", ">secret", "~*", "&*", "+@all", missing,
        ];
        let () = server.command(&rights.map(str::as_bytes));
        let login = format!("://{user}:secret@");
        let url = server.url().replace("://", &login);
        let cache: TieredCache<u64, u64> = builder(&url, Consistency::Realtime).build().unwrap();
        let is_warned = || {
            let warnings = cache.health().warnings;
            warnings
                .iter()
                .any(|warning| matches!(warning, Warning::Forbidden(_)))
        };
        soon(missing, is_warned).await;
        assert_eq!(
            cache.get_or_load_async(&1, |_| value(10)).await.unwrap(),
            10
        );
        assert!(!format!("{:?}", cache.health()).contains("secret"));
    }
}

#[tokio::test]
async fn unsuitable_memory_settings_of_the_server_are_warnings() {
    let set_up = ["--maxmemory", "0", "--maxmemory-policy", "volatile-lru"];
    let server = Server::start_with(&set_up);
    let cache: TieredCache<u64, u64> = proven(&server.url(), Consistency::Realtime).await;
    let expected = [
        Warning::NoMemoryLimit,
        Warning::EvictionPolicy("volatile-lru".into()),
    ];
    assert_eq!(cache.health().warnings, expected);
    for warning in expected {
        assert!(warning.to_string().contains("allkeys-lru"), "{warning}");
    }
}

#[tokio::test]
async fn caches_in_two_databases_of_one_server_are_independent() {
    let server = Server::start();
    let cache = |database: u8| {
        let url = format!("{}{database}", server.url());
        async move { proven::<u64>(&url, Consistency::Realtime).await }
    };
    let (first, second) = (cache(1).await, cache(2).await);
    first.get_or_load_async(&1, |_| value(10)).await.unwrap();
    assert_eq!(second.get(&1).await, None);
    assert_eq!(cache(1).await.get(&1).await, Some(10));
    // The caches do not receive each other's invalidations.
    first.clear().await;
    assert_eq!(second.tier_stats().events, 0);
}

mod tls {
    use super::{
        Consistency, RemoteError, Server, TieredCacheBuilder, builder, check_all_rights, soon,
    };
    use crate::servers::free_port;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa,
        KeyPair,
    };
    use tempfile::TempDir;

    /// A certificate authority, and the directory of its certificates.
    struct Authority {
        folder: TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.distinguished_name = DistinguishedName::new();
            let name = &mut parameters.distinguished_name;
            name.push(DnType::CommonName, "authority");
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap());
            let authority = Self {
                folder: tempfile::tempdir().unwrap(),
                issuer: issuer.unwrap(),
            };
            authority.write("ca.pem", &authority.issuer.pem());
            authority
        }

        fn write(&self, name: &str, text: &str) -> String {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        }

        /// Returns the paths of a new certificate and its key, in PEM.
        fn sign(&self) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let parameters = CertificateParams::new(vec!["localhost".into()]).unwrap();
            let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        }

        /// Starts a server that requires a client certificate.
        fn server(&self) -> (Server, String) {
            let (certificate, key) = self.sign();
            let port = free_port().to_string();
            let (certificate, key) = (self.write("s.pem", &certificate), self.write("s.key", &key));
            let authority = self.folder.path().join("ca.pem").display().to_string();
            let server = Server::start_with(&[
                "--tls-port",
                &port,
                "--tls-cert-file",
                &certificate,
                "--tls-key-file",
                &key,
                "--tls-ca-cert-file",
                &authority,
                "--tls-auth-clients",
                "yes",
            ]);
            (server, format!("rediss://localhost:{port}/"))
        }

        fn builder(&self, url: &str) -> TieredCacheBuilder<u64, u64> {
            builder(url, Consistency::Realtime).root_certificate(self.issuer.pem())
        }
    }

    #[tokio::test]
    async fn certificates_of_client_and_server_are_presented_and_verified() {
        let authority = Authority::new();
        let (_server, url) = authority.server();
        let (certificate, key) = authority.sign();
        check_all_rights(authority.builder(&url).client_certificate(certificate, key)).await;

        // Without the client certificate, and without the certificate of the authority.
        let (certificate, key) = authority.sign();
        let without_certificate = authority.builder(&url);
        let without_authority =
            builder(&url, Consistency::Realtime).client_certificate(certificate, key);
        for builder in [without_certificate, without_authority] {
            let cache: hotset::TieredCache<u64, u64> = builder.build().unwrap();
            let is_refused = || {
                let error = cache.health().not_subscribed;
                error.is_some_and(|error| matches!(error, RemoteError::Disconnected(_)))
            };
            soon("the connection is refused", is_refused).await;
        }
        let broken = builder::<u64>(&url, Consistency::Realtime).root_certificate("no PEM");
        let error = broken.build().unwrap_err().to_string();
        assert!(error.contains("root_certificate"), "{error}");
        let (certificate, _) = authority.sign();
        let swapped = builder::<u64>(&url, Consistency::Realtime)
            .client_certificate(certificate.clone(), certificate);
        let error = swapped.build().unwrap_err().to_string();
        assert!(error.contains("client_key"), "{error}");
    }
}
