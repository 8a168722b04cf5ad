//! Batches of keys in borrowed form, for the default methods of the traits.

use crate::traits::key::ErasedKey;

/// Returns the keys as trait objects.
pub(super) fn erase_keys<'a, K, Q: ?Sized>(keys: &'a [&Q]) -> Vec<&'a dyn ErasedKey<K>>
where
    for<'q> &'q Q: ErasedKey<K>,
{
    let erase = |key: &'a &Q| -> &'a dyn ErasedKey<K> { key };
    keys.iter().map(erase).collect()
}

/// Returns the keys that have no value, each once.
pub(super) fn missing_keys<K, V>(keys: &[&dyn ErasedKey<K>], values: &[Option<V>]) -> Vec<K> {
    let mut missing: Vec<K> = Vec::new();
    for (key, value) in keys.iter().zip(values) {
        if value.is_none() && !missing.iter().any(|other| key.is_form_of(other)) {
            missing.push(key.to_key());
        }
    }
    missing
}

/// Stores a loaded value at each position of its key. Returns `false` if there is a value already, or no such position:
/// the loader did not receive the key, or has returned a pair for it before.
pub(super) fn store_pair<K, V: Clone>(
    keys: &[&dyn ErasedKey<K>],
    values: &mut [Option<V>],
    key: &K,
    value: &V,
) -> bool {
    let mut is_missing = false;
    for (other, place) in keys.iter().zip(values) {
        if place.is_none() && other.is_form_of(key) {
            *place = Some(value.clone());
            is_missing = true;
        }
    }
    is_missing
}
