//! Errors of building a cache and of loading.

mod build;
mod load;
mod loader;

pub use crate::error::build::BuildError;
pub(crate) use crate::error::build::MAX_SHARDS;
pub use crate::error::load::{AnyError, LoadError, SharedError};
pub use crate::error::loader::{Description, LoaderError, OpaqueError};
