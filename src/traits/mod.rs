//! The traits that application code is written against.

mod async_cache;
mod cache;
mod cache_future;
pub(crate) mod erasure;
mod pointers;

pub use async_cache::AsyncCache;
pub use cache::Cache;
pub use cache_future::CacheFuture;
pub use erasure::{BoxedLoad, ErasedAsyncLoader, ErasedLoader};
