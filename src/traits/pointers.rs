//! Implementations of the traits for pointers to caches.

use crate::error::{AnyError, LoadError};
use crate::traits::{AsyncCache, Cache, CacheFuture, ErasedAsyncLoader, ErasedLoader};
use std::sync::Arc;
use std::time::Duration;

/// Implements both traits for pointers to caches, so that `get_or_load` can be called on a pointer to a trait object.
macro_rules! impl_for_pointer {
    ($($pointer:ty),*) => {$(
        impl<K, V, C: Cache<K, V> + ?Sized> Cache<K, V> for $pointer {
            fn get(&self, key: &K) -> Option<V> {
                (**self).get(key)
            }

            fn insert(&self, key: K, value: V) {
                (**self).insert(key, value);
            }

            fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
                (**self).insert_with_ttl(key, value, ttl);
            }

            fn invalidate(&self, key: &K) {
                (**self).invalidate(key);
            }

            fn clear(&self) {
                (**self).clear();
            }

            fn get_or_load_erased(
                &self,
                key: &K,
                load: &mut ErasedLoader<'_, K, V>,
            ) -> Result<V, LoadError<AnyError>> {
                (**self).get_or_load_erased(key, load)
            }
        }

        impl<K, V, C: AsyncCache<K, V> + ?Sized> AsyncCache<K, V> for $pointer {
            fn get<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>> {
                (**self).get(key)
            }

            fn insert(&self, key: K, value: V) -> CacheFuture<'_, ()> {
                (**self).insert(key, value)
            }

            fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, ()> {
                (**self).insert_with_ttl(key, value, ttl)
            }

            fn invalidate<'a>(&'a self, key: &'a K) -> CacheFuture<'a, ()> {
                (**self).invalidate(key)
            }

            fn clear(&self) -> CacheFuture<'_, ()> {
                (**self).clear()
            }

            fn get_or_load_erased<'a>(
                &'a self,
                key: &'a K,
                load: &'a mut ErasedAsyncLoader<'_, V>,
            ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
                (**self).get_or_load_erased(key, load)
            }
        }
    )*};
}

impl_for_pointer!(Arc<C>, Box<C>, &C);
