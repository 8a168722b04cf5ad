//! The traits that application code is written against.

mod async_cache;
mod batch;
mod cache;
mod cache_future;
pub(crate) mod erasure;
pub(crate) mod key;
pub(crate) mod pointers;
mod warm;
pub(crate) mod write;

pub use async_cache::AsyncCache;
pub use cache::Cache;
pub use cache_future::CacheFuture;
pub use erasure::{
    BatchResult, BoxedBatchLoad, BoxedLoad, ErasedAsyncBatchLoader, ErasedAsyncLoader,
    ErasedBatchLoader, ErasedLoader, LoadResult,
};
pub use key::ErasedKey;
pub use write::{BoxedWrite, ErasedAsyncWrite, ErasedWrite, WriteFailed};
