//! Calls that must not compile, as users may write them.
//!
//! Each line of the comment above a function is a part of the errors that the compiler must print for it. The texts of
//! this library are there as a whole, but little of the compiler's own, which other versions may word differently.

use hotset::{
    AsyncCache, Cache, CacheConfig, LoadError, Loaded, LocalCache, Metrics, Schemas, TieredCache,
};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
struct User;

type Users = LocalCache<u64, User>;

// E0593
// argument
fn loader_without_a_parameter(users: &Users) {
    let _ = users.get_or_load(&7, || Ok::<_, io::Error>(User));
}

// E0593
// argument
async fn async_loader_without_a_parameter(users: &Users) {
    let load = users.get_or_load_async(&7, || async { Ok::<_, io::Error>(User) });
    let _ = load.await;
}

// E0277
// FnOnce(u64)
async fn future_in_place_of_an_async_loader(users: &Users) {
    let _ = users.get_or_load_async(&7, async { Ok::<_, io::Error>(User) });
}

// E0308
// found `User`
fn loader_that_returns_no_result(users: &Users) {
    let _ = users.get_or_load(&7, |_| User);
}

// E0271
// found `User`
async fn async_loader_that_returns_no_result(users: &Users) {
    let _ = users.get_or_load_async(&7, |_| async { User });
}

// E0308
// async
fn async_loader_in_a_blocking_call(users: &Users) {
    let _ = users.get_or_load(&7, |_| async { Ok::<_, io::Error>(User) });
}

// E0277
// future
async fn blocking_loader_in_an_async_call(users: &Users) {
    let _ = users.get_or_load_async(&7, |_| Ok::<_, io::Error>(User));
}

// E0308
// found `Result<User
fn fallible_loader_of_get_or_insert_with(users: &Users) {
    let _ = users.get_or_insert_with(&7, |_| Ok::<_, io::Error>(User));
}

// E0308
// found `Loaded<User>`
fn entry_from_the_loader_of_get_or_load(users: &Users) {
    let _ = users.get_or_load(&7, |_| {
        Ok::<_, io::Error>(Loaded::new(User).ttl(Duration::from_secs(60)))
    });
}

// E0271
// found `Result<Loaded<User>
async fn entry_from_the_loader_of_get_or_load_async(users: &Users) {
    let load = |_| async { Ok::<_, io::Error>(Loaded::new(User)) };
    let _ = users.get_or_load_async(&7, load);
}

// E0308
// expected `Loaded<User>`
fn value_from_the_loader_of_get_or_load_entry(users: &Users) {
    let _ = users.get_or_load_entry(&7, |_| Ok::<_, io::Error>(User));
}

// E0271
// expected `(u64, User)`
fn batch_without_keys(users: &Users) {
    let _ = users.get_many_or_load(&[7, 8], |_| Ok::<_, io::Error>(vec![User]));
}

// E0271
// expected `&_`
fn batch_of_owned_keys(users: &Users) {
    let _ = users.get_many_or_load([7, 8], |_| Ok::<_, io::Error>([(7, User)]));
}

struct NoSuchUser;

// E0277
// `NoSuchUser` cannot be the error type of a loader
// a loader's error is a `std::error::Error + Send + Sync + 'static`, an `anyhow::Error`, an `eyre::Report`, a
// `Box<dyn Error + Send + Sync>`, or a string
// implement `std::error::Error` for it, or return it as `hotset::OpaqueError(error)`
fn error_without_an_implementation_of_error(users: &Users) {
    let _ = users.get_or_load(&7, |_| Err(NoSuchUser));
}

// E0277
// `NoSuchUser` cannot be the error type of a loader
// implement `std::error::Error` for it, or return it as `hotset::OpaqueError(error)`
async fn async_error_without_an_implementation_of_error(users: &Users) {
    let _ = users.get_or_load_async(&7, |_| async { Err(NoSuchUser) });
}

// E0277
// cannot be the error type of a loader
// `Box<dyn Error + Send + Sync>`
fn boxed_error_that_is_not_send(users: &Users) {
    let _ = users.get_or_load(&7, |_| Err::<User, Box<dyn Error>>("no rows".into()));
}

// E0283
// LoaderError
fn error_type_that_is_not_known(users: &Users) {
    let _ = users.get_or_load(&7, |_| Ok(User));
}

// E0277
// From<LoadError<
fn question_mark_without_a_conversion(users: &Users) -> io::Result<User> {
    Ok(users.get_or_load(&7, |_| Err(io::Error::other("no rows")))?)
}

// E0271
// expected `u64`
fn str_as_key_of_another_type(users: &Users) {
    let _ = users.get_or_load("seven", |_| Ok::<_, io::Error>(User));
}

// E0271
// expected `u64`
fn number_as_key_of_another_type(users: &Users) {
    let _ = users.get_or_load(&7_u32, |_| Ok::<_, io::Error>(User));
}

// E0308
// expected `&
fn key_by_value(users: &Users) {
    let _ = users.get_or_load(7, |_| Ok::<_, io::Error>(User));
}

#[derive(Clone, PartialEq)]
struct UserId(u64);

// E0599
// `UserId: Eq`
// `UserId: Hash`
fn key_without_eq_and_hash() {
    let _ = LocalCache::<UserId, User>::new(100);
}

struct Page(String);

// E0599
// `Page: Clone`
fn load_of_a_value_without_clone(pages: &LocalCache<u64, Page>) {
    let _ = pages.get_or_load(&7, |_| Ok::<_, io::Error>(Page(String::new())));
}

// E0277
// `Page: Clone`
fn get_of_a_value_without_clone(pages: &LocalCache<u64, Page>) {
    let _ = pages.get(&7);
}

#[derive(Clone)]
struct Price(u64);

#[derive(Clone, Serialize, Deserialize)]
struct Article(String);

// E0277
// `Price` does not implement `Schema`, which names its serialized shape
// derive `serde::Serialize` and `serde::Deserialize` for it, and add `hotset::schema!(Price, "name/1");`
fn value_in_redis_without_serialize() {
    let _ = LocalCache::<u64, Price>::builder().redis("redis://localhost", "prices");
}

// E0277
// `Article` does not implement `Schema`, which names its serialized shape
// for a type of another crate, pass `Schemas` to the method whose name ends in `_with_schemas`
fn value_in_redis_without_schema() {
    let _ = LocalCache::<u64, Vec<Article>>::builder().redis("redis://localhost", "articles");
}

// E0277
// `Price` cannot be a value in Redis
// derive `Clone`, `serde::Serialize` and `serde::Deserialize` for it
fn value_with_explicit_schemas_without_serialize() {
    let builder = LocalCache::<u64, Price>::builder();
    let _ = builder.redis_with_schemas(
        "redis://localhost",
        "prices",
        Schemas::new("u64", "price/1"),
    );
}

// E0277
// `UserId` cannot be a key in Redis
// derive `Clone`, `PartialEq`, `Eq`, `Hash`, `serde::Serialize` and `serde::Deserialize` for it
fn key_in_redis_without_hash() {
    let _ = LocalCache::<UserId, u64>::builder().redis("redis://localhost", "users");
}

// E0277
// `Article` does not implement `Schema`, which names its serialized shape
fn configured_value_without_schema(config: &CacheConfig) {
    let _ = config.build_async::<u64, Article>();
}

// E0277
// `Article` does not implement `Schema`, which names its serialized shape
fn snapshot_of_values_without_schema(articles: &LocalCache<u64, Article>) {
    let _ = articles.snapshot("articles");
}

// E0599
// `TieredCache<u64, u64>:
fn blocking_load_of_a_tiered_cache(prices: &TieredCache<u64, u64>) {
    let _ = prices.get_or_load(&7, |_| Ok::<_, io::Error>(120));
}

// E0277
// cannot be watched
// before it becomes a trait object
fn metrics_of_a_trait_object(metrics: &Metrics, users: &Arc<dyn Cache<u64, User>>) {
    let _ = metrics.watch(users);
}

// E0046
// missing: `get_erased`
// `invalidate_erased`
// `get_or_load_erased`
fn cache_without_the_methods_of_its_object() {
    struct NoCache;
    impl Cache<u64, User> for NoCache {}
}

// trait object
// `Sized`
fn load_through_a_reference_to_a_trait_object(users: &dyn Cache<u64, User>) {
    let _ = users.get_or_load(&7, |_| Ok::<_, io::Error>(User));
}

// E0277
// is not a `Cache` with keys of type `u64` and values of type `User`
// pass `&*cache` if this is an `Arc` of a cache
fn arc_in_place_of_a_cache(users: &Arc<Users>) {
    fn greet(users: &impl Cache<u64, User>) -> Result<User, LoadError<io::Error>> {
        users.get_or_load(&7, |_| Ok(User))
    }
    let _ = greet(users);
}

// E0277
// is not an `AsyncCache` with keys of type `u64` and values of type `User`
// pass `&*cache` if this is an `Arc` of a cache
fn arc_in_place_of_an_async_cache(users: &Arc<Users>) {
    fn check(_: &impl AsyncCache<u64, User>) {}
    check(users);
}

// E0277
// `Rc<
// `Send`
async fn loader_of_a_trait_object_that_is_not_send(users: &Arc<dyn AsyncCache<u64, User>>) {
    let name = Rc::new("Ada");
    let load = |_| async { Ok::<_, io::Error>(name.len()).map(|_| User) };
    let _ = users.get_or_load_async(&7, load).await;
}
