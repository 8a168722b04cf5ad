//! The content of a URL: the addresses of servers, and the logins.

use crate::error::BuildError;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo,
};

/// Host and port of a server, or the path of its socket.
pub(crate) type Address = String;

/// The servers that decide which server is the primary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PrimaryResolver {
    /// There is a single server, or its address is moved from one server to another without notice.
    Nobody,
    Sentinels {
        addresses: Vec<Address>,
        service: String,
    },
    /// The primaries of a cluster, which are found by asking some of its servers.
    Cluster { seeds: Vec<Address> },
}

/// The servers that a URL names.
#[derive(Clone)]
pub(crate) struct ServerUrl {
    pub(crate) primary_resolver: PrimaryResolver,
    /// The first server named, and the login for servers.
    server: ConnectionInfo,
    /// The login for the servers that decide.
    decider: RedisConnectionInfo,
    certificates: Certificates,
}

/// Certificates beside those that the machine trusts.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    #[cfg(feature = "redis-tls")]
    pub(crate) root: Option<Vec<u8>>,
    #[cfg(feature = "redis-tls")]
    pub(crate) client: Option<redis::ClientTlsConfig>,
}

const SENTINEL_PORT: u16 = 26_379;

/// The parts of a URL with several hosts.
struct Parts<'a> {
    /// `redis`, or `rediss` with TLS.
    scheme: &'a str,
    /// User and password, with the `@` behind them.
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits a URL behind its scheme.
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
    fn parse(&self, login: &str, host: &str, database: &str) -> Result<ConnectionInfo, Unparsed> {
        parse(&format!("{}://{login}{host}/{database}", self.scheme))
    }

    /// Checks that there is one login only. All up to the last `@` is taken for the login, so a URL with one login for
    /// each server ends up in it.
    fn check(self) -> Result<Self, Unparsed> {
        if self.login.contains(',') {
            return Err("since there is one login for all servers: before the first, with one @");
        }
        Ok(self)
    }

    /// Returns the addresses of all hosts. `port` is for those without one.
    fn addresses(&self, port: Option<u16>) -> Result<Vec<Address>, Unparsed> {
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

    /// Returns the login for sentinels, which have one of their own.
    fn sentinel_login(&self) -> Result<String, Unparsed> {
        let (mut user, mut password) = ("", "");
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sentinel_user", name)) => user = name,
                Some(("sentinel_password", word)) => password = word,
                _ => {
                    return Err(
                        "since of its query only sentinel_user and sentinel_password are known",
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

/// The reason why a URL is refused, without any part of it, since that may be a password.
type Unparsed = &'static str;

/// Parses the URL of a single server.
fn parse(url: &str) -> Result<ConnectionInfo, Unparsed> {
    let info = url.into_connection_info();
    let info = info.map_err(|_| "since it does not parse")?;
    if info.redis_settings().db() < 0 {
        return Err("since its database is below 0");
    }
    if !info.addr().is_supported() {
        return Err("since TLS needs the feature redis-tls, and unix sockets need a unix");
    }
    Ok(info)
}

impl ServerUrl {
    pub(crate) fn new(url: &str, certificates: Certificates) -> Result<Self, BuildError> {
        certificates.check()?;
        let target = Self::parse(url).map_err(BuildError::RedisUrl)?;
        Ok(Self {
            certificates,
            ..target
        })
    }

    fn parse(url: &str) -> Result<Self, Unparsed> {
        if url.contains("#insecure") {
            return Err("since certificates are checked: give that of their authority");
        }
        let (scheme, rest) = url.split_once("://").ok_or("since it does not parse")?;
        match scheme.split_once('-') {
            Some((scheme @ ("redis" | "rediss"), "sentinel")) => {
                Self::sentinels(&Parts::of(scheme, rest).check()?)
            }
            Some((scheme @ ("redis" | "rediss"), "cluster")) => {
                Self::cluster(&Parts::of(scheme, rest).check()?)
            }
            // The `redis` crate would ignore parameters that it does not know.
            _ if matches!(scheme, "redis" | "rediss") && rest.contains('?') => {
                Err("since one of a single server takes no query")
            }
            _ => Ok(Self {
                primary_resolver: PrimaryResolver::Nobody,
                server: parse(url)?,
                decider: RedisConnectionInfo::default(),
                certificates: Certificates::default(),
            }),
        }
    }

    fn sentinels(parts: &Parts<'_>) -> Result<Self, Unparsed> {
        let (service, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
        if service.is_empty() {
            return Err("since it does not say which primary its sentinels watch");
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !service.bytes().all(is_name) {
            return Err("since sentinels know names of letters, digits, '.', '-' and '_' only");
        }
        let decider = parts.parse(&parts.sentinel_login()?, parts.hosts[0], "")?;
        Ok(Self {
            primary_resolver: PrimaryResolver::Sentinels {
                addresses: distinct(parts.addresses(Some(SENTINEL_PORT))?)?,
                service: service.into(),
            },
            server: parts.parse(parts.login, parts.hosts[0], database)?,
            decider: decider.redis_settings().clone(),
            certificates: Certificates::default(),
        })
    }

    fn cluster(parts: &Parts<'_>) -> Result<Self, Unparsed> {
        if !parts.query.is_empty() {
            return Err("since a cluster's takes no query");
        }
        if !matches!(parts.path, "" | "0") {
            return Err("since a cluster has no databases");
        }
        let server = parts.parse(parts.login, parts.hosts[0], "")?;
        Ok(Self {
            primary_resolver: PrimaryResolver::Cluster {
                seeds: distinct(parts.addresses(None)?)?,
            },
            decider: server.redis_settings().clone(),
            server,
            certificates: Certificates::default(),
        })
    }

    pub(crate) fn database(&self) -> i64 {
        self.server.redis_settings().db()
    }

    /// Checks whether another server may become the primary without notice to all clients of the first.
    pub(crate) fn fails_over(&self) -> bool {
        self.primary_resolver != PrimaryResolver::Nobody
    }

    pub(crate) fn has_tls(&self) -> bool {
        matches!(self.server.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Returns a client of the server at `address`, or of the one that the URL names if that is `None`. It speaks
    /// RESP3, the protocol in which servers push messages.
    pub(crate) fn client(&self, address: Option<&str>) -> redis::RedisResult<Client> {
        let login = self.server.redis_settings().clone();
        self.client_of(address, login.set_protocol(ProtocolVersion::RESP3))
    }

    /// Returns a client of a server that decides.
    pub(crate) fn decider(&self, address: &str) -> redis::RedisResult<Client> {
        self.client_of(Some(address), self.decider.clone())
    }

    fn client_of(
        &self,
        address: Option<&str>,
        login: RedisConnectionInfo,
    ) -> redis::RedisResult<Client> {
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
        self.certificates.client(info)
    }
}

impl Certificates {
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

    /// Checks that the certificates can be parsed, so that an error shows before the first connection.
    #[cfg(feature = "redis-tls")]
    fn check(&self) -> Result<(), BuildError> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let has_one = |pem: &[u8]| {
            let mut all = CertificateDer::pem_slice_iter(pem).peekable();
            all.peek().is_some() && all.all(|one| one.is_ok())
        };
        if self.root.as_ref().is_some_and(|root| !has_one(root)) {
            return Err(BuildError::Certificate("root_certificate"));
        }
        let Some(client) = &self.client else {
            return Ok(());
        };
        if !has_one(&client.client_cert) {
            return Err(BuildError::Certificate("client_certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&client.client_key);
        key.map_or(Err(BuildError::Certificate("client_key")), |_| Ok(()))
    }

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
fn distinct(addresses: Vec<Address>) -> Result<Vec<Address>, Unparsed> {
    let mut sorted = addresses.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < addresses.len() {
        return Err("since it names one server twice");
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<ServerUrl, Unparsed> {
        ServerUrl::parse(url)
    }

    fn primary_resolver(url: &str) -> PrimaryResolver {
        target(url)
            .unwrap_or_else(|why| panic!("{url}: {why}"))
            .primary_resolver
    }

    #[test]
    fn urls_name_a_server_sentinels_or_a_cluster() {
        assert_eq!(
            primary_resolver("redis://host:7/3"),
            PrimaryResolver::Nobody
        );
        assert_eq!(
            primary_resolver("redis+unix:///run/redis"),
            PrimaryResolver::Nobody
        );
        let sentinels = PrimaryResolver::Sentinels {
            addresses: vec!["a:1".into(), "b:26379".into(), "::1:2".into()],
            service: "shop".into(),
        };
        let url = "redis-sentinel://user:p%40ss@a:1,b,[::1]:2/shop/5?sentinel_password=q%3Aw";
        assert_eq!(primary_resolver(url), sentinels);
        let target = target(url).unwrap();
        let login = target.server.redis_settings();
        assert_eq!(
            (login.username(), login.password(), login.db()),
            (Some("user"), Some("p@ss"), 5)
        );
        let login = &target.decider;
        assert_eq!(
            (login.username(), login.password(), login.db()),
            (None, Some("q:w"), 0)
        );
        let server = target.client(Some("::1:2")).unwrap();
        assert_eq!(
            server.get_connection_info().addr(),
            &ConnectionAddr::Tcp("::1".into(), 2)
        );
        let seeds = vec!["a:6379".into(), "b:7".into()];
        assert_eq!(
            primary_resolver("redis-cluster://:secret@a,b:7"),
            PrimaryResolver::Cluster { seeds }
        );
    }

    #[test]
    fn what_is_no_url_is_refused_without_telling_its_password() {
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
            let why = target(url)
                .err()
                .unwrap_or_else(|| panic!("{url:?} is refused"));
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn tls_needs_its_feature() {
        for url in [
            "rediss://a",
            "rediss-sentinel://a/shop",
            "rediss-cluster://a",
        ] {
            assert_eq!(target(url).is_ok(), cfg!(feature = "redis-tls"), "{url}");
        }
    }
}
