//! Processor time by process, as Linux counts it.

use std::fs;
use std::ops::{AddAssign, Sub};
use std::process;
use std::time::Duration;

/// The ids of the measured processes, besides this one.
pub(crate) struct Processes {
    pub(crate) shops: Vec<u32>,
    pub(crate) redis: u32,
    /// The parent of the processes that serve clients.
    pub(crate) postgres: u32,
}

/// The processor time of all threads.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) clients: Duration,
    pub(crate) shops: Duration,
    pub(crate) redis: Duration,
    pub(crate) postgres: Duration,
}

impl Processes {
    /// Returns the processor time used so far, or `None` if the system does not provide it.
    pub(crate) fn used(&self) -> Option<Cpu> {
        let shops = self
            .shops
            .iter()
            .map(|&shop| Some(Process::read(shop)?.own));
        let postgres = Process::read(self.postgres)?;
        let servers = fs::read_dir("/proc").ok()?.flatten();
        let servers = servers
            .filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
            .filter(|process| process.parent == self.postgres);
        let servers: Duration = servers.map(|process| process.own).sum();
        Some(Cpu {
            clients: Process::read(process::id())?.own,
            shops: shops.sum::<Option<_>>()?,
            redis: Process::read(self.redis)?.own,
            postgres: postgres.own + postgres.ended_children + servers,
        })
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            clients: self.clients.saturating_sub(before.clients),
            shops: self.shops.saturating_sub(before.shops),
            redis: self.redis.saturating_sub(before.redis),
            postgres: self.postgres.saturating_sub(before.postgres),
        }
    }
}

impl AddAssign for Cpu {
    fn add_assign(&mut self, other: Self) {
        self.clients += other.clients;
        self.shops += other.shops;
        self.redis += other.redis;
        self.postgres += other.postgres;
    }
}

struct Process {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

impl Process {
    fn read(id: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// Parses the fields described in proc(5). They are counted after the name, which may contain any character.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Linux reports ticks of 10 ms on all architectures.
        let ticks = |field: usize| fields.get(field)?.parse().ok().map(|ticks: u64| ticks * 10);
        let both = |field| Some(Duration::from_millis(ticks(field)? + ticks(field + 1)?));
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: both(11)?,
            ended_children: both(13)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line_with_parentheses_in_the_name_is_parsed() {
        let stat = "7 (a ) b) S 3 7 7 0 -1 4 5 6 7 8 100 20 3 4 20 0 1 0 99";
        let process = Process::parse(stat).unwrap();
        assert_eq!(process.parent, 3);
        assert_eq!(process.own, Duration::from_millis(1_200));
        assert_eq!(process.ended_children, Duration::from_millis(70));
    }
}
