//! The primaries, the votes of the servers that decide them, and the majority among them. Everything here is pure.

use crate::tiered::l2::redis::url::Address;
use std::collections::HashMap;

/// The primary of a term.
#[derive(Debug, Clone, Default, Eq)]
pub(super) struct Primary {
    /// The name by which voters identify it: its address with sentinels, its node id in a cluster.
    pub(super) id: String,
    pub(super) address: Option<Address>,
    /// The number of the term, which rises with each new primary.
    pub(super) term: u64,
}

/// Compares without the address, because voters may know one server by different addresses.
impl PartialEq for Primary {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.term == other.term
    }
}

/// A primary, and the slots that it serves.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shard {
    pub(super) primary: Primary,
    /// The first and the last slot of each range.
    pub(super) slots: Vec<(u16, u16)>,
}

/// The vote of a server for the primaries.
#[derive(Debug, PartialEq)]
pub(super) struct Vote {
    /// The id of the server that votes.
    pub(super) voter: String,
    /// All primaries that serve slots. With sentinels there is one, which serves all slots.
    pub(super) shards: Vec<Shard>,
    /// The addresses of all voters that this one knows, itself included, by their ids.
    pub(super) voters: HashMap<String, Address>,
}

impl Vote {
    fn shard(&self, has: impl Fn(&Shard) -> bool) -> Option<&Shard> {
        self.shards.iter().find(|shard| has(shard))
    }

    /// Returns the primary that serves a slot.
    fn primary_of(&self, slot: u16) -> Option<&Primary> {
        let serves = |shard: &Shard| {
            let mut ranges = shard.slots.iter();
            ranges.any(|(first, last)| (*first..=*last).contains(&slot))
        };
        self.shard(serves).map(|shard| &shard.primary)
    }

    /// Returns the primary with this id.
    fn primary_with(&self, id: &str) -> Option<&Primary> {
        let shard = self.shard(|shard| shard.primary.id == id);
        shard.map(|shard| &shard.primary)
    }
}

/// The votes of several servers.
#[derive(Debug, Default)]
pub(super) struct Votes {
    votes: Vec<Vote>,
    /// The smallest possible number of voters.
    min_voters: usize,
}

/// The role of a server of a cluster.
#[derive(Debug, PartialEq)]
pub(super) enum Role {
    /// It is a primary, and serves slots.
    Primary(Primary),
    Other,
}

/// The number of voters for a primary, and of all that may vote on it.
struct Count {
    agreeing: usize,
    all: usize,
}

impl Votes {
    /// Creates an empty collection. The number of voters is taken to be at least `min_voters`.
    pub(super) fn new(min_voters: usize) -> Self {
        Self {
            votes: Vec::new(),
            min_voters,
        }
    }

    pub(super) fn add(&mut self, vote: Vote) {
        self.votes.push(vote);
    }

    pub(super) fn len(&self) -> usize {
        self.votes.len()
    }

    /// Returns `true` if all voters that the servers know have voted.
    pub(super) fn are_complete(&self) -> bool {
        let has_voted = |id: &String| self.votes.iter().any(|vote| vote.voter == *id);
        let mut voters = self.votes.iter().flat_map(|vote| vote.voters.keys());
        !self.votes.is_empty() && voters.all(has_voted)
    }

    /// Returns the addresses of all voters that the servers know.
    pub(super) fn voters(&self) -> impl Iterator<Item = &Address> {
        self.votes.iter().flat_map(|vote| vote.voters.values())
    }

    /// Returns the primary of a slot that a majority agrees on, if there is one.
    pub(super) fn primary_of(&self, slot: u16) -> Option<&Primary> {
        self.elected(|vote| vote.primary_of(slot))
    }

    /// Checks whether enough voters say that a primary that a majority has elected for a slot still serves it.
    pub(super) fn confirm(&self, primary: &Primary, slot: u16) -> bool {
        self.have_half(primary, |vote| vote.primary_of(slot) == Some(primary))
    }

    /// Returns what a majority says about the server with this id. `trusted` is the primary with this id that a majority
    /// has elected before.
    pub(super) fn role_of(&self, id: &str, trusted: Option<&Primary>) -> Option<Role> {
        if let Some(primary) = self.elected(|vote| vote.primary_with(id)) {
            return Some(Role::Primary(primary.clone()));
        }
        let is_confirmed = |primary: &&Primary| {
            self.have_half(primary, |vote| vote.primary_with(id) == Some(*primary))
        };
        if let Some(primary) = trusted.filter(is_confirmed) {
            return Some(Role::Primary(primary.clone()));
        }
        let is_other = |vote: &Vote| vote.primary_with(id).is_none();
        let mut votes = self.votes.iter().filter(|vote| is_other(vote));
        let agree = votes.any(|vote| self.count(vote, id, is_other).is_majority());
        agree.then_some(Role::Other)
    }

    /// Returns the choice that a majority agrees on.
    ///
    /// The primary itself has no vote, because it is another server before a failover than after it. So any two
    /// majorities share a voter. Only a primary that is the sole voter is believed.
    fn elected<'a>(
        &'a self,
        choice: impl Fn(&'a Vote) -> Option<&'a Primary>,
    ) -> Option<&'a Primary> {
        self.votes.iter().find_map(|vote| {
            let primary = choice(vote)?;
            let agrees = |other: &'a Vote| choice(other) == Some(primary);
            let is_sole = self.is_sole_voter(vote, &primary.id);
            (is_sole || self.count(vote, &primary.id, agrees).is_majority()).then_some(primary)
        })
    }

    /// Checks whether at least half of the voters agree on a primary that a majority has elected before.
    ///
    /// Half of them suffice, because they share a voter with each majority that elects another primary. So a primary
    /// remains confirmed while another one is dead.
    fn have_half(&self, primary: &Primary, agrees: impl Fn(&Vote) -> bool) -> bool {
        self.votes.iter().filter(|vote| agrees(vote)).any(|vote| {
            self.is_sole_voter(vote, &primary.id)
                || self.count(vote, &primary.id, &agrees).is_half()
        })
    }

    /// Checks whether a vote is that of the primary `id` itself, which knows no other voter.
    fn is_sole_voter(&self, vote: &Vote, id: &str) -> bool {
        self.others(vote, id) == 0 && vote.voter == id
    }

    /// Returns the number of voters except for the primary `id`, as the voter of this vote knows them.
    fn others(&self, vote: &Vote, id: &str) -> usize {
        let others = vote.voters.keys().filter(|voter| **voter != id);
        others.count().max(self.min_voters)
    }

    /// Counts the voters that agree on something about the primary `id`, among those that the voter of `vote` knows.
    fn count<'a>(&'a self, vote: &Vote, id: &str, agrees: impl Fn(&'a Vote) -> bool) -> Count {
        let is_voter = |other: &&Vote| vote.voters.contains_key(&other.voter) && other.voter != id;
        let agreeing = self.votes.iter().filter(|other| agrees(other));
        let mut voters: Vec<&str> = agreeing.filter(is_voter).map(|it| &*it.voter).collect();
        // A server that was asked under two addresses has one vote.
        voters.sort_unstable();
        voters.dedup();
        Count {
            agreeing: voters.len(),
            all: self.others(vote, id),
        }
    }
}

impl Count {
    fn is_majority(&self) -> bool {
        2 * self.agreeing > self.all
    }

    fn is_half(&self) -> bool {
        self.agreeing > 0 && 2 * self.agreeing >= self.all
    }
}

/// Parses the vote of a cluster's server from `nodes`, its reply to `CLUSTER NODES`.
///
/// `host` is the host under which it was asked. If `by_name`, addresses contain host names where servers have them,
/// because certificates are issued for names.
pub(super) fn cluster_vote(nodes: &str, host: &str, by_name: bool) -> Option<Vote> {
    let mut voter = None;
    let mut shards = Vec::new();
    let mut voters = HashMap::new();
    for line in nodes.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, address, flags, _, _, _, epoch, _, slots @ ..] = &words[..] else {
            continue;
        };
        let has = |flag| flags.split(',').any(|other| other == flag);
        if has("myself") {
            voter = Some((*id).to_string());
        }
        let slots: Vec<_> = slots.iter().filter_map(|word| parse_range(word)).collect();
        if !has("master") || slots.is_empty() {
            continue;
        }
        let address = parse_address(address, host, by_name)?;
        voters.insert((*id).to_string(), address.clone());
        let primary = Primary {
            id: (*id).into(),
            address: Some(address),
            // The epoch of the server. That of the cluster also rises when other slots move.
            term: epoch.parse().ok()?,
        };
        shards.push(Shard { primary, slots });
    }
    Some(Vote {
        voter: voter?,
        shards,
        voters,
    })
}

/// Parses a range of slots that a server serves. Returns `None` for a slot that is migrating, which is in brackets.
fn parse_range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Parses an address of the form `ip:port@cport[,hostname[,..]]`. `host` replaces the IP of a server that does not know
/// its own.
fn parse_address(address: &str, host: &str, by_name: bool) -> Option<Address> {
    let mut parts = address.split(',');
    let (ip, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
    let is_name = |name: &&str| !name.is_empty() && !name.contains('=');
    let name = parts.next().filter(|name| by_name && is_name(name));
    let host = name.unwrap_or(if ip.is_empty() { host } else { ip });
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const SLOT: u16 = 7;

    fn primary(id: &str, term: u64) -> Primary {
        Primary {
            id: id.into(),
            address: None,
            term,
        }
    }

    /// Returns the vote for a primary that serves all slots, of a server that knows the voters a, b and c.
    fn vote(voter: &str, id: &str, term: u64) -> Vote {
        let voters = ["a", "b", "c"].map(|name| (name.into(), name.into()));
        Vote {
            voter: voter.into(),
            shards: vec![Shard {
                primary: primary(id, term),
                slots: vec![(0, 16_383)],
            }],
            voters: voters.into(),
        }
    }

    fn votes(votes: impl IntoIterator<Item = Vote>) -> Votes {
        Votes {
            votes: votes.into_iter().collect(),
            min_voters: 0,
        }
    }

    fn elected(all: impl IntoIterator<Item = Vote>) -> Option<String> {
        votes(all).primary_of(SLOT).map(|it| it.id.clone())
    }

    #[test]
    fn majority_needs_the_same_primary_and_the_same_term() {
        assert_eq!(elected([]), None);
        assert_eq!(elected([vote("a", "x", 1)]), None);
        assert_eq!(elected([vote("a", "x", 1), vote("b", "x", 2)]), None);
        assert_eq!(elected([vote("a", "x", 1), vote("b", "y", 1)]), None);
        // An unknown server has no vote, and no server has two.
        assert_eq!(elected([vote("a", "x", 1), vote("d", "x", 1)]), None);
        assert_eq!(elected([vote("a", "x", 1), vote("a", "x", 1)]), None);
        let all = || [vote("a", "x", 1), vote("b", "y", 2), vote("c", "y", 2)];
        assert_eq!(elected(all()), Some("y".into()));
        // There are more voters than these servers know.
        let mut votes = votes(all());
        votes.min_voters = 3;
        assert!(votes.primary_of(SLOT).is_some());
        votes.min_voters = 4;
        assert!(votes.primary_of(SLOT).is_none());
    }

    /// Returns the vote of one of the servers `primary`, a and b, which are the voters.
    fn vote_among_three(voter: &str, primary: &str, term: u64) -> Vote {
        Vote {
            voters: [primary, "a", "b"]
                .map(|name| (name.into(), name.into()))
                .into(),
            ..vote(voter, primary, term)
        }
    }

    /// Two of the primaries p, a and b have elected r. One of them, a, knows that r serves the slot. The other one, b,
    /// and p do not know it yet.
    #[test]
    fn two_majorities_of_one_term_share_a_voter() {
        let vote = |voter: &str, primary: &str| vote_among_three(voter, primary, 7);
        assert_eq!(elected([vote("p", "p"), vote("b", "p")]), None);
        assert_eq!(elected([vote("r", "r"), vote("a", "r")]), None);
        assert_eq!(elected([vote("a", "r"), vote("b", "r")]), Some("r".into()));
        let sole = Vote {
            voters: [("p".into(), "p".into())].into(),
            ..vote("p", "p")
        };
        assert_eq!(elected([sole]), Some("p".into()));
    }

    #[test]
    fn primary_remains_confirmed_while_one_of_two_other_voters_is_dead() {
        let p = primary("p", 1);
        let confirms = |all: Vec<Vote>| votes(all).confirm(&p, SLOT);
        assert!(!confirms(vec![]));
        assert!(confirms(vec![vote_among_three("b", "p", 1)]));
        // Neither the primary itself, nor a vote for another term, nor one for another primary confirms it.
        assert!(!confirms(vec![vote_among_three("p", "p", 1)]));
        assert!(!confirms(vec![vote_among_three("b", "p", 2)]));
        assert!(!confirms(vec![vote_among_three("b", "r", 2)]));
        let with = |all: Vec<Vote>, trusted| votes(all).role_of("p", trusted);
        let one = || vec![vote_among_three("b", "p", 1)];
        assert_eq!(with(one(), None), None);
        assert_eq!(with(one(), Some(&p)), Some(Role::Primary(p.clone())));
        // It is replaced by majority.
        let replaced = |voter| vote_among_three(voter, "r", 2);
        assert_eq!(with(vec![replaced("a")], Some(&p)), None);
        let all = vec![replaced("a"), replaced("b")];
        assert_eq!(with(all, Some(&p)), Some(Role::Other));
        let next = |voter| vote_among_three(voter, "p", 3);
        let all = vec![next("a"), next("b")];
        assert_eq!(with(all, Some(&p)), Some(Role::Primary(primary("p", 3))));
    }

    /// A voter: the time at which it learns of the new primary, and the times at which it is asked for the election and,
    /// after that, for the confirmation, if it answers.
    type Times = (u32, Option<u32>, Option<u32>);

    fn times() -> impl Strategy<Value = Times> {
        let election = proptest::option::weighted(0.8, 0..20_u32);
        let confirmation = proptest::option::weighted(0.8, 20..40_u32);
        (0..45_u32, election, confirmation)
    }

    proptest! {
        /// Voters learn of a new primary at any times, and never return to the old one.
        #[test]
        fn old_primary_is_not_confirmed_after_a_majority_has_elected_another(
            times in vec(times(), 1..8),
        ) {
            let name = |voter: usize| format!("voter {voter}");
            let count = times.len();
            let asked = |time: fn(&Times) -> Option<u32>| {
                votes(times.iter().enumerate().filter_map(|(voter, times)| {
                    let knows = time(times)? >= times.0;
                    let (id, term) = if knows { ("new", 2) } else { ("old", 1) };
                    let mut vote = vote(&name(voter), id, term);
                    vote.voters = (0..count).map(|it| (name(it), String::new())).collect();
                    Some(vote)
                }))
            };
            let is_elected = asked(|it| it.1).primary_of(SLOT) == Some(&primary("new", 2));
            let is_confirmed = asked(|it| it.2).confirm(&primary("old", 1), SLOT);
            prop_assert!(!(is_elected && is_confirmed));
        }
    }

    #[test]
    fn vote_is_parsed_from_cluster_nodes() {
        let nodes = "\
07c3 127.0.0.1:30004@31004,host4 slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:30002@31002,,shard-id=x master - 0 1426238316232 2 connected 5461-10922 [7-<-e7d1]
292f 10.0.0.3:30003@31003,host3 master,fail - 0 1426238318243 3 connected 10923-16383
6ec2 10.0.0.4:30005@31005 master - 0 1426238318243 3 connected
e7d1 :30001@31001,,tls-port=0 myself,master - 0 0 1 connected 0-5459 5460 [7->-67ed]
";
        let vote = cluster_vote(nodes, "here", true).unwrap();
        let of = |slot| vote.primary_of(slot).unwrap();
        assert_eq!(vote.voter, "e7d1");
        assert_eq!(*of(5460), primary("e7d1", 1));
        assert_eq!(of(5460).address.as_deref(), Some("here:30001"));
        assert_eq!(*of(7), primary("e7d1", 1));
        assert_eq!(*of(16_383), primary("292f", 3));
        assert_eq!(vote.primary_with("67ed"), Some(&primary("67ed", 2)));
        assert_eq!(vote.primary_with("6ec2"), None);
        let mut voters: Vec<_> = vote.voters.values().map(String::as_str).collect();
        voters.sort_unstable();
        assert_eq!(voters, ["10.0.0.2:30002", "here:30001", "host3:30003"]);
        let by_address = cluster_vote(nodes, "here", false).unwrap();
        assert_eq!(by_address.voters["292f"], "10.0.0.3:30003");
        assert_eq!(cluster_vote("", "here", true), None);
        assert_eq!(cluster_vote("nonsense\nmore nonsense", "here", true), None);
    }
}
