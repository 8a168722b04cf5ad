//! The HTTP routes of the service.

use crate::service::{MaybeProfile, Service};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use std::fmt::Display;
use std::sync::Arc;

/// Builds the routes. `Path` rejects an id that is not a number with status 400.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/profiles/{id}", get(cached))
        .route("/uncached/profiles/{id}", get(uncached))
        .route("/profiles/{id}/bio", put(set_bio))
        .route("/stats", get(stats))
        .with_state(service)
}

async fn cached(State(service): State<Arc<Service>>, Path(id): Path<u64>) -> Response {
    page(id, service.profile(id).await)
}

async fn uncached(State(service): State<Arc<Service>>, Path(id): Path<u64>) -> Response {
    page(id, service.query(id).await)
}

async fn set_bio(
    State(service): State<Arc<Service>>,
    Path(id): Path<u64>,
    bio: String,
) -> Response {
    match service.set_bio(id, bio).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => unknown(id),
        Err(error) => failed("write", id, &error),
    }
}

async fn stats(State(service): State<Arc<Service>>) -> String {
    format!("{}\n", service.cache.stats())
}

fn page(id: u64, profile: Result<MaybeProfile, impl Display>) -> Response {
    match profile {
        Ok(Some(profile)) => Json(&*profile).into_response(),
        Ok(None) => unknown(id),
        Err(error) => failed("read", id, &error),
    }
}

fn unknown(id: u64) -> Response {
    let text = format!("there is no profile {id}\n");
    (StatusCode::NOT_FOUND, text).into_response()
}

fn failed(action: &str, id: u64, error: &impl Display) -> Response {
    let text = format!("cannot {action} profile {id}: {error:#}\n");
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}
