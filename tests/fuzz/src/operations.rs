//! Sequences of operations on a cache, compared with the model of the tests.

use crate::model::{Bound, Key, Load, Model, Op, Setup};
use arbitrary::{Arbitrary, Result, Unstructured};
use hotset::Policy;

/// Maximum number of operations of an input.
const MAX_OPS: usize = 400;

/// Checks that a cache does what the model does.
///
/// # Panics
///
/// Panics if the input shows a fault.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok(setup) = setup(&mut bytes) else {
        return;
    };
    let mut ops = Vec::new();
    while !bytes.is_empty() && ops.len() < MAX_OPS {
        // An operation that the end of the input cuts off ends the run.
        let Ok(op) = op(&mut bytes, &setup) else {
            break;
        };
        ops.push(op);
    }
    Model::run(&setup, &ops);
}

fn setup(bytes: &mut Unstructured<'_>) -> Result<Setup> {
    let policies = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];
    let policy = *bytes.choose(&policies)?;
    let size = u64::from(u8::arbitrary(bytes)?);
    let bound = if bytes.ratio(1, 3)? {
        Bound::Weight(size + 1)
    } else {
        Bound::Entries(size % 64 + 1)
    };
    Ok(Setup {
        policy,
        bound,
        time_to_live: lifetime(bytes)?,
        time_to_idle: lifetime(bytes)?,
        keys: bytes.int_in_range(1..=120)?,
        large: false,
    })
}

/// Returns a setting of the cache, from 1 to 400 ns.
fn lifetime(bytes: &mut Unstructured<'_>) -> Result<Option<u64>> {
    let time: u64 = bytes.int_in_range(0..=800)?;
    Ok((1..=400).contains(&time).then_some(time))
}

fn load(bytes: &mut Unstructured<'_>, setup: &Setup) -> Result<Load> {
    Ok(Load {
        weight: weight(bytes, setup)?,
        own_weight: bool::arbitrary(bytes)?
            .then(|| weight(bytes, setup))
            .transpose()?,
        ttl: bool::arbitrary(bytes)?.then(|| ttl(bytes)).transpose()?,
        tags: u8::arbitrary(bytes)?,
    })
}

/// Returns a weight that usually fits into the bound.
fn weight(bytes: &mut Unstructured<'_>, setup: &Setup) -> Result<u64> {
    let (Bound::Entries(budget) | Bound::Weight(budget)) = setup.bound;
    let weight = u64::from(u8::arbitrary(bytes)?);
    Ok(if weight < 240 {
        weight * budget / 2_000
    } else {
        weight
    })
}

/// Returns a time to live: short, unlimited, or any number.
fn ttl(bytes: &mut Unstructured<'_>) -> Result<u64> {
    match u8::arbitrary(bytes)? {
        0 => u64::arbitrary(bytes),
        1..=60 => Ok(u64::MAX),
        short => Ok(u64::from(short - 61) * 2),
    }
}

fn key(bytes: &mut Unstructured<'_>, setup: &Setup) -> Result<Key> {
    bytes.int_in_range(0..=setup.keys - 1)
}

fn op(bytes: &mut Unstructured<'_>, setup: &Setup) -> Result<Op> {
    let kind = bytes.int_in_range(0..=23)?;
    let mut key = || key(bytes, setup);
    Ok(match kind {
        0..=2 => Op::Insert(key()?, weight(bytes, setup)?),
        3 => Op::InsertWithTtl(key()?, weight(bytes, setup)?, ttl(bytes)?),
        4 => Op::InsertLoaded(key()?, load(bytes, setup)?),
        5..=7 => Op::Get(key()?),
        8 => Op::GetWith(key()?),
        9 => Op::Peek(key()?),
        10 => Op::GetOrLoad(key()?, Some(load(bytes, setup)?)),
        11 => Op::GetOrLoad(key()?, None),
        12 => Op::Remove(key()?),
        13 => Op::Update(key()?, Some(weight(bytes, setup)?)),
        14 => Op::Update(key()?, None),
        15 => Op::Keep(key()?),
        16 => Op::Refresh(key()?, Some(weight(bytes, setup)?)),
        17 => Op::SetTtl(key()?, ttl(bytes)?),
        18 => Op::Resize(bytes.int_in_range(0..=200)?),
        19 => Op::Retain(bytes.int_in_range(0..=setup.keys)?),
        20 => Op::InvalidateTag(bytes.int_in_range(0..=7)?),
        21 => match bytes.int_in_range(0..=5)? {
            0 => Op::Clear,
            1 => Op::Refresh(self::key(bytes, setup)?, None),
            _ => Op::EvictExpired,
        },
        22 => Op::Advance(u64::from(u8::arbitrary(bytes)?) * 2),
        _ => Op::SetBack(u64::from(u8::arbitrary(bytes)?) / 16),
    })
}
