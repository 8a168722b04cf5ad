//! The settings of a tiered cache that concern its servers: partitions, replicas and certificates.

use crate::tiered::builder::TieredCacheBuilder;
use crate::tiered::{RemoteKey, RemoteValue};

impl<K: RemoteKey, V: RemoteValue> TieredCacheBuilder<K, V> {
    /// Sets the number of partitions of the namespace, a power of two of at most 1,024. Default: 16 for a cluster, 1 for
    /// other URLs.
    ///
    /// Each key is in one partition, by its hash. The keys of a partition are in one slot of a cluster, so a namespace
    /// with one partition uses one primary only. The slots of several partitions are spread over all slots. All
    /// processes must use the same number for a namespace, because a process finds no key of another layout. To change it,
    /// see [`next_partitions`](Self::next_partitions). Without that, stop all processes for five minutes: those with
    /// another number find no values then.
    ///
    /// An invalidation of a key concerns its partition. One of a tag or of everything concerns all, and is acknowledged
    /// when it is in all of them. A failover or a moved slot concerns only the partitions of this server or slot. With a
    /// server that is dead and not replaced, the keys of the others work as before, if the option
    /// `cluster-require-full-coverage` of the servers is `no`.
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) returns [`BuildError::Partitions`](crate::BuildError::Partitions) for another number.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis-cluster://127.0.0.1:7000,127.0.0.1:7001", "prices")
    ///     .partitions(16);
    /// ```
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Sets the number of partitions to which the namespace is moving while it is in use, a power of two of at most
    /// 1,024. Default: none, the number does not change.
    ///
    /// The values in partitions of another number are under other keys. To change the number of a namespace without
    /// loading all values again:
    ///
    /// 1. Deploy `next_partitions` in all processes, and in all [`Invalidator`](crate::Invalidator)s. From now on they
    ///    write to both.
    /// 2. Raise the percentage of keys that are read in the next partitions, by
    ///    [`moved_percent`](Self::moved_percent), or at run time by
    ///    [`Rollout::set_moved_percent`](crate::Rollout::set_moved_percent). A value that is missing there is copied,
    ///    until a minute after the percentage has become 100.
    /// 3. Deploy the next number as `partitions`, without `next_partitions`.
    ///
    /// Wait five minutes between the steps. A process that is too early is no danger: it keeps to the step before, or
    /// calls Redis only when the others have followed, and [`Health::warnings`](crate::Health::warnings) says so. For
    /// the way back before step 3, lower the percentage and remove `next_partitions`. After it, move to the old number in
    /// the same way. Redis needs memory for both while the namespace moves. When the first keys move, the processes
    /// invalidate their L1 once.
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) returns [`BuildError::NextPartitions`](crate::BuildError::NextPartitions) for another number,
    /// or for that of [`partitions`](Self::partitions).
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::full();
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis-cluster://127.0.0.1:7000,127.0.0.1:7001", "prices")
    ///     .partitions(1)
    ///     .next_partitions(16)
    ///     .rollout(&rollout);
    /// // Later, when all processes are deployed, and in steps up to 100:
    /// rollout.set_moved_percent(10.0)?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn next_partitions(mut self, partitions: u16) -> Self {
        self.next_partitions = Some(partitions);
        self
    }

    /// Sets the initial percentage of keys that are read in the [next partitions](Self::next_partitions): see
    /// [`Rollout`](crate::Rollout). Default: 0.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis-cluster://127.0.0.1:7000,127.0.0.1:7001", "prices")
    ///     .partitions(1)
    ///     .next_partitions(16)
    ///     .moved_percent(50.0);
    /// ```
    pub fn moved_percent(mut self, percent: f64) -> Self {
        self.moved_percent = Some(percent);
        self
    }

    /// Sets the number of replicas that must have a change before it is acknowledged (`WAIT`), and must confirm that
    /// they follow a server before its answers count. Default: 0.
    ///
    /// Use it for a primary that fails over behind one address, like that of a managed service: set the number of
    /// replicas that may take over. The address must not lead back to a server that was demoted and does not know it.
    /// Sentinels and clusters do not need this setting, because they are asked for the primary.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .replicas(1);
    /// ```
    pub fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// Lets replicas serve values, in the class [`Bounded`](crate::Consistency::Bounded). Default: off.
    ///
    /// The replicas of each primary are found by asking it, and read from in turn, with the login of the URL. They have to
    /// be reachable at the addresses in the primary's reply to `INFO replication`, and with TLS their certificates have to
    /// be valid for these addresses. Without a replica that can be reached, the primary serves all reads. The promise of
    /// the class remains: an old value for at most `ttl`, and never one that a call of this process has replaced, or whose
    /// invalidation it has received. Each heartbeat reports the number of changes so far, and a replica that has as many
    /// has all changes from before the heartbeat. So a value of a replica counts as read when the last heartbeat began, and
    /// L1 keeps it for less time. While that is more than half of `ttl` ago, replicas are not read from, so `ttl` should be
    /// several [heartbeats](Self::heartbeat) long.
    ///
    /// Replicas serve reads that find a value. The primary serves all others, and those for which a replica fails, lacks a
    /// change, or has not replied within a quarter of the [deadline](Self::deadline). A replica that fails is not read
    /// from until it replies to a check in the background. Values whose tags may be invalid, and values of a namespace
    /// with some that are too large to share a connection with small ones, also need the primary. With many changes a
    /// second, replicas often lack the last one. [`TierStats::replica_reads`](crate::TierStats::replica_reads) counts the
    /// outcomes.
    ///
    /// In a cluster, the user also needs the right `+readonly`.
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) returns [`BuildError::ReadFromReplicas`](crate::BuildError::ReadFromReplicas) if the class is
    /// not `Bounded`.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Consistency, LocalCache};
    /// use std::time::Duration;
    ///
    /// let builder = LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis-cluster://127.0.0.1:7000,127.0.0.1:7001", "profiles")
    ///     .consistency(Consistency::Bounded(Duration::from_secs(5)))
    ///     .read_from_replicas(true);
    /// ```
    pub fn read_from_replicas(mut self, reads: bool) -> Self {
        self.settings.read_from_replicas = reads;
        self
    }

    /// Sets the certificate, in PEM, of the authority that has signed the certificates of the servers. Default: the
    /// authorities that the machine trusts.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("authority.pem");
    /// # std::fs::write(&path, "")?;
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("rediss://redis.internal/", "prices")
    ///     .root_certificate(std::fs::read(path)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "redis-tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.set_root(pem);
        self
    }

    /// Sets the certificate that this process presents to servers, and its private key, both in PEM.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let (certificate, key) = (folder.path().join("client.pem"), folder.path().join("client.key"));
    /// # std::fs::write(&certificate, "")?;
    /// # std::fs::write(&key, "")?;
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("rediss://redis.internal/", "prices")
    ///     .client_certificate(std::fs::read(certificate)?, std::fs::read(key)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.certificates.set_client(certificate, key);
        self
    }
}
