//! Programs that have to compile: the calls that users write, without type annotations.

mod errors;
mod keys;
mod loaders;
