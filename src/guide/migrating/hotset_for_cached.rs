//! Cached queries of a wiki, with caches of hotset.

use super::database::{Article, Database, Token};
use hotset::{LoadError, LocalCache};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

static ARTICLES: LazyLock<LocalCache<u64, Arc<Article>>> = LazyLock::new(|| {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let builder = LocalCache::builder().capacity(10_000);
    builder
        .time_to_live(minutes(5))
        .build()
        .expect("the settings are valid")
});

static TOKENS: LazyLock<LocalCache<String, Token>> = LazyLock::new(|| {
    let builder = LocalCache::builder().capacity(1_000);
    let builder = builder.expire_after(|_, token: &Token| Some(token.valid_for));
    builder.build().expect("the settings are valid")
});

type Result<T> = std::result::Result<T, LoadError<anyhow::Error>>;

pub(crate) async fn article(database: &Database, id: u64) -> Result<Arc<Article>> {
    let load = |id| async move { database.article(id).await.map(Arc::new) };
    ARTICLES.get_or_load_async(&id, load).await
}

pub(crate) async fn token(database: &Database, user: &str) -> Result<Token> {
    TOKENS
        .get_or_load_async(user, |_| database.sign_in(user))
        .await
}

pub(crate) fn invalidate_article(id: u64) {
    ARTICLES.invalidate(&id);
}

pub(crate) fn count_articles() -> usize {
    ARTICLES.len()
}
