//! The builder of a hub.

use crate::error::BuildError;
use crate::tiered::l2::redis::hub::RedisHub;
use crate::tiered::l2::redis::url::{Certificates, Credentials, ServerUrl};
use std::fmt;

/// A builder of a [`RedisHub`], from [`RedisHub::builder`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotset::BuildError> {
/// let hub = hotset::RedisHub::builder("redis://127.0.0.1/").build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until build is called"]
pub struct RedisHubBuilder {
    url: String,
    certificates: Certificates,
    credentials: Credentials,
}

impl RedisHubBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            certificates: Certificates::default(),
            credentials: Credentials::default(),
        }
    }

    /// Sets the source of user names and passwords, in place of those in the URL. They are used for all servers except
    /// sentinels.
    ///
    /// A connection is opened with the first credentials of the stream, and authenticates again with each later one,
    /// for example when a token of a cloud provider is about to expire.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::BuildError> {
    /// use futures_util::stream::{self, Stream, StreamExt};
    /// use hotset::{BasicAuth, RedisHub, StreamingCredentialsProvider};
    /// use std::pin::Pin;
    /// use std::time::Duration;
    ///
    /// /// Reads a password that another program renews.
    /// struct PasswordFile(&'static str);
    ///
    /// impl StreamingCredentialsProvider for PasswordFile {
    ///     fn subscribe(
    ///         &self,
    ///     ) -> Pin<Box<dyn Stream<Item = redis::RedisResult<BasicAuth>> + Send + 'static>> {
    ///         let path = self.0;
    ///         let read = move |is_first: bool| async move {
    ///             if !is_first {
    ///                 tokio::time::sleep(Duration::from_secs(300)).await;
    ///             }
    ///             let password = std::fs::read_to_string(path);
    ///             let auth = password.map(|password| BasicAuth::new("shop".into(), password));
    ///             Some((auth.map_err(Into::into), false))
    ///         };
    ///         stream::unfold(true, read).boxed()
    ///     }
    /// }
    ///
    /// let hub = RedisHub::builder("redis://127.0.0.1/")
    ///     .credentials(PasswordFile("/run/secrets/redis"))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "redis-credentials")]
    pub fn credentials(
        mut self,
        provider: impl redis::StreamingCredentialsProvider + 'static,
    ) -> Self {
        self.credentials = Credentials::new(provider);
        self
    }

    /// Sets the certificate of the authority that has signed those of the servers, like
    /// [`TieredCacheBuilder::root_certificate`](crate::TieredCacheBuilder::root_certificate).
    #[cfg(feature = "redis-tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.set_root(pem);
        self
    }

    /// Sets the certificate that this process presents to servers, like
    /// [`TieredCacheBuilder::client_certificate`](crate::TieredCacheBuilder::client_certificate).
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.certificates.set_client(certificate, key);
        self
    }

    /// Builds the hub, whose connections are driven by the current tokio runtime. The servers need not be reachable.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL or a certificate is invalid, or if this is not called in a tokio runtime.
    pub fn build(self) -> Result<RedisHub, BuildError> {
        let url = ServerUrl::new(&self.url, self.certificates)?;
        RedisHub::new(url.with_credentials(self.credentials))
    }
}

impl fmt::Debug for RedisHubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("RedisHubBuilder").finish_non_exhaustive()
    }
}
