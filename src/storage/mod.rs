//! Storage that grows in small steps, the size of allocated memory, and the limit on the number of slots that a call
//! visits under one hold of a shard's lock.

pub(crate) mod allocated;
pub(crate) mod column;
pub(crate) mod index;
pub(crate) mod slot_table;
pub(crate) mod work_slice;
