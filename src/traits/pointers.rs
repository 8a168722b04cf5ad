//! Implementations of the traits for references to caches, and for pointers to trait objects.
//!
//! `Arc<C>` has no implementation for other types, because a method of a trait on `Arc<LocalCache<K, V>>` would hide
//! the method of the cache that has the same name.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::stats::Stats;
use crate::traits::{
    AsyncCache, Cache, CacheFuture, ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite,
    ErasedBatchLoader, ErasedKey, ErasedLoader, ErasedWrite, WriteFailed,
};
use crate::warm::{WarmOptions, WarmReport};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// Defines the methods of [`Cache`] by those of another cache.
macro_rules! delegate_cache {
    ($self:ident => $cache:expr) => {
        fn get_erased(&$self, key: &dyn ErasedKey<K>) -> Option<V> {
            $cache.get_erased(key)
        }

        fn get_many_erased(&$self, keys: &[&dyn ErasedKey<K>]) -> Vec<Option<V>> {
            $cache.get_many_erased(keys)
        }

        fn insert_loaded(&$self, key: K, loaded: Loaded<V>) -> Propagation {
            $cache.insert_loaded(key, loaded)
        }

        fn insert(&$self, key: K, value: V) -> Propagation {
            $cache.insert(key, value)
        }

        fn insert_with_ttl(&$self, key: K, value: V, ttl: Duration) -> Propagation {
            $cache.insert_with_ttl(key, value, ttl)
        }

        fn invalidate_erased(&$self, key: &dyn ErasedKey<K>) -> Propagation {
            $cache.invalidate_erased(key)
        }

        fn invalidate_tag(&$self, tag: &str) -> Propagation {
            $cache.invalidate_tag(tag)
        }

        fn clear(&$self) -> Propagation {
            $cache.clear()
        }

        fn write_through_erased(
            &$self,
            key: &dyn ErasedKey<K>,
            loaded: Loaded<V>,
            write: ErasedWrite<'_, V>,
        ) -> Result<Propagation, WriteFailed> {
            $cache.write_through_erased(key, loaded, write)
        }

        fn get_or_load_erased(
            &$self,
            key: &dyn ErasedKey<K>,
            loader: ErasedLoader<'_, V>,
        ) -> Result<V, LoadError<AnyError>> {
            $cache.get_or_load_erased(key, loader)
        }

        fn get_many_or_load_erased(
            &$self,
            keys: &[&dyn ErasedKey<K>],
            loader: ErasedBatchLoader<'_, K, V>,
        ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
        where
            V: Clone,
        {
            $cache.get_many_or_load_erased(keys, loader)
        }

        fn warm_erased(
            &$self,
            options: WarmOptions<'_>,
            keys: &mut dyn Iterator<Item = K>,
            loader: ErasedBatchLoader<'_, K, V>,
        ) -> WarmReport<K, AnyError>
        where
            K: Hash + Eq + Clone + Sync,
            V: Clone,
        {
            $cache.warm_erased(options, keys, loader)
        }

        fn flush(&$self) {
            $cache.flush();
        }

        fn contains_key_erased(&$self, key: &dyn ErasedKey<K>) -> bool {
            $cache.contains_key_erased(key)
        }

        fn remaining_ttl_erased(&$self, key: &dyn ErasedKey<K>) -> Option<Duration> {
            $cache.remaining_ttl_erased(key)
        }

        fn stats(&$self) -> Stats {
            $cache.stats()
        }
    };
}
#[cfg(feature = "serde")]
pub(crate) use delegate_cache;

/// Defines the methods of [`AsyncCache`] by those of another cache.
macro_rules! delegate_async_cache {
    ($self:ident => $cache:expr) => {
        fn get_erased<'a>(&'a $self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Option<V>> {
            $cache.get_erased(key)
        }

        fn get_many_erased<'a>(
            &'a $self,
            keys: &'a [&'a dyn ErasedKey<K>],
        ) -> CacheFuture<'a, Vec<Option<V>>>
        where
            V: Send,
        {
            $cache.get_many_erased(keys)
        }

        fn insert_loaded(&$self, key: K, loaded: Loaded<V>) -> CacheFuture<'_, Propagation> {
            $cache.insert_loaded(key, loaded)
        }

        fn insert(&$self, key: K, value: V) -> CacheFuture<'_, Propagation> {
            $cache.insert(key, value)
        }

        fn insert_with_ttl(&$self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, Propagation> {
            $cache.insert_with_ttl(key, value, ttl)
        }

        fn invalidate_erased<'a>(&'a $self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Propagation> {
            $cache.invalidate_erased(key)
        }

        fn invalidate_tag<'a>(&'a $self, tag: &'a str) -> CacheFuture<'a, Propagation> {
            $cache.invalidate_tag(tag)
        }

        fn clear(&$self) -> CacheFuture<'_, Propagation> {
            $cache.clear()
        }

        fn write_through_erased<'a>(
            &'a $self,
            key: &'a dyn ErasedKey<K>,
            loaded: Loaded<V>,
            write: ErasedAsyncWrite<'a, V>,
        ) -> CacheFuture<'a, Result<Propagation, WriteFailed>> {
            $cache.write_through_erased(key, loaded, write)
        }

        fn get_or_load_erased<'a>(
            &'a $self,
            key: &'a dyn ErasedKey<K>,
            loader: ErasedAsyncLoader<'a, K, V>,
        ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
            $cache.get_or_load_erased(key, loader)
        }

        fn get_many_or_load_erased<'a>(
            &'a $self,
            keys: &'a [&'a dyn ErasedKey<K>],
            loader: ErasedAsyncBatchLoader<'a, K, V>,
        ) -> CacheFuture<'a, Result<Vec<Option<V>>, LoadError<AnyError>>>
        where
            K: Send,
            V: Clone + Send + Sync,
        {
            $cache.get_many_or_load_erased(keys, loader)
        }

        fn warm_erased<'a>(
            &'a $self,
            options: WarmOptions<'a>,
            keys: &'a mut (dyn Iterator<Item = K> + Send + 'a),
            loader: ErasedAsyncBatchLoader<'a, K, V>,
        ) -> CacheFuture<'a, WarmReport<K, AnyError>>
        where
            K: Hash + Eq + Clone + Send + Sync,
            V: Clone + Send + Sync,
        {
            $cache.warm_erased(options, keys, loader)
        }

        fn flush(&$self) -> CacheFuture<'_, ()> {
            $cache.flush()
        }

        fn contains_key_erased<'a>(&'a $self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, bool>
        where
            V: Send,
        {
            $cache.contains_key_erased(key)
        }

        fn remaining_ttl_erased<'a>(
            &'a $self,
            key: &'a dyn ErasedKey<K>,
        ) -> CacheFuture<'a, Option<Duration>>
        where
            V: Send,
        {
            $cache.remaining_ttl_erased(key)
        }

        fn stats(&$self) -> Stats {
            $cache.stats()
        }
    };
}
#[cfg(feature = "serde")]
pub(crate) use delegate_async_cache;

impl<K, V, C: Cache<K, V> + ?Sized> Cache<K, V> for &C {
    delegate_cache!(self => (**self));
}

impl<K, V, C: AsyncCache<K, V> + ?Sized> AsyncCache<K, V> for &C {
    delegate_async_cache!(self => (**self));
}

macro_rules! impl_for_pointers {
    ($($pointer:ident<dyn _ $(+ $auto:ident)*>),*) => {$(
        impl<K, V> Cache<K, V> for $pointer<dyn Cache<K, V> $(+ $auto)* + '_> {
            delegate_cache!(self => (**self));
        }

        impl<K, V> AsyncCache<K, V> for $pointer<dyn AsyncCache<K, V> $(+ $auto)* + '_> {
            delegate_async_cache!(self => (**self));
        }
    )*};
}

impl_for_pointers!(
    Arc<dyn _>,
    Box<dyn _>,
    Arc<dyn _ + Send + Sync>,
    Box<dyn _ + Send + Sync>
);
