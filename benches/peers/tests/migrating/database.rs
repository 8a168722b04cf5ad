//! A database of articles, for the programs of the migration guides.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Article {
    pub(crate) title: String,
    pub(crate) author: String,
    pub(crate) text: String,
}

/// The permission to write, from a sign-in.
#[derive(Clone)]
pub(crate) struct Token {
    user: String,
    pub(crate) valid_for: Duration,
}

/// The error of a query for an article that does not exist.
#[derive(Debug)]
pub(crate) struct NotFound(u64);

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no article {}", self.0)
    }
}

impl std::error::Error for NotFound {}

/// A handle to the database.
#[derive(Clone, Default)]
pub(crate) struct Database {
    articles: Arc<Mutex<BTreeMap<u64, Article>>>,
    queries: Arc<AtomicU64>,
    sign_ins: Arc<AtomicU64>,
}

impl Database {
    /// Returns the article with a number. The query takes long enough for other requests to begin.
    pub(crate) async fn article(&self, id: u64) -> anyhow::Result<Article> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.query(id)
    }

    /// Returns the article with a number.
    pub(crate) fn query(&self, id: u64) -> anyhow::Result<Article> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let article = self.articles.lock().get(&id).cloned();
        Ok(article.ok_or(NotFound(id))?)
    }

    /// Signs a user in. The tokens of the user `guest` are valid for a millisecond.
    pub(crate) async fn sign_in(&self, user: &str) -> anyhow::Result<Token> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.sign_ins.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(user != "anonymous", "sign in first");
        let valid_for = match user {
            "guest" => Duration::from_millis(1),
            _ => Duration::from_secs(3_600),
        };
        let user = user.to_string();
        Ok(Token { user, valid_for })
    }

    /// Stores an article. An author cannot be changed.
    pub(crate) async fn save(
        &self,
        token: &Token,
        id: u64,
        article: &Article,
    ) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        anyhow::ensure!(token.user == article.author, "this is not your article");
        self.articles.lock().insert(id, article.clone());
        Ok(())
    }

    /// Deletes the articles of an author.
    pub(crate) async fn delete_author(&self, token: &Token, author: &str) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        anyhow::ensure!(token.user == author, "you are another author");
        self.articles
            .lock()
            .retain(|_, article| article.author != author);
        Ok(())
    }

    /// Returns the numbers of queries and of sign-ins.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.queries), count(&self.sign_ins))
    }
}
