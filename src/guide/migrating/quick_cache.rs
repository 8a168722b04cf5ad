//! A wiki, with caches of `quick_cache`.

use super::database::{Article, Database};
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of requests that a user may send.
const MAX_REQUESTS: u32 = 20;

/// Weighs previews with their titles, in bytes.
#[derive(Clone)]
struct PreviewWeighter;

impl Weighter<String, Arc<str>> for PreviewWeighter {
    fn weight(&self, title: &String, preview: &Arc<str>) -> u64 {
        (title.len() + preview.len()) as u64
    }
}

/// Counts the evicted previews.
#[derive(Clone, Default)]
struct EvictedPreviews(Arc<AtomicU64>);

impl Lifecycle<String, Arc<str>> for EvictedPreviews {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _title: String, _preview: Arc<str>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

type PreviewCache = Cache<String, Arc<str>, PreviewWeighter, DefaultHashBuilder, EvictedPreviews>;

pub(crate) struct Wiki {
    database: Database,
    articles: Cache<u64, Arc<Article>>,
    previews: PreviewCache,
    requests: Cache<String, u32>,
    evicted_previews: EvictedPreviews,
}

impl Wiki {
    pub(crate) fn new(database: Database) -> anyhow::Result<Self> {
        let evicted_previews = EvictedPreviews::default();
        let options = OptionsBuilder::new()
            .estimated_items_capacity(4)
            .weight_capacity(120)
            .shards(1)
            .build()?;
        Ok(Self {
            database,
            articles: Cache::new(10_000),
            previews: Cache::with_options(
                options,
                PreviewWeighter,
                DefaultHashBuilder::default(),
                evicted_previews.clone(),
            ),
            requests: Cache::new(100_000),
            evicted_previews,
        })
    }

    /// Counts a request of a user. Returns `false` if the user has sent too many.
    pub(crate) fn admit(&self, user: &str) -> bool {
        let counted = self.requests.entry(user, None, |_, count| {
            let is_admitted = *count < MAX_REQUESTS;
            *count += u32::from(is_admitted);
            EntryAction::Retain(is_admitted)
        });
        match counted {
            EntryResult::Retained(is_admitted) => is_admitted,
            EntryResult::Vacant(guard) => guard.insert(1).is_ok(),
            _ => unreachable!("the entry is neither removed nor replaced"),
        }
    }

    pub(crate) async fn article(&self, id: u64) -> anyhow::Result<Arc<Article>> {
        let load = async { self.database.article(id).await.map(Arc::new) };
        self.articles.get_or_insert_async(&id, load).await
    }

    pub(crate) fn preview(&self, article: &Article) -> anyhow::Result<Arc<str>> {
        let render = || render(article);
        self.previews.get_or_insert_with(&article.title, render)
    }

    pub(crate) fn invalidate(&self, id: u64, title: &str) {
        self.articles.remove(&id);
        self.previews.remove(title);
    }

    pub(crate) fn invalidate_author(&self, author: &str) {
        self.articles.retain(|_, article| article.author != author);
        self.previews.clear();
    }

    /// Returns the numbers of articles, previews, bytes of previews, and evicted previews.
    pub(crate) fn counts(&self) -> [u64; 4] {
        let evicted = self.evicted_previews.0.load(Ordering::Relaxed);
        let (articles, previews) = (self.articles.len() as u64, self.previews.len() as u64);
        [articles, previews, self.previews.weight(), evicted]
    }
}

/// Renders the preview of an article, which takes a while.
fn render(article: &Article) -> anyhow::Result<Arc<str>> {
    anyhow::ensure!(!article.text.is_empty(), "the article has no text");
    Ok(format!("{:.20}", article.text).into())
}
