//! The programs of the migration guides and their ports: equal answers to the same requests.

// The programs show code as users of the libraries write it.
#![allow(clippy::cast_possible_truncation)]

mod database;

#[path = "../../../../src/guide/migrating/cached.rs"]
mod with_cached;
#[path = "../../../../src/guide/migrating/hotset.rs"]
mod with_hotset;
#[path = "../../../../src/guide/migrating/hotset_for_cached.rs"]
mod with_hotset_for_cached;
#[path = "../../../../src/guide/migrating/hotset_for_quick_cache.rs"]
mod with_hotset_for_quick_cache;
#[path = "../../../../src/guide/migrating/moka.rs"]
mod with_moka;
#[path = "../../../../src/guide/migrating/quick_cache.rs"]
mod with_quick_cache;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use database::{Article, Database};
use serde_json::json;
use std::fmt::Display;
use std::time::Duration;
use tower::ServiceExt;

/// The answer of a wiki to a request: the status and the body.
type Answer = (u16, String);

/// Returns an article of `alice`. All titles and previews have the same lengths.
fn article(id: u64) -> Article {
    let text = format!("This is article {id} of a wiki about caches.");
    let (title, author) = (format!("Article {id:02}"), "alice".to_string());
    Article {
        title,
        author,
        text,
    }
}

/// Sends a request to a wiki.
async fn send(wiki: &Router, user: &str, method: &str, path: &str, body: String) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = request
        .header("x-user", user)
        .header("content-type", "application/json");
    let request = request.body(Body::from(body)).unwrap();
    let response = wiki.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Returns the answers of a wiki to all kinds of requests, and the numbers of queries and of sign-ins.
async fn answers(wiki: Router, database: Database) -> (Vec<Answer>, (u64, u64)) {
    let mut answers = Vec::new();
    let get =
        |user: &'static str, path: &'static str| send(&wiki, user, "GET", path, String::new());

    // Articles are written by their author, and by others.
    for id in 1..=6 {
        let (path, body) = (format!("/articles/{id}"), json!(article(id)).to_string());
        answers.push(send(&wiki, "alice", "PUT", &path, body).await);
    }
    let body = json!(article(1)).to_string();
    for user in ["guest", "anonymous", "guest"] {
        answers.push(send(&wiki, user, "PUT", "/articles/1", body.clone()).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // Concurrent requests share one query, and errors are not cached.
    let requests = (0..8).map(|_| {
        let wiki = wiki.clone();
        tokio::spawn(async move { send(&wiki, "bob", "GET", "/articles/1", String::new()).await })
    });
    for request in requests.collect::<Vec<_>>() {
        answers.push(request.await.unwrap());
    }
    answers.push(get("bob", "/articles/99").await);
    answers.push(get("bob", "/articles/99").await);
    answers.push(get("bob", "/articles/99/preview").await);

    // An article gets a new version.
    answers.push(get("carol", "/articles/1/preview").await);
    let mut changed = article(1);
    changed.text = "This is a new version of the article.".to_string();
    let body = json!(changed).to_string();
    answers.push(send(&wiki, "alice", "PUT", "/articles/1", body).await);
    answers.push(get("carol", "/articles/1").await);

    // The previews exceed the budget. The policies evict different ones, but equally many.
    for id in 1..=6 {
        let path = format!("/articles/{id}/preview");
        answers.push(send(&wiki, "carol", "GET", &path, String::new()).await);
    }
    answers.push(get("carol", "/counts").await);

    // An article loses its text, and then all are deleted.
    changed.text.clear();
    changed.title.push_str(" without text");
    let body = json!(changed).to_string();
    answers.push(send(&wiki, "alice", "PUT", "/articles/1", body).await);
    answers.push(get("carol", "/articles/1/preview").await);
    answers.push(send(&wiki, "bob", "DELETE", "/authors/alice", String::new()).await);
    answers.push(get("carol", "/articles/2").await);
    answers.push(send(&wiki, "alice", "DELETE", "/authors/alice", String::new()).await);
    answers.push(get("carol", "/articles/2").await);
    answers.push(get("carol", "/counts").await);

    // One user sends too many requests.
    for _ in 0..21 {
        answers.push(get("dave", "/articles/99").await);
    }
    answers.push(get("erin", "/articles/99").await);
    (answers, database.counts())
}

#[tokio::test]
async fn port_of_moka_program_gives_equal_answers() {
    let database = Database::default();
    let moka = with_moka::router(database.clone());
    let moka = answers(moka, database).await;
    let database = Database::default();
    let hotset = with_hotset::router(database.clone()).unwrap();
    let hotset = answers(hotset, database).await;
    assert_eq!(moka, hotset);

    let count = |status| moka.0.iter().filter(|answer| answer.0 == status).count();
    assert_eq!([200, 204, 404, 429, 500].map(count), [19, 9, 25, 1, 5]);
    let expected = json!({
        "articles": 6, "previews": 4, "preview_bytes": 120, "evicted_previews": 2
    });
    assert!(moka.0.contains(&(200, expected.to_string())));
}

/// Returns the results of the calls of a wiki with caches of `quick_cache` or of hotset.
macro_rules! results {
    ($module:ident) => {{
        let database = Database::default();
        let wiki = $module::Wiki::new(database.clone()).unwrap();
        let mut results = Vec::new();
        let token = database.sign_in("alice").await.unwrap();
        for id in 1..=6 {
            database.save(&token, id, &article(id)).await.unwrap();
            results.push(result(
                wiki.article(id).await.map(|article| article.title.clone()),
            ));
            results.push(result(wiki.preview(&article(id))));
        }
        let both = tokio::join!(wiki.article(1), wiki.article(1));
        assert_eq!(both.0.unwrap().title, both.1.unwrap().title);
        results.push(format!("{:?}", wiki.counts()));
        wiki.invalidate(6, &article(6).title);
        results.push(result(
            wiki.article(99).await.map(|article| article.title.clone()),
        ));
        results.push(format!("{:?}", wiki.counts()[0]));
        wiki.invalidate_author("bob");
        wiki.invalidate_author("alice");
        results.push(format!("{:?}", &wiki.counts()[..3]));
        results.extend((0..22).map(|_| wiki.admit("dave").to_string()));
        (results, database.counts())
    }};
}

/// Returns the text of a value or of the cause of an error.
fn result<T: Display>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => error.root_cause().to_string(),
    }
}

#[tokio::test]
async fn port_of_quick_cache_program_gives_equal_results() {
    let quick_cache = results!(with_quick_cache);
    assert_eq!(quick_cache, results!(with_hotset_for_quick_cache));
    assert_eq!(
        quick_cache.0.iter().filter(|&text| text == "true").count(),
        20
    );
}

#[tokio::test]
async fn port_of_cached_program_gives_equal_results() {
    use with_cached as cached;
    use with_hotset_for_cached as hotset;

    let database = Database::default();
    let token = database.sign_in("alice").await.unwrap();
    database.save(&token, 1, &article(1)).await.unwrap();

    let counts = database.counts();
    for _ in 0..2 {
        let both = tokio::join!(cached::article(&database, 1), cached::article(&database, 1));
        assert_eq!(both.0.unwrap().title, both.1.unwrap().title);
        assert!(cached::article(&database, 2).await.is_err());
        cached::token(&database, "alice").await.unwrap();
        cached::token(&database, "guest").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cached::count_articles().await, 1);
    cached::invalidate_article(1).await;
    assert_eq!(cached::count_articles().await, 0);
    let with_cached = database.counts();

    for _ in 0..2 {
        let both = tokio::join!(hotset::article(&database, 1), hotset::article(&database, 1));
        assert_eq!(both.0.unwrap().title, both.1.unwrap().title);
        assert!(hotset::article(&database, 2).await.is_err());
        hotset::token(&database, "alice").await.unwrap();
        hotset::token(&database, "guest").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(hotset::count_articles(), 1);
    hotset::invalidate_article(1);
    assert_eq!(hotset::count_articles(), 0);
    let with_hotset = database.counts();

    assert_eq!((with_cached.0 - counts.0, with_cached.1 - counts.1), (3, 3));
    assert_eq!(
        (with_hotset.0 - with_cached.0, with_hotset.1 - with_cached.1),
        (3, 3)
    );
}

#[test]
fn ports_are_not_longer_than_the_originals() {
    let programs = [
        (
            include_str!("../../../../src/guide/migrating/moka.rs"),
            include_str!("../../../../src/guide/migrating/hotset.rs"),
        ),
        (
            include_str!("../../../../src/guide/migrating/quick_cache.rs"),
            include_str!("../../../../src/guide/migrating/hotset_for_quick_cache.rs"),
        ),
        (
            include_str!("../../../../src/guide/migrating/cached.rs"),
            include_str!("../../../../src/guide/migrating/hotset_for_cached.rs"),
        ),
    ];
    for (original, port) in programs {
        assert!(port.lines().count() <= original.lines().count(), "{port}");
    }
}
