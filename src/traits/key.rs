//! Keys in borrowed form, such as a `str` for keys of type `String`.

use equivalent::Equivalent;
use std::hash::{Hash, Hasher};

/// A key of type `K` in any borrowed form, for the methods of a trait object.
///
/// Each reference to a key in one of the forms that the methods of a cache accept implements it: `&K` itself, `&str`
/// for a `String`, `&[T]` for a `Vec<T>`, and so on.
///
/// # Examples
///
/// ```
/// use hotset::ErasedKey;
///
/// fn starts_with_a(key: &dyn ErasedKey<String>) -> bool {
///     key.to_key().starts_with('a')
/// }
///
/// let apple = String::from("apple");
/// assert!(starts_with_a(&"apple") && starts_with_a(&&apple));
/// ```
pub trait ErasedKey<K>: Sync {
    /// Feeds the key into `state`, like [`Hash::hash`].
    fn hash_key(&self, state: &mut dyn Hasher);

    /// Checks whether this is a form of `key`.
    fn is_form_of(&self, key: &K) -> bool;

    /// Returns the key in its owned form.
    fn to_key(&self) -> K;
}

impl<K, Q> ErasedKey<K> for &Q
where
    Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
{
    fn hash_key(&self, mut state: &mut dyn Hasher) {
        (**self).hash(&mut state);
    }

    fn is_form_of(&self, key: &K) -> bool {
        (**self).equivalent(key)
    }

    fn to_key(&self) -> K {
        (**self).to_owned()
    }
}

/// A key in borrowed form, of a type that is known at compile time or erased.
pub(crate) trait LookupKey<K>: Hash + Equivalent<K> {
    /// Returns the key in its owned form.
    fn to_key(&self) -> K;
}

impl<K, Q> LookupKey<K> for Q
where
    Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
{
    fn to_key(&self) -> K {
        self.to_owned()
    }
}

/// A key of an erased type, as a type with the traits that a lookup needs.
pub(crate) struct DynKey<'a, K>(pub(crate) &'a dyn ErasedKey<K>);

impl<K> Hash for DynKey<'_, K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash_key(state);
    }
}

impl<K> Equivalent<K> for DynKey<'_, K> {
    fn equivalent(&self, key: &K) -> bool {
        self.0.is_form_of(key)
    }
}

impl<K> LookupKey<K> for DynKey<'_, K> {
    fn to_key(&self) -> K {
        self.0.to_key()
    }
}
