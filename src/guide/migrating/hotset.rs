//! A wiki over HTTP, with caches of hotset.

use super::database::{Article, Database, NotFound, Token};
use anyhow::{Context, ensure};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use hotset::{Compute, LoadError, LocalCache, RemovalCause};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// The number of requests that a user may send in a minute.
const MAX_REQUESTS: u32 = 20;

/// The budget for previews with their titles, in bytes.
const MAX_PREVIEW_BYTES: u64 = 120;

struct Wiki {
    database: Database,
    articles: LocalCache<u64, Arc<Article>>,
    tokens: LocalCache<String, Token>,
    previews: LocalCache<String, Arc<str>>,
    requests: LocalCache<String, u32>,
    evicted_previews: Arc<AtomicU64>,
}

impl Wiki {
    fn new(database: Database) -> anyhow::Result<Self> {
        let evicted_previews = Arc::new(AtomicU64::new(0));
        let evicted = Arc::clone(&evicted_previews);
        Ok(Self {
            database,
            articles: LocalCache::builder()
                .name("articles")
                .capacity(10_000)
                .time_to_live(Duration::from_secs(300))
                .build()?,
            tokens: LocalCache::builder()
                .capacity(1_000)
                .expire_after(|_, token: &Token| Some(token.valid_for))
                .build()?,
            previews: LocalCache::builder()
                .max_weight(MAX_PREVIEW_BYTES)
                .weigher(|title: &String, preview: &Arc<str>| (title.len() + preview.len()) as u64)
                .on_removal(move |_title, _preview, cause| {
                    if cause == RemovalCause::Evicted {
                        evicted.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .build()?,
            requests: LocalCache::builder()
                .capacity(100_000)
                .time_to_live(Duration::from_secs(60))
                .build()?,
            evicted_previews,
        })
    }

    /// Counts a request of a user. Returns `false` if the user has sent too many.
    fn admit(&self, user: &str) -> bool {
        let mut is_admitted = true;
        self.requests.compute(user, |count| {
            let count = count.unwrap_or(&0);
            is_admitted = *count < MAX_REQUESTS;
            if is_admitted {
                Compute::Put(count + 1)
            } else {
                Compute::Keep
            }
        });
        is_admitted
    }

    async fn article(&self, id: u64) -> Result<Arc<Article>, LoadError<anyhow::Error>> {
        let load = |id| async move { self.database.article(id).await.map(Arc::new) };
        self.articles.get_or_load_async(&id, load).await
    }

    async fn token(&self, user: &str) -> Result<Token, LoadError<anyhow::Error>> {
        let load = |_| self.database.sign_in(user);
        self.tokens.get_or_load_async(user, load).await
    }

    fn preview(&self, article: &Article) -> Result<Arc<str>, LoadError<anyhow::Error>> {
        self.previews
            .get_or_load(&article.title, |_| render(article))
    }
}

/// Renders the preview of an article, which takes a while.
fn render(article: &Article) -> anyhow::Result<Arc<str>> {
    ensure!(!article.text.is_empty(), "the article has no text");
    Ok(format!("{:.20}", article.text).into())
}

/// An error response.
struct AppError(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for AppError {
    fn from(error: E) -> Self {
        Self(error.into())
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
    wiki.articles.invalidate(&id);
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
    wiki.articles.retain(|_, article| article.author != author);
    wiki.previews.clear();
    Ok(StatusCode::NO_CONTENT)
}

async fn get_counts(State(wiki): State<Arc<Wiki>>) -> Json<Value> {
    Json(json!({
        "articles": wiki.articles.len(),
        "previews": wiki.previews.len(),
        "preview_bytes": wiki.previews.weight(),
        "evicted_previews": wiki.evicted_previews.load(Ordering::Relaxed),
    }))
}

pub(crate) fn router(database: Database) -> anyhow::Result<Router> {
    let wiki = Arc::new(Wiki::new(database)?);
    let limit = from_fn_with_state(Arc::clone(&wiki), limit_requests);
    Ok(Router::new()
        .route("/articles/{id}", get(get_article).put(put_article))
        .route("/articles/{id}/preview", get(get_preview))
        .route("/authors/{author}", delete(delete_author))
        .layer(limit)
        .route("/counts", get(get_counts))
        .with_state(wiki))
}
