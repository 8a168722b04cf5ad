//! The names under which users of other caches search the documentation for the items of this library.
//!
//! Names that are the same here are not listed, and neither are those without a counterpart, such as
//! `initial_capacity`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Names in moka, each with the items that have it as an alias. An item without a type stands for the methods of all
/// caches and traits that have this name.
const MOKA: &str = "
    EvictionPolicy                   Policy
    Expiry                           LocalCacheBuilder::expire_after
    Explicit                         RemovalCause::Removed
    Nop                              Compute::Keep
    Op                               Compute
    Size                             RemovalCause::Evicted
    TinyLfu                          Policy::Adaptive
    and_compute_with                 compute compute_async
    and_try_compute_if_nobody_else   try_compute_async
    and_try_compute_with             try_compute try_compute_async
    and_upsert_with                  compute compute_async LocalCache::update
    async_eviction_listener          LocalCacheBuilder::on_removal
    build_with_hasher                LocalCacheBuilder::hasher
    entry                            LocalCache::compute
    entry_by_ref                     LocalCache::compute
    entry_count                      LocalCache::len
    eviction_listener                LocalCacheBuilder::on_removal
    eviction_policy                  LocalCacheBuilder::policy
    expire_after_create              LocalCacheBuilder::expire_after Loaded::ttl
    expire_after_update              LocalCacheBuilder::expire_after
    get_with                         get_or_insert_with get_or_insert_with_async
    get_with_by_ref                  LocalCache::get_or_insert_with LocalCache::get_or_insert_with_async
    get_with_if                      LocalCache::refresh LocalCache::refresh_async
    invalidate_all                   clear
    invalidate_entries_if            LocalCache::retain
    max_capacity                     LocalCacheBuilder::capacity LocalCacheBuilder::max_weight LocalCache::capacity
    optionally_get_with              get_or_load LocalCache::get_or_load_async Loaded::uncached
    optionally_get_with_by_ref       LocalCache::get_or_load LocalCache::get_or_load_async
    or_default                       LocalCache::get_or_insert_with LocalCache::get_or_insert_with_async
    or_insert                        LocalCache::get_or_insert_with LocalCache::get_or_insert_with_async
    or_insert_with                   get_or_insert_with get_or_insert_with_async
    or_insert_with_if                LocalCache::refresh LocalCache::refresh_async
    or_optionally_insert_with        LocalCache::get_or_load LocalCache::get_or_load_async Loaded::uncached
    or_try_insert_with               LocalCache::get_or_load get_or_load_entry get_or_load_entry_async
    policy                           LocalCache::capacity
    run_pending_tasks                LocalCache::remove_expired
    segments                         LocalCacheBuilder::shards
    try_get_with                     get_or_load get_or_load_async get_or_load_entry get_or_load_entry_async
    try_get_with_by_ref              LocalCache::get_or_load LocalCache::get_or_load_async
    weighted_size                    LocalCache::weight Stats::weight
";

/// Names in `quick_cache`.
const QUICK_CACHE: &str = "
    drain                            LocalCache::clear
    entry                            LocalCache::compute
    entry_async                      LocalCache::compute_async
    get_mut                          LocalCache::update
    get_or_insert_async              LocalCache::get_or_load_async
    get_value_or_guard               get_or_load
    get_value_or_guard_async         LocalCache::get_or_load_async
    hits                             LocalCache::stats
    insert_with_lifecycle            LocalCacheBuilder::on_removal
    lifecycle                        LocalCacheBuilder::on_removal
    memory_used                      memory_usage
    misses                           LocalCache::stats
    num_shards                       LocalCacheBuilder::shards
    on_evict                         LocalCacheBuilder::on_removal
    remove_if                        LocalCache::compute
    replace                          LocalCache::insert LocalCache::update
    set_capacity                     LocalCache::set_max_weight
    weight_capacity                  LocalCacheBuilder::max_weight
    weighter                         LocalCacheBuilder::weigher
    with_options                     LocalCache::builder
    with_weighter                    LocalCacheBuilder::weigher
";

/// Names in Caffeine.
const CAFFEINE: &str = "
    CacheStats                       Stats
    asMap                            LocalCache::iter
    cleanUp                          LocalCache::remove_expired
    computeIfAbsent                  get_or_load LocalCache::get_or_insert_with
    computeIfPresent                 LocalCache::update
    containsKey                      contains_key
    estimatedSize                    LocalCache::len
    evictionListener                 LocalCacheBuilder::on_removal
    executor                         LocalCache::detached
    expireAfter                      LocalCacheBuilder::expire_after
    expireAfterAccess                LocalCacheBuilder::time_to_idle
    expireAfterWrite                 LocalCacheBuilder::time_to_live
    getAll                           get_many_or_load get_many_or_load_async
    getAllPresent                    get_many
    getExpiresAfter                  remaining_ttl
    getIfPresent                     get
    getIfPresentQuietly              LocalCache::peek
    hitRate                          Stats::hit_ratio
    invalidateAll                    clear
    keySet                           LocalCache::keys
    maximumSize                      LocalCacheBuilder::capacity
    maximumWeight                    LocalCacheBuilder::max_weight
    merge                            LocalCache::update
    newBuilder                       LocalCache::builder
    policy                           LocalCache::capacity
    put                              insert insert_loaded insert_with_ttl
    putAll                           LocalCache::insert
    putIfAbsent                      LocalCache::get_or_insert_with
    recordStats                      LocalCache::stats
    refreshAfterWrite                LocalCacheBuilder::refresh_after
    reload                           refresh refresh_async refresh_with refresh_with_async
    removalListener                  LocalCacheBuilder::on_removal
    setExpiresAfter                  LocalCache::set_ttl
    setMaximum                       LocalCache::set_capacity LocalCache::set_max_weight
    ticker                           LocalCacheBuilder::clock
    weightedSize                     LocalCache::weight
";

/// The caches, and the traits of caches.
const CACHES: [&str; 5] = [
    "AsyncCache",
    "BlockingCache",
    "Cache",
    "LocalCache",
    "TieredCache",
];

/// The public items of the sources, such as `LocalCache::get`, each with its aliases. Methods of views, such as
/// `Detached`, are items of the view.
type Aliases = BTreeMap<String, Vec<String>>;

/// Returns the text up to the first character that cannot be part of a name.
fn name_at(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Returns the type that an `impl` without a trait is for.
fn type_of_impl(line: &str) -> Option<&str> {
    let mut depth = 0;
    let generics_or_space = |letter: char| {
        depth += i32::from(letter == '<') - i32::from(letter == '>');
        depth > 0 || letter == '>' || letter == ' '
    };
    let of = line
        .strip_prefix("impl")?
        .trim_start_matches(generics_or_space);
    (!line.contains(" for ")).then(|| name_at(of))
}

/// Adds the items of a file that rustfmt has formatted.
fn add_items(text: &str, aliases: &mut Aliases) {
    let mut owner = None;
    let mut found: Vec<String> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        if code.starts_with("#[") {
            let mut attribute = code.to_string();
            while !attribute.ends_with(']') {
                attribute += lines.next().unwrap_or("]");
            }
            if attribute.starts_with("#[doc(alias") {
                found.extend(attribute.split('"').skip(1).step_by(2).map(String::from));
            }
            continue;
        }
        if code.is_empty() || code.starts_with("//") {
            continue;
        }
        let public = code.strip_prefix("pub ").unwrap_or(code);
        let item = public
            .trim_start_matches("const ")
            .trim_start_matches("async ");
        let item = ["fn ", "struct ", "enum ", "trait "]
            .iter()
            .find_map(|kind| item.strip_prefix(kind));
        let name = name_at(item.unwrap_or(public));
        if line.starts_with("impl") {
            owner = type_of_impl(line);
        } else if line.starts_with("pub ") {
            owner = Some(name);
            aliases.entry(name.into()).or_default().append(&mut found);
        } else if let Some(owner) = owner.filter(|_| item.is_some() || !found.is_empty()) {
            let item = format!("{owner}::{name}");
            aliases.entry(item).or_default().append(&mut found);
        }
        found.clear();
    }
}

/// Adds the items of all files in a folder.
fn add_folder(folder: &Path, aliases: &mut Aliases) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_folder(&path, aliases);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            add_items(&fs::read_to_string(&path).unwrap(), aliases);
        }
    }
}

#[test]
fn names_in_other_caches_are_aliases_of_their_counterparts() {
    let mut aliases = Aliases::new();
    add_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut aliases,
    );
    let mut problems = Vec::new();
    for line in [MOKA, QUICK_CACHE, CAFFEINE]
        .iter()
        .flat_map(|names| names.lines())
    {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        for item in words {
            let of_caches = CACHES.map(|cache| format!("{cache}::{item}"));
            let items = [item.to_string()].into_iter().chain(of_caches);
            let items: Vec<String> = items.filter(|item| aliases.contains_key(item)).collect();
            let has_alias = |item: &&String| aliases[*item].iter().any(|alias| alias == name);
            problems.extend(
                items
                    .iter()
                    .filter(|item| !has_alias(item))
                    .map(|item| format!("{item} lacks #[doc(alias = \"{name}\")]")),
            );
            if items.is_empty() {
                problems.push(format!("{item}, the counterpart of {name}, does not exist"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
