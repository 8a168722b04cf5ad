//! Storage that grows in small steps, and the limit on the number of slots that a call visits under one hold of a
//! shard's lock.

pub(crate) mod column;
pub(crate) mod index;
pub(crate) mod work_slice;
