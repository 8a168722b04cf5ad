//! Recognition of values that are sequences of bytes. serde serializes a `Vec<u8>` number by number, which takes
//! several times as long as copying the bytes.

use serde::ser::{self, Impossible, Serialize, Serializer};
// serde implements its error trait for this type, which has no content.
use std::fmt::{Display, Error as NotBytes};

/// Returns the bytes of a value that is serialized as a sequence of `u8`, such as `Vec<u8>` or `Option<Arc<[u8]>>`.
/// Returns `None` for any other value, and for an empty sequence.
pub(super) fn byte_sequence<T: Serialize + ?Sized>(value: &T) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let probe = Probe {
        bytes: &mut bytes,
        is_element: false,
    };
    value.serialize(probe).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

/// A serializer that collects the elements of a sequence of `u8`, and refuses every other value.
struct Probe<'a> {
    bytes: &'a mut Vec<u8>,
    /// `true` for the elements of the sequence, `false` for the sequence itself.
    is_element: bool,
}

/// The serializer of the elements of a value that is refused.
type Refused = Impossible<(), NotBytes>;

/// Defines methods that refuse the value.
macro_rules! refused {
    ($($method:ident($($argument:ty),*) -> $output:ty;)*) => {$(
        fn $method(self, $(_: $argument),*) -> Result<$output, NotBytes> {
            Err(NotBytes)
        }
    )*};
}

impl<'a> Serializer for Probe<'a> {
    type Ok = ();
    type Error = NotBytes;
    type SerializeSeq = Probe<'a>;
    type SerializeTuple = Refused;
    type SerializeTupleStruct = Refused;
    type SerializeTupleVariant = Refused;
    type SerializeMap = Refused;
    type SerializeStruct = Refused;
    type SerializeStructVariant = Refused;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_u8(self, value: u8) -> Result<(), NotBytes> {
        if !self.is_element {
            return Err(NotBytes);
        }
        self.bytes.push(value);
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Probe<'a>, NotBytes> {
        if self.is_element {
            return Err(NotBytes);
        }
        Ok(Probe {
            is_element: true,
            ..self
        })
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NotBytes> {
        if self.is_element {
            return Err(NotBytes);
        }
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotBytes> {
        if self.is_element {
            return Err(NotBytes);
        }
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), NotBytes> {
        Err(NotBytes)
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<(), NotBytes> {
        Err(NotBytes)
    }

    refused! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_i128(i128) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_u128(u128) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_tuple(usize) -> Refused;
        serialize_tuple_struct(&'static str, usize) -> Refused;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Refused;
        serialize_map(Option<usize>) -> Refused;
        serialize_struct(&'static str, usize) -> Refused;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Refused;
    }
}

impl ser::SerializeSeq for Probe<'_> {
    type Ok = ();
    type Error = NotBytes;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotBytes> {
        value.serialize(Probe {
            bytes: &mut *self.bytes,
            is_element: true,
        })
    }

    fn end(self) -> Result<(), NotBytes> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn only_nonempty_sequences_of_bytes_are_recognized() {
        let bytes: Arc<[u8]> = [1, 255].into();
        assert_eq!(byte_sequence(&bytes), Some(vec![1, 255]));
        assert_eq!(byte_sequence(&Some(vec![7_u8])), Some(vec![7]));
        assert_eq!(byte_sequence(&Vec::<u8>::new()), None);
        assert_eq!(byte_sequence(&None::<Vec<u8>>), None);
        assert_eq!(byte_sequence(&vec![1_u16]), None);
        assert_eq!(byte_sequence(&vec![Some(1_u8)]), None);
        assert_eq!(byte_sequence(&vec![vec![1_u8]]), None);
        assert_eq!(byte_sequence(&(1_u8, 2_u8)), None);
        assert_eq!(byte_sequence(&7_u8), None);
        assert_eq!(byte_sequence("text"), None);
        assert_eq!(byte_sequence(&BTreeMap::from([(1_u8, 2_u8)])), None);
    }
}
