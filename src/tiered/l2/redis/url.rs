//! The addresses and logins in a URL.

use crate::error::BuildError;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo,
};

/// Host and port of a server, or the path of its socket.
pub(super) type Address = String;

/// The arrangement of servers, which determines how the primary is found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Topology {
    /// There is a single server, or one address that may lead to another server without notice.
    SingleServer,
    /// Sentinels decide which server is the primary of a service.
    Sentinels {
        addresses: Vec<Address>,
        service: String,
    },
    /// The primaries of a cluster decide. They are found by asking some of its servers.
    Cluster { seeds: Vec<Address> },
}

/// The servers that a URL names.
#[derive(Clone)]
pub(crate) struct ServerUrl {
    /// The text of the URL, which may contain a password.
    text: String,
    pub(super) topology: Topology,
    /// The first server named, and the login for servers.
    server: ConnectionInfo,
    /// The login for the servers that decide which server is the primary.
    voter_login: RedisConnectionInfo,
    certificates: Certificates,
    credentials: Credentials,
}

/// A server to connect to, with the login.
#[derive(Clone)]
pub(super) struct ServerClient {
    client: Client,
    credentials: Credentials,
}

/// The source of credentials that change, if there is one.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    #[cfg(feature = "redis-credentials")]
    provider: Option<Provider>,
}

#[cfg(feature = "redis-credentials")]
#[derive(Clone)]
struct Provider(std::sync::Arc<dyn redis::StreamingCredentialsProvider>);

#[cfg(feature = "redis-credentials")]
impl redis::StreamingCredentialsProvider for Provider {
    fn subscribe(
        &self,
    ) -> futures_util::stream::BoxStream<'static, redis::RedisResult<redis::BasicAuth>> {
        self.0.subscribe()
    }
}

impl Credentials {
    #[cfg(feature = "redis-credentials")]
    pub(super) fn new(provider: impl redis::StreamingCredentialsProvider + 'static) -> Self {
        Self {
            provider: Some(Provider(std::sync::Arc::new(provider))),
        }
    }

    #[cfg(not(feature = "redis-credentials"))]
    #[allow(clippy::unused_self)] // The signature is the same as with the feature.
    fn apply(&self, config: AsyncConnectionConfig) -> AsyncConnectionConfig {
        config
    }

    /// Returns the configuration of a connection with these credentials.
    #[cfg(feature = "redis-credentials")]
    fn apply(&self, config: AsyncConnectionConfig) -> AsyncConnectionConfig {
        match self.provider.clone() {
            Some(provider) => config.set_credentials_provider(provider),
            None => config,
        }
    }
}

/// Certificates in addition to those that the machine trusts.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    #[cfg(feature = "redis-tls")]
    root: Option<Vec<u8>>,
    #[cfg(feature = "redis-tls")]
    client: Option<redis::ClientTlsConfig>,
}

/// The default port of sentinels.
const SENTINEL_PORT: u16 = 26_379;

/// The parts of a URL with several hosts.
struct Parts<'a> {
    /// `redis`, or `rediss` with TLS.
    scheme: &'a str,
    /// User and password, followed by `@`; or empty.
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits the part of a URL after its scheme.
    fn of(scheme: &'a str, rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = authority.rfind('@').map_or(0, |at| at + 1);
        let (login, hosts) = authority.split_at(hosts);
        Self {
            scheme,
            login,
            hosts: hosts.split(',').collect(),
            path: path.trim_end_matches('/'),
            query,
        }
    }

    /// Parses a URL with one of the hosts.
    fn parse(&self, login: &str, host: &str, database: &str) -> Result<ConnectionInfo, UrlError> {
        parse(&format!("{}://{login}{host}/{database}", self.scheme))
    }

    /// Checks that there is only one login. Everything up to the last `@` is taken for the login, so the login contains
    /// a comma if the URL has a login for each server.
    fn check(self) -> Result<Self, UrlError> {
        if self.login.contains(',') {
            return Err(
                "because it has several logins: give one for all servers, before the first, followed by @",
            );
        }
        Ok(self)
    }

    /// Returns the addresses of all hosts. Hosts without a port get `port`.
    fn addresses(&self, port: Option<u16>) -> Result<Vec<Address>, UrlError> {
        let address = |host: &&str| {
            let has_port = host.rfind(':') > host.rfind(']');
            let host = match port.filter(|_| !has_port) {
                Some(port) => format!("{host}:{port}"),
                None => (*host).to_string(),
            };
            Ok(self.parse("", &host, "")?.addr().to_string())
        };
        self.hosts.iter().map(address).collect()
    }

    /// Returns the login for sentinels, which is in the query of the URL.
    fn sentinel_login(&self) -> Result<String, UrlError> {
        let (mut user, mut password) = ("", "");
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sentinel_user", name)) => user = name,
                Some(("sentinel_password", word)) => password = word,
                _ => {
                    return Err(
                        "because its query has parameters other than sentinel_user and sentinel_password",
                    );
                }
            }
        }
        Ok(match (user, password) {
            ("", "") => String::new(),
            _ => format!("{user}:{password}@"),
        })
    }
}

/// The reason why a URL is refused. It contains no part of the URL, which may be a password.
type UrlError = &'static str;

/// Parses the URL of a single server.
fn parse(url: &str) -> Result<ConnectionInfo, UrlError> {
    let info = url.into_connection_info();
    let info = info.map_err(|_| "because it cannot be parsed")?;
    if info.redis_settings().db() < 0 {
        return Err("because its database is negative");
    }
    if !info.addr().is_supported() {
        return Err("because TLS needs the feature redis-tls, and Unix sockets need a Unix system");
    }
    Ok(info)
}

/// The arrangement of the servers that a URL names, the first of them with the login for servers, and the login for
/// voters.
type Servers = (Topology, ConnectionInfo, RedisConnectionInfo);

/// Parses the servers that a URL names.
fn parse_servers(url: &str) -> Result<Servers, UrlError> {
    if url.contains("#insecure") {
        return Err("because #insecure is not supported: set the root certificate instead");
    }
    let (scheme, rest) = url.split_once("://").ok_or("because it cannot be parsed")?;
    match scheme.split_once('-') {
        Some((scheme @ ("redis" | "rediss"), "sentinel")) => {
            parse_sentinels(&Parts::of(scheme, rest).check()?)
        }
        Some((scheme @ ("redis" | "rediss"), "cluster")) => {
            parse_cluster(&Parts::of(scheme, rest).check()?)
        }
        // The `redis` crate would ignore parameters that it does not know.
        _ if matches!(scheme, "redis" | "rediss") && rest.contains('?') => {
            Err("because the URL of a single server has no query")
        }
        _ => Ok((
            Topology::SingleServer,
            parse(url)?,
            RedisConnectionInfo::default(),
        )),
    }
}

/// Parses the part of a URL after the scheme of sentinels.
fn parse_sentinels(parts: &Parts<'_>) -> Result<Servers, UrlError> {
    let (service, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    if service.is_empty() {
        return Err("because it does not name the service that the sentinels watch");
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !service.bytes().all(is_name) {
        return Err(
            "because the name of its service contains other characters than letters, digits, '.', '-' and '_'",
        );
    }
    let sentinel = parts.parse(&parts.sentinel_login()?, parts.hosts[0], "")?;
    let topology = Topology::Sentinels {
        addresses: distinct(parts.addresses(Some(SENTINEL_PORT))?)?,
        service: service.into(),
    };
    let server = parts.parse(parts.login, parts.hosts[0], database)?;
    Ok((topology, server, sentinel.redis_settings().clone()))
}

/// Parses the part of a URL after the scheme of a cluster.
fn parse_cluster(parts: &Parts<'_>) -> Result<Servers, UrlError> {
    if !parts.query.is_empty() {
        return Err("because the URL of a cluster has no query");
    }
    if !matches!(parts.path, "" | "0") {
        return Err("because a cluster has no databases");
    }
    let server = parts.parse(parts.login, parts.hosts[0], "")?;
    let topology = Topology::Cluster {
        seeds: distinct(parts.addresses(None)?)?,
    };
    let voter_login = server.redis_settings().clone();
    Ok((topology, server, voter_login))
}

/// Compares the URLs and the certificates. A hub with credentials that change is not compared with others.
impl PartialEq for ServerUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.certificates == other.certificates
    }
}

impl ServerUrl {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is malformed, or if a certificate cannot be parsed.
    pub(crate) fn new(url: &str, certificates: Certificates) -> Result<Self, BuildError> {
        certificates.check()?;
        let parsed = Self::parse(url).map_err(BuildError::RedisUrl)?;
        Ok(Self {
            certificates,
            ..parsed
        })
    }

    /// Returns the servers with credentials in place of those in the URL.
    pub(super) fn with_credentials(self, credentials: Credentials) -> Self {
        Self {
            credentials,
            ..self
        }
    }

    fn parse(url: &str) -> Result<Self, UrlError> {
        let (topology, server, voter_login) = parse_servers(url)?;
        Ok(Self {
            text: url.into(),
            topology,
            server,
            voter_login,
            certificates: Certificates::default(),
            credentials: Credentials::default(),
        })
    }

    /// Returns the number of the database.
    pub(super) fn database(&self) -> i64 {
        self.server.redis_settings().db()
    }

    /// Returns `true` if another server may become the primary while clients are still connected to the old one.
    pub(crate) fn fails_over(&self) -> bool {
        self.topology != Topology::SingleServer
    }

    /// Returns `true` if connections use TLS.
    pub(super) fn has_tls(&self) -> bool {
        matches!(self.server.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Returns a client of the server at `address`, or of the one that the URL names if that is `None`. It speaks
    /// RESP3, the protocol in which servers push messages.
    pub(super) fn client(&self, address: Option<&str>) -> redis::RedisResult<ServerClient> {
        let login = self.server.redis_settings().clone();
        let login = login.set_protocol(ProtocolVersion::RESP3);
        self.client_of(address, login, &self.credentials)
    }

    /// Returns a client of a voter.
    pub(super) fn voter_client(&self, address: &str) -> redis::RedisResult<ServerClient> {
        // A sentinel has a login of its own.
        let credentials = match self.topology {
            Topology::Sentinels { .. } => &Credentials::default(),
            Topology::Cluster { .. } | Topology::SingleServer => &self.credentials,
        };
        self.client_of(Some(address), self.voter_login.clone(), credentials)
    }

    /// Returns a client of the server at `address` with this login.
    fn client_of(
        &self,
        address: Option<&str>,
        login: RedisConnectionInfo,
        credentials: &Credentials,
    ) -> redis::RedisResult<ServerClient> {
        let mut info = self.server.clone().set_redis_settings(login);
        if let Some((host, port)) = address.and_then(split) {
            let addr = match self.server.addr() {
                ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: *insecure,
                    tls_params: None,
                },
                _ => ConnectionAddr::Tcp(host, port),
            };
            info = info.set_addr(addr);
        }
        let client = self.certificates.client(info)?;
        let credentials = credentials.clone();
        Ok(ServerClient {
            client,
            credentials,
        })
    }
}

impl ServerClient {
    /// Connects to the server. Calls on the connection have no time limit of their own.
    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
    ) -> redis::RedisResult<MultiplexedConnection> {
        let config = self.credentials.apply(config.set_response_timeout(None));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Connects for a subscription to a sentinel's events.
    pub(super) async fn subscribe(&self) -> redis::RedisResult<PubSub> {
        self.client.get_async_pubsub().await
    }
}

impl PartialEq for Certificates {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Certificates {
    #[cfg(feature = "redis-tls")]
    pub(crate) fn set_root(&mut self, pem: impl Into<Vec<u8>>) {
        self.root = Some(pem.into());
    }

    #[cfg(feature = "redis-tls")]
    pub(crate) fn set_client(&mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) {
        self.client = Some(redis::ClientTlsConfig {
            client_cert: certificate.into(),
            client_key: key.into(),
        });
    }

    #[cfg(not(feature = "redis-tls"))]
    #[allow(clippy::unused_self)] // The signature is the same as with the feature.
    fn client(&self, info: ConnectionInfo) -> redis::RedisResult<Client> {
        Client::open(info)
    }

    #[cfg(not(feature = "redis-tls"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // The signature is the same as with the feature.
    fn check(&self) -> Result<(), BuildError> {
        Ok(())
    }

    /// Returns `true` if there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts() == [None; 3]
    }

    #[cfg(not(feature = "redis-tls"))]
    #[allow(clippy::unused_self)] // The signature is the same as with the feature.
    fn parts(&self) -> [Option<&[u8]>; 3] {
        [None; 3]
    }

    /// Returns the root certificate, the client's certificate and its key.
    #[cfg(feature = "redis-tls")]
    fn parts(&self) -> [Option<&[u8]>; 3] {
        let client = self.client.as_ref();
        [
            self.root.as_deref(),
            client.map(|client| &*client.client_cert),
            client.map(|client| &*client.client_key),
        ]
    }

    /// Checks that the certificates can be parsed, so that an error shows before the first connection.
    #[cfg(feature = "redis-tls")]
    fn check(&self) -> Result<(), BuildError> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let is_valid = |pem: &[u8]| {
            let mut all = CertificateDer::pem_slice_iter(pem).peekable();
            all.peek().is_some() && all.all(|one| one.is_ok())
        };
        if self.root.as_ref().is_some_and(|root| !is_valid(root)) {
            return Err(BuildError::Certificate("root_certificate"));
        }
        let Some(client) = &self.client else {
            return Ok(());
        };
        if !is_valid(&client.client_cert) {
            return Err(BuildError::Certificate("client_certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&client.client_key);
        key.map_or(Err(BuildError::Certificate("client_key")), |_| Ok(()))
    }

    /// Returns a client that checks the server by these certificates.
    #[cfg(feature = "redis-tls")]
    fn client(&self, info: ConnectionInfo) -> redis::RedisResult<Client> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Client::open(info);
        }
        // `rustls` panics in the first handshake if a program links no provider, or several.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // It fails only if another thread has installed one meanwhile.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let certificates = redis::TlsCertificates {
            client_tls: self.client.clone(),
            root_cert: self.root.clone(),
        };
        Client::build_with_tls(info, certificates)
    }
}

/// Splits an address into host and port.
fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.into(), port.parse().ok()?))
}

/// Checks that no address is named twice, because each has one vote in a majority.
fn distinct(addresses: Vec<Address>) -> Result<Vec<Address>, UrlError> {
    let mut sorted = addresses.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < addresses.len() {
        return Err("because it names one server twice");
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<ServerUrl, UrlError> {
        ServerUrl::parse(url)
    }

    fn topology(url: &str) -> Topology {
        parsed(url)
            .unwrap_or_else(|why| panic!("{url}: {why}"))
            .topology
    }

    #[test]
    fn urls_of_servers_sentinels_and_clusters_are_parsed() {
        assert_eq!(topology("redis://host:7/3"), Topology::SingleServer);
        assert_eq!(topology("redis+unix:///run/redis"), Topology::SingleServer);
        let sentinels = Topology::Sentinels {
            addresses: vec!["a:1".into(), "b:26379".into(), "::1:2".into()],
            service: "shop".into(),
        };
        let url = "redis-sentinel://user:p%40ss@a:1,b,[::1]:2/shop/5?sentinel_password=q%3Aw";
        assert_eq!(topology(url), sentinels);
        let server_url = parsed(url).unwrap();
        let login = server_url.server.redis_settings();
        assert_eq!(
            (login.username(), login.password(), login.db()),
            (Some("user"), Some("p@ss"), 5)
        );
        let login = &server_url.voter_login;
        assert_eq!(
            (login.username(), login.password(), login.db()),
            (None, Some("q:w"), 0)
        );
        let server = server_url.client(Some("::1:2")).unwrap();
        assert_eq!(
            server.client.get_connection_info().addr(),
            &ConnectionAddr::Tcp("::1".into(), 2)
        );
        let seeds = vec!["a:6379".into(), "b:7".into()];
        assert_eq!(
            topology("redis-cluster://:secret@a,b:7"),
            Topology::Cluster { seeds }
        );
    }

    #[test]
    fn invalid_url_is_refused_with_an_error_that_contains_no_password() {
        for url in [
            "",
            "redis",
            "http://host",
            "redis://host/-1",
            "redis://host/x",
            "redis-sentinel://:secret@a,b",
            "redis-sentinel://:secret@a,b/",
            "redis-sentinel://:secret@a,a/shop",
            "redis-sentinel://:secret@a,b/shop/x",
            "redis-sentinel://:secret@a,b/shop?password=secret",
            "redis-sentinel://:secret@a,,b/shop",
            "redis-cluster://:secret@a,b/1",
            "redis-cluster://:secret@a:x",
            "redis-other://a",
            "redis-sentinel://:secret@a,b/my%20shop",
            "rediss-sentinel://:secret@a,b/shop#insecure",
            "redis-cluster://:secret@a,b?sentinel_user=a",
            "rediss://:secret@a/#insecure",
            "redis://:secret@a/?password=secret",
            "redis-sentinel://:secret@a,user:secret@b/shop",
        ] {
            let why = parsed(url)
                .err()
                .unwrap_or_else(|| panic!("{url:?} is not refused"));
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn url_with_tls_needs_the_feature() {
        for url in [
            "rediss://a",
            "rediss-sentinel://a/shop",
            "rediss-cluster://a",
        ] {
            assert_eq!(parsed(url).is_ok(), cfg!(feature = "redis-tls"), "{url}");
        }
    }
}
