//! The shop over HTTP.

use crate::caches::Cached;
use crate::page;
use crate::records::{Id, Price, Product, Profile, Session, Stock, Versioned};
use crate::refusal::Refusal;
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

/// More is a mistake.
const NUMBERS: i64 = 1_000_000_000;

type TheShop = State<Arc<Shop>>;
type TheId = Result<Path<Id>, PathRejection>;
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

async fn home(State(shop): TheShop, headers: HeaderMap) -> Result<Response, Refusal> {
    let home = page::home(&shop, is_anew(&headers)).await?;
    Ok(Html(home).into_response())
}

async fn read<T: Cached>(
    State(shop): TheShop,
    id: TheId,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path(id) = id?;
    match shop.get::<T>(id, is_anew(&headers)).await? {
        Some(found) => Ok(Json(&*found).into_response()),
        None => Err(Refusal::missing(T::NAME, id)),
    }
}

/// Past the cache?
fn is_anew(headers: &HeaderMap) -> bool {
    let control = headers.get(header::CACHE_CONTROL);
    let directives = control.and_then(|control| control.to_str().ok());
    directives.is_some_and(|all| all.split(',').any(|each| each.trim() == "no-cache"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPrice {
    cents: i64,
}

async fn set_price(State(shop): TheShop, id: TheId, body: Body) -> Result<Response, Refusal> {
    let (Path(id), body) = (id?, body?);
    let NewPrice { cents } = parse(&body, r#"{"cents": 1999}"#)?;
    check("cents", cents, 0..=NUMBERS)?;
    let change = shop.change("set_price", id, move |_| Ok(cents)).await?;
    answer::<Price>(id, change)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    count: i64,
}

async fn take(State(shop): TheShop, id: TheId, body: Body) -> Result<Response, Refusal> {
    let (Path(id), body) = (id?, body?);
    let Taken { count } = parse(&body, r#"{"count": 1}"#)?;
    check("count", count, 1..=NUMBERS)?;
    let next = move |there: i64| match there - count {
        0.. => Ok(there - count),
        _ => Err(format!("there are only {there}")),
    };
    answer::<Stock>(id, shop.change("take_stock", id, next).await?)
}

fn answer<T: Cached + Versioned>(id: Id, change: Change<T>) -> Result<Response, Refusal> {
    match change {
        Change::Made { new, is_told: true } => Ok(Json(new).into_response()),
        // The database has it; other processes hear of it once Redis is back.
        Change::Made { new, .. } => Ok((StatusCode::ACCEPTED, Json(new)).into_response()),
        Change::Missing => Err(Refusal::missing(T::NAME, id)),
        Change::Refused(reason) => Err(Refusal::new(StatusCode::CONFLICT, reason)),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Refusal> {
    let parsed = serde_json::from_slice(body);
    parsed.map_err(|error| Refusal::bad(format!("{error}: send JSON such as {example}")))
}

fn check(name: &str, number: i64, range: RangeInclusive<i64>) -> Result<(), Refusal> {
    if range.contains(&number) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(Refusal::bad(format!(
        "{name} must be from {least} to {most}"
    )))
}

async fn health(State(shop): TheShop) -> Response {
    let health = Health::of(&shop).await;
    let status = if health.serves() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

async fn metrics(State(shop): TheShop) -> Response {
    let text = shop.exporter.render();
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn stats(State(shop): TheShop) -> Response {
    Json(Report::of(&shop)).into_response()
}

async fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such page")
}

async fn not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here")
}
