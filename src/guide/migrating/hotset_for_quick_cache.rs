//! A wiki, with caches of hotset.

use super::database::{Article, Database};
use hotset::{Compute, LocalCache, RemovalCause};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of requests that a user may send.
const MAX_REQUESTS: u32 = 20;

pub(crate) struct Wiki {
    database: Database,
    articles: LocalCache<u64, Arc<Article>>,
    previews: LocalCache<String, Arc<str>>,
    requests: LocalCache<String, u32>,
    evicted_previews: Arc<AtomicU64>,
}

impl Wiki {
    pub(crate) fn new(database: Database) -> anyhow::Result<Self> {
        let evicted_previews = Arc::new(AtomicU64::new(0));
        let evicted = Arc::clone(&evicted_previews);
        Ok(Self {
            database,
            articles: LocalCache::new(10_000),
            previews: LocalCache::builder()
                .max_weight(120)
                .weigher(|title: &String, preview: &Arc<str>| (title.len() + preview.len()) as u64)
                .on_removal(move |_title, _preview, cause| {
                    if cause == RemovalCause::Evicted {
                        evicted.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .build()?,
            requests: LocalCache::new(100_000),
            evicted_previews,
        })
    }

    /// Counts a request of a user. Returns `false` if the user has sent too many.
    pub(crate) fn admit(&self, user: &str) -> bool {
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

    pub(crate) async fn article(&self, id: u64) -> anyhow::Result<Arc<Article>> {
        let load = |id| async move { self.database.article(id).await.map(Arc::new) };
        Ok(self.articles.get_or_load_async(&id, load).await?)
    }

    pub(crate) fn preview(&self, article: &Article) -> anyhow::Result<Arc<str>> {
        Ok(self
            .previews
            .get_or_load(&article.title, |_| render(article))?)
    }

    pub(crate) fn invalidate(&self, id: u64, title: &str) {
        self.articles.invalidate(&id);
        self.previews.invalidate(title);
    }

    pub(crate) fn invalidate_author(&self, author: &str) {
        self.articles.retain(|_, article| article.author != author);
        self.previews.clear();
    }

    /// Returns the numbers of articles, previews, bytes of previews, and evicted previews.
    pub(crate) fn counts(&self) -> [u64; 4] {
        let evicted = self.evicted_previews.load(Ordering::Relaxed);
        let (articles, previews) = (self.articles.len() as u64, self.previews.len() as u64);
        [articles, previews, self.previews.weight(), evicted]
    }
}

/// Renders the preview of an article, which takes a while.
fn render(article: &Article) -> anyhow::Result<Arc<str>> {
    anyhow::ensure!(!article.text.is_empty(), "the article has no text");
    Ok(format!("{:.20}", article.text).into())
}
