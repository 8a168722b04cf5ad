//! A question to L2 for the lead of a load, and the lead: given back if nothing comes of it.

use super::Inner;
use super::remote::{Ask, Fill, Head, Token};
use std::sync::Arc;

/// The lead of a key's load, across processes; or the question for it, until the answer is known.
pub(super) struct Lease<K: 'static + Send + Sync, V: 'static + Send + Sync> {
    inner: Arc<Inner<K, V>>,
    key: Box<[u8]>,
    token: Token,
    /// L2 may have granted it, and nothing was stored under it.
    open: bool,
}

impl<K: Send + Sync, V: Send + Sync> Lease<K, V> {
    /// Before L2 is asked: the answer may never come.
    pub(super) fn ask(inner: &Arc<Inner<K, V>>, key: &[u8]) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.into(),
            token: inner.token(),
            open: true,
        }
    }

    /// The question. A value that `refused` wrote is as good as none.
    pub(super) fn question(&self, refused: Option<Token>) -> Ask<'_> {
        Ask {
            key: &self.key,
            lead: Some(self.token),
            refused,
        }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// It was not granted, or is no more.
    pub(super) fn close(mut self) {
        self.open = false;
    }
}

impl<K: 'static + Send + Sync, V: 'static + Send + Sync> Drop for Lease<K, V> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let key = std::mem::take(&mut self.key);
        let token = self.token;
        // If that fails, the lease ends by itself.
        self.inner.runtime.spawn(async move {
            let release = Fill {
                key: &key,
                token,
                envelope: &[],
                ttl: None,
            };
            let _ = inner.l2.fill(&[release]).await;
        });
    }
}

/// A lease that was granted, and what is to be written under it.
pub(super) type Granted<K, V> = (Lease<K, V>, Head);
