//! A wiki over HTTP, with caches of moka.

use super::database::{Article, Database, NotFound, Token};
use anyhow::{Context, ensure};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use moka::notification::RemovalCause;
use moka::ops::compute::{CompResult, Op};
use moka::{Expiry, future, sync};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// The number of requests that a user may send in a minute.
const MAX_REQUESTS: u32 = 20;

/// The budget for previews with their titles, in bytes.
const MAX_PREVIEW_BYTES: u64 = 120;

/// Expires each token when it is no longer valid.
struct TokenExpiry;

impl Expiry<String, Token> for TokenExpiry {
    fn expire_after_create(&self, _: &String, token: &Token, _: Instant) -> Option<Duration> {
        Some(token.valid_for)
    }

    fn expire_after_update(
        &self,
        _: &String,
        token: &Token,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.valid_for)
    }
}

struct Wiki {
    database: Database,
    articles: future::Cache<u64, Arc<Article>>,
    tokens: future::Cache<String, Token>,
    previews: sync::Cache<String, Arc<str>>,
    requests: sync::Cache<String, u32>,
    evicted_previews: Arc<AtomicU64>,
}

impl Wiki {
    fn new(database: Database) -> Self {
        let evicted_previews = Arc::new(AtomicU64::new(0));
        let evicted = Arc::clone(&evicted_previews);
        Self {
            database,
            articles: future::Cache::builder()
                .name("articles")
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(300))
                .support_invalidation_closures()
                .build(),
            tokens: future::Cache::builder()
                .max_capacity(1_000)
                .expire_after(TokenExpiry)
                .build(),
            previews: sync::Cache::builder()
                .max_capacity(MAX_PREVIEW_BYTES)
                .weigher(|title: &String, preview: &Arc<str>| {
                    (title.len() + preview.len()).try_into().unwrap_or(u32::MAX)
                })
                .eviction_listener(move |_title, _preview, cause| {
                    if cause == RemovalCause::Size {
                        evicted.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .build(),
            requests: sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(Duration::from_secs(60))
                .build(),
            evicted_previews,
        }
    }

    /// Counts a request of a user. Returns `false` if the user has sent too many.
    fn admit(&self, user: &str) -> bool {
        let entry = self.requests.entry_by_ref(user);
        let result = entry.and_compute_with(|entry| match entry {
            Some(entry) if *entry.value() >= MAX_REQUESTS => Op::Nop,
            Some(entry) => Op::Put(entry.into_value() + 1),
            None => Op::Put(1),
        });
        !matches!(result, CompResult::Unchanged(_))
    }

    async fn article(&self, id: u64) -> Result<Arc<Article>, Arc<anyhow::Error>> {
        let load = async { self.database.article(id).await.map(Arc::new) };
        self.articles.try_get_with(id, load).await
    }

    async fn token(&self, user: &str) -> Result<Token, Arc<anyhow::Error>> {
        let load = self.database.sign_in(user);
        self.tokens.try_get_with_by_ref(user, load).await
    }

    fn preview(&self, article: &Article) -> Result<Arc<str>, Arc<anyhow::Error>> {
        let render = || render(article);
        self.previews.try_get_with_by_ref(&article.title, render)
    }
}

/// Renders the preview of an article, which takes a while.
fn render(article: &Article) -> anyhow::Result<Arc<str>> {
    ensure!(!article.text.is_empty(), "the article has no text");
    Ok(format!("{:.20}", article.text).into())
}

/// An error response.
struct AppError(Arc<anyhow::Error>);

impl From<Arc<anyhow::Error>> for AppError {
    fn from(error: Arc<anyhow::Error>) -> Self {
        Self(error)
    }
}

impl From<anyhow::Error> for AppError {
    fn from(error: anyhow::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let cause = self.0.root_cause();
        let status = if cause.is::<NotFound>() {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        (status, cause.to_string()).into_response()
    }
}

fn user(headers: &HeaderMap) -> &str {
    let user = headers.get("x-user").and_then(|user| user.to_str().ok());
    user.unwrap_or("anonymous")
}

async fn limit_requests(State(wiki): State<Arc<Wiki>>, request: Request, next: Next) -> Response {
    if wiki.admit(user(request.headers())) {
        next.run(request).await
    } else {
        StatusCode::TOO_MANY_REQUESTS.into_response()
    }
}

async fn get_article(
    State(wiki): State<Arc<Wiki>>,
    Path(id): Path<u64>,
) -> Result<Json<Arc<Article>>, AppError> {
    Ok(Json(wiki.article(id).await?))
}

async fn get_preview(
    State(wiki): State<Arc<Wiki>>,
    Path(id): Path<u64>,
) -> Result<String, AppError> {
    let article = wiki.article(id).await?;
    let preview = spawn_blocking(move || wiki.preview(&article)).await;
    Ok(preview.context("the renderer panicked")??.to_string())
}

async fn put_article(
    State(wiki): State<Arc<Wiki>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    Json(article): Json<Article>,
) -> Result<StatusCode, AppError> {
    let token = wiki.token(user(&headers)).await?;
    wiki.database.save(&token, id, &article).await?;
    wiki.articles.invalidate(&id).await;
    wiki.previews.invalidate(&article.title);
    Ok(StatusCode::NO_CONTENT)
}

async fn delete_author(
    State(wiki): State<Arc<Wiki>>,
    Path(author): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, AppError> {
    let token = wiki.token(user(&headers)).await?;
    wiki.database.delete_author(&token, &author).await?;
    let by_author = move |_: &u64, article: &Arc<Article>| article.author == author;
    let invalidated = wiki.articles.invalidate_entries_if(by_author);
    invalidated.context("the articles cannot be invalidated")?;
    wiki.previews.invalidate_all();
    Ok(StatusCode::NO_CONTENT)
}

async fn get_counts(State(wiki): State<Arc<Wiki>>) -> Json<Value> {
    wiki.articles.run_pending_tasks().await;
    wiki.previews.run_pending_tasks();
    Json(json!({
        "articles": wiki.articles.entry_count(),
        "previews": wiki.previews.entry_count(),
        "preview_bytes": wiki.previews.weighted_size(),
        "evicted_previews": wiki.evicted_previews.load(Ordering::Relaxed),
    }))
}

pub(crate) fn router(database: Database) -> Router {
    let wiki = Arc::new(Wiki::new(database));
    let limit = from_fn_with_state(Arc::clone(&wiki), limit_requests);
    Router::new()
        .route("/articles/{id}", get(get_article).put(put_article))
        .route("/articles/{id}/preview", get(get_preview))
        .route("/authors/{author}", delete(delete_author))
        .layer(limit)
        .route("/counts", get(get_counts))
        .with_state(wiki)
}
