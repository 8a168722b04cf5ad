//! The HTTP routes of the shop.

use crate::caches::Cached;
use crate::error_response::ErrorResponse;
use crate::page;
use crate::records::{Id, Price, Product, Profile, Session, Stock, Versioned};
use crate::service::{Change, Shop};
use crate::stats::{Health, Report};
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The maximum price and count in requests.
const MAX_NUMBER: i64 = 1_000_000_000;

type ShopState = State<Arc<Shop>>;
type IdPath = Result<Path<Id>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

pub(crate) fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/products/{id}", get(read::<Product>))
        .route("/prices/{id}", get(read::<Price>).put(set_price))
        .route("/stock/{id}", get(read::<Stock>))
        .route("/stock/{id}/take", post(take))
        .route("/profiles/{id}", get(read::<Profile>))
        .route("/sessions/{id}", get(read::<Session>))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/stats", get(stats))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .with_state(shop)
}

async fn home(State(shop): ShopState, headers: HeaderMap) -> Result<Response, ErrorResponse> {
    let home = page::home(&shop, bypasses_cache(&headers)).await?;
    Ok(Html(home).into_response())
}

async fn read<T: Cached>(
    State(shop): ShopState,
    id: IdPath,
    headers: HeaderMap,
) -> Result<Response, ErrorResponse> {
    let Path(id) = id?;
    match shop.get::<T>(id, bypasses_cache(&headers)).await? {
        Some(found) => Ok(Json(&*found).into_response()),
        None => Err(ErrorResponse::missing(T::NAME, id)),
    }
}

/// Returns `true` if a request bypasses the caches, with the header `cache-control: no-cache`.
fn bypasses_cache(headers: &HeaderMap) -> bool {
    let control = headers.get(header::CACHE_CONTROL);
    let directives = control.and_then(|control| control.to_str().ok());
    directives.is_some_and(|all| all.split(',').any(|each| each.trim() == "no-cache"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPrice {
    cents: i64,
}

async fn set_price(
    State(shop): ShopState,
    id: IdPath,
    body: Body,
) -> Result<Response, ErrorResponse> {
    let (Path(id), body) = (id?, body?);
    let NewPrice { cents } = parse(&body, r#"{"cents": 1999}"#)?;
    check("cents", cents, 0..=MAX_NUMBER)?;
    let change = shop.change("set_price", id, move |_| Ok(cents)).await?;
    answer::<Price>(id, change)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    count: i64,
}

async fn take(State(shop): ShopState, id: IdPath, body: Body) -> Result<Response, ErrorResponse> {
    let (Path(id), body) = (id?, body?);
    let Taken { count } = parse(&body, r#"{"count": 1}"#)?;
    check("count", count, 1..=MAX_NUMBER)?;
    let next = move |available: i64| match available - count {
        0.. => Ok(available - count),
        _ => Err(format!("there are only {available}")),
    };
    answer::<Stock>(id, shop.change("take_stock", id, next).await?)
}

fn answer<T: Cached + Versioned>(id: Id, change: Change<T>) -> Result<Response, ErrorResponse> {
    match change {
        Change::Applied {
            new,
            is_acknowledged: true,
        } => Ok(Json(new).into_response()),
        // The database has the change. Other processes see it when Redis is available again.
        Change::Applied { new, .. } => Ok((StatusCode::ACCEPTED, Json(new)).into_response()),
        Change::Missing => Err(ErrorResponse::missing(T::NAME, id)),
        Change::Refused(reason) => Err(ErrorResponse::new(StatusCode::CONFLICT, reason)),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, ErrorResponse> {
    let parsed = serde_json::from_slice(body);
    parsed.map_err(|error| ErrorResponse::bad(format!("{error}: send JSON such as {example}")))
}

fn check(name: &str, number: i64, range: RangeInclusive<i64>) -> Result<(), ErrorResponse> {
    if range.contains(&number) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(ErrorResponse::bad(format!(
        "{name} must be from {least} to {most}"
    )))
}

async fn health(State(shop): ShopState) -> Response {
    let health = Health::of(&shop).await;
    let status = if health.serves() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

async fn metrics(State(shop): ShopState) -> Response {
    let text = shop.exporter.render();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

async fn stats(State(shop): ShopState) -> Response {
    Json(Report::of(&shop)).into_response()
}

async fn unknown() -> ErrorResponse {
    ErrorResponse::new(StatusCode::NOT_FOUND, "this path does not exist")
}

async fn not_allowed() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not support this method",
    )
}
