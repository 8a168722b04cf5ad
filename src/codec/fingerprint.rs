//! Comparison of values that need not be `Eq`, by the calls that they make to a serde `Serializer`.
//!
//! The calls distinguish more than some formats store: for example, whether a `None` is nested in a `Some`, and whether
//! a number is a `u64` or an `i64`. So the comparison detects a format that decodes a value to a different one.

use crate::random;
use serde::ser::{self, Serialize, Serializer};
use std::fmt::Error as Unserializable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Returns a hash of the calls that `value` makes to a serializer, or `None` if it cannot be serialized.
///
/// The hash does not depend on the order of the elements of maps and sequences, because a decoded `HashMap` or
/// `HashSet` is iterated in another order than the original. All NaN values of a type have the same hash.
pub(crate) fn fingerprint<T: Serialize + ?Sized>(value: &T) -> Option<u64> {
    value.serialize(Hasher).ok()
}

/// The kind of a serialized value. It distinguishes, for example, a `u8` from an `i64` of the same number.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    None,
    Some,
    Unit,
    Struct,
    Variant,
    Sequence,
    Fields,
    Map,
    Pair,
}

/// Hashes the bytes of a value of this kind.
fn hash(kind: Kind, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, kind as u64)
}

/// Hashes two numbers. Their order matters. It is cheaper than [`hash`], which matters because a sequence of numbers
/// calls it several times for each element.
fn combine(kind: Kind, first: u64, second: u64) -> u64 {
    let seed = random::spread(kind as u64 + 1, random::GOLDEN_RATIO);
    random::mix(random::mix(first ^ seed).wrapping_add(second))
}

/// Hashes the name of a variant.
fn variant_hash(variant: &str) -> u64 {
    hash(Kind::Variant, variant.as_bytes())
}

/// A serializer that returns a hash of each value.
#[derive(Clone, Copy)]
struct Hasher;

// serde implements its error trait for `fmt::Error`, which carries no data.
type Result<T = u64> = std::result::Result<T, Unserializable>;

/// Defines methods that hash a number of up to 64 bits.
macro_rules! numbers {
    ($($method:ident($type:ty) => $kind:ident;)*) => {$(
        fn $method(self, value: $type) -> Result {
            #[allow(clippy::cast_sign_loss, clippy::cast_lossless)] // Different numbers of a type have different bits.
            let bits = value as u64;
            Ok(combine(Kind::$kind, bits, 0))
        }
    )*};
}

/// Defines methods that hash the bytes of a value.
macro_rules! scalars {
    ($($method:ident($($value:ident: $type:ty)?) => $kind:ident, $bytes:expr;)*) => {$(
        fn $method(self, $($value: $type)?) -> Result {
            Ok(hash(Kind::$kind, $bytes))
        }
    )*};
}

/// Defines methods that begin to hash several elements.
macro_rules! compounds {
    ($($method:ident($($argument:ty),*) => $kind:ident;)*) => {$(
        fn $method(self, $(_: $argument),*) -> Result<Elements> {
            Ok(Elements::new(Kind::$kind))
        }
    )*};
}

impl Serializer for Hasher {
    type Ok = u64;
    type Error = Unserializable;
    type SerializeSeq = Elements;
    type SerializeTuple = Elements;
    type SerializeTupleStruct = Elements;
    type SerializeTupleVariant = Elements;
    type SerializeMap = Elements;
    type SerializeStruct = Elements;
    type SerializeStructVariant = Elements;

    fn is_human_readable(&self) -> bool {
        false
    }

    numbers! {
        serialize_i8(i8) => I8;
        serialize_i16(i16) => I16;
        serialize_i32(i32) => I32;
        serialize_i64(i64) => I64;
        serialize_u8(u8) => U8;
        serialize_u16(u16) => U16;
        serialize_u32(u32) => U32;
        serialize_u64(u64) => U64;
    }

    scalars! {
        serialize_bool(value: bool) => Bool, &[value.into()];
        serialize_i128(value: i128) => I128, &value.to_le_bytes();
        serialize_u128(value: u128) => U128, &value.to_le_bytes();
        serialize_f32(value: f32) => F32, &(if value.is_nan() { f32::NAN } else { value }).to_le_bytes();
        serialize_f64(value: f64) => F64, &(if value.is_nan() { f64::NAN } else { value }).to_le_bytes();
        serialize_char(value: char) => Char, &u32::from(value).to_le_bytes();
        serialize_str(value: &str) => Str, value.as_bytes();
        serialize_bytes(value: &[u8]) => Bytes, value;
        serialize_none() => None, &[];
        serialize_unit() => Unit, &[];
        serialize_unit_struct(name: &'static str) => Struct, name.as_bytes();
    }

    compounds! {
        serialize_seq(Option<usize>) => Sequence;
        serialize_tuple(usize) => Fields;
        serialize_tuple_struct(&'static str, usize) => Fields;
        serialize_map(Option<usize>) => Map;
        serialize_struct(&'static str, usize) => Fields;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        Ok(combine(Kind::Some, 0, value.serialize(self)?))
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result {
        Ok(combine(Kind::Unit, variant_hash(variant), 0))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result {
        Ok(combine(Kind::Struct, 0, value.serialize(self)?))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result {
        let value = value.serialize(self)?;
        Ok(combine(Kind::Variant, variant_hash(variant), value))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements> {
        Ok(Elements::of_variant(variant))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements> {
        Ok(Elements::of_variant(variant))
    }
}

/// The hash in progress of the elements of a sequence or a map, or of the fields of a tuple or a struct.
struct Elements {
    kind: Kind,
    /// Hash of the variant's name, for the fields of a variant; otherwise 0.
    variant: u64,
    /// Number of elements.
    count: u64,
    /// Sum of the elements' hashes, which does not depend on their order.
    sum: u64,
    /// Hash of the map key whose value is added next.
    key: u64,
}

impl Elements {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            variant: 0,
            count: 0,
            sum: 0,
            key: 0,
        }
    }

    /// Creates an empty hash for the fields of a variant.
    fn of_variant(variant: &str) -> Self {
        Self {
            variant: variant_hash(variant),
            ..Self::new(Kind::Fields)
        }
    }

    /// Adds an element with the hashes of its key and its value.
    fn add(&mut self, key: u64, value: u64) {
        self.count += 1;
        let element = combine(Kind::Pair, key, value);
        self.sum = self.sum.wrapping_add(element);
    }

    /// Adds an element whose position is not part of the hash.
    fn add_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.add(0, value.serialize(Hasher)?);
        Ok(())
    }

    /// Adds an element whose position is part of the hash.
    fn add_positioned<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.add(self.count, value.serialize(Hasher)?);
        Ok(())
    }

    /// Adds an element with a name.
    fn add_field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<()> {
        let name = hash(Kind::Str, name.as_bytes());
        self.add(name, value.serialize(Hasher)?);
        Ok(())
    }

    /// Returns the hash of all elements.
    fn finish(&self) -> u64 {
        let count = combine(self.kind, self.variant, self.count);
        combine(self.kind, count, self.sum)
    }
}

/// Implements the traits of serializers whose elements have no names.
macro_rules! elements {
    ($($trait:ident: $method:ident = $add:ident;)*) => {$(
        impl ser::$trait for Elements {
            type Ok = u64;
            type Error = Unserializable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.$add(value)
            }

            fn end(self) -> Result {
                Ok(self.finish())
            }
        }
    )*};
}

elements! {
    SerializeSeq: serialize_element = add_element;
    SerializeTuple: serialize_element = add_positioned;
    SerializeTupleStruct: serialize_field = add_positioned;
    SerializeTupleVariant: serialize_field = add_positioned;
}

/// Implements the traits of serializers whose elements have names.
macro_rules! fields {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Elements {
            type Ok = u64;
            type Error = Unserializable;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<()> {
                self.add_field(name, value)
            }

            fn end(self) -> Result {
                Ok(self.finish())
            }
        }
    )*};
}

fields!(SerializeStruct SerializeStructVariant);

impl ser::SerializeMap for Elements {
    type Ok = u64;
    type Error = Unserializable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.key = key.serialize(Hasher)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.add(self.key, value.serialize(Hasher)?);
        Ok(())
    }

    fn end(self) -> Result {
        Ok(self.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use std::collections::{HashMap, HashSet};

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Number {
        Unsigned(u64),
        Signed(i64),
    }

    #[test]
    fn values_that_formats_confuse_have_different_fingerprints() {
        assert_ne!(
            fingerprint(&None::<Option<u8>>),
            fingerprint(&Some(None::<u8>))
        );
        assert_ne!(fingerprint(&None::<()>), fingerprint(&Some(())));
        assert_ne!(
            fingerprint(&Number::Unsigned(5)),
            fingerprint(&Number::Signed(5))
        );
        assert_ne!(fingerprint(&(1, 2)), fingerprint(&(2, 1)));
        assert_ne!(fingerprint("a"), fingerprint(&'a'));
        assert_ne!(fingerprint(&vec![1, 1]), fingerprint(&vec![1]));
        assert_ne!(fingerprint(&0.0_f64), fingerprint(&-0.0_f64));
    }

    #[test]
    fn fingerprint_ignores_the_order_of_maps_and_sets_and_the_bits_of_nan() {
        // Each map and set has its own random seed, and therefore its own order.
        let map = || -> HashMap<u32, HashSet<u32>> {
            (0..50)
                .map(|key| (key, (key..key + 50).collect()))
                .collect()
        };
        assert_eq!(fingerprint(&map()), fingerprint(&map()));
        assert_eq!(fingerprint(&f64::NAN), fingerprint(&-f64::NAN));
        assert!(fingerprint(&map()).is_some());
    }
}
