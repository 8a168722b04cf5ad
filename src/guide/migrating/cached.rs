//! Cached queries of a wiki, with the macros of `cached`.

use super::database::{Article, Database, Token};
use anyhow::Error;
use cached::macros::cached;
use cached::prelude::*;
use cached::time::Instant;
use std::sync::Arc;

/// A token with the time at which it expires.
#[derive(Clone)]
pub(crate) struct TimedToken {
    token: Token,
    expires_at: Instant,
}

impl Expires for TimedToken {
    fn is_expired(&self) -> bool {
        Instant::now() >= self.expires_at
    }
}

#[cached(
    max_size = 10_000,
    ttl_secs = 300,
    sync_writes = "by_key",
    key = "u64",
    convert = { id }
)]
pub(crate) async fn article(database: &Database, id: u64) -> Result<Arc<Article>, Error> {
    database.article(id).await.map(Arc::new)
}

#[cached(max_size = 1_000, expires = true, key = "String", convert = { user.to_string() })]
async fn timed_token(database: &Database, user: &str) -> Result<TimedToken, Error> {
    let token = database.sign_in(user).await?;
    let expires_at = Instant::now() + token.valid_for;
    Ok(TimedToken { token, expires_at })
}

pub(crate) async fn token(database: &Database, user: &str) -> Result<Token, Error> {
    Ok(timed_token(database, user).await?.token)
}

pub(crate) async fn invalidate_article(id: u64) {
    ARTICLE.write().await.remove(&id);
}

pub(crate) async fn count_articles() -> usize {
    ARTICLE.read().await.len()
}
