//! Programs that have to compile: the calls that users write, without type annotations.
// The loaders have the forms that users write.
#![allow(
    clippy::default_trait_access,
    clippy::needless_question_mark,
    clippy::redundant_closure_for_method_calls,
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps
)]

mod caches;
mod errors;
mod keys;
mod loaders;
mod traits_in_scope;
