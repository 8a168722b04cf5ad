//! The primary, the votes of the servers that decide it, and the majority among them. Everything here is pure.

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

/// The vote of a server for a primary.
#[derive(Debug, PartialEq)]
pub(super) struct Vote {
    /// The id of the server that votes.
    pub(super) voter: String,
    pub(super) primary: Primary,
    /// The addresses of all voters that this one knows, itself included, by their ids.
    pub(super) voters: HashMap<String, Address>,
}

/// Returns a vote that a majority of its voters agrees with, if there is one. The number of voters is taken to be at
/// least `min_voters`.
///
/// The primary itself has no vote, because it is another server before a failover than after it. So any two majorities
/// share a voter. Only a primary that is the sole voter is believed.
pub(super) fn majority(votes: &[Vote], min_voters: usize) -> Option<&Vote> {
    votes.iter().find(|vote| {
        let primary = &vote.primary;
        let others = vote.voters.keys().filter(|voter| **voter != primary.id);
        let others = others.count().max(min_voters);
        if others == 0 {
            return vote.voter == primary.id;
        }
        let agreeing = votes
            .iter()
            .filter(|other| other.primary == *primary && vote.voters.contains_key(&other.voter));
        let mut voters: Vec<&str> = agreeing.map(|other| &*other.voter).collect();
        voters.retain(|voter| *voter != primary.id);
        // A server that was asked under two addresses has one vote.
        voters.sort_unstable();
        voters.dedup();
        2 * voters.len() > others
    })
}

/// Parses the vote of a cluster's server on the primary that serves a slot, from `nodes`, its reply to `CLUSTER NODES`.
///
/// `epoch` is the latest epoch that the server knows, and was read before `nodes`. `host` is the host under which it
/// was asked. If `by_name`, addresses contain host names where servers have them, because certificates are issued for
/// names.
pub(super) fn cluster_vote(
    nodes: &str,
    epoch: u64,
    slot: u16,
    host: &str,
    by_name: bool,
) -> Option<Vote> {
    let mut voter = None;
    let mut primary = None;
    let mut voters = HashMap::new();
    for line in nodes.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, address, flags, _, _, _, _, _, slots @ ..] = &words[..] else {
            continue;
        };
        let has = |flag| flags.split(',').any(|other| other == flag);
        if has("myself") {
            voter = Some((*id).to_string());
        }
        let mut ranges = slots.iter().filter_map(|word| parse_range(word)).peekable();
        if !has("master") || ranges.peek().is_none() {
            continue;
        }
        let address = parse_address(address, host, by_name)?;
        voters.insert((*id).to_string(), address.clone());
        if ranges.any(|(first, last)| (first..=last).contains(&slot)) {
            primary = Some(Primary {
                id: (*id).into(),
                address: Some(address),
                term: epoch,
            });
        }
    }
    Some(Vote {
        voter: voter?,
        primary: primary?,
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

    fn vote(voter: &str, primary: &str, term: u64) -> Vote {
        let voters = ["a", "b", "c"].map(|name| (name.into(), name.into()));
        Vote {
            voter: voter.into(),
            primary: Primary {
                id: primary.into(),
                address: None,
                term,
            },
            voters: voters.into(),
        }
    }

    fn elected(votes: &[Vote]) -> Option<String> {
        majority(votes, 0).map(|vote| vote.primary.id.clone())
    }

    #[test]
    fn majority_needs_the_same_primary_and_the_same_term() {
        assert_eq!(elected(&[]), None);
        assert_eq!(elected(&[vote("a", "x", 1)]), None);
        assert_eq!(elected(&[vote("a", "x", 1), vote("b", "x", 2)]), None);
        assert_eq!(elected(&[vote("a", "x", 1), vote("b", "y", 1)]), None);
        // An unknown server has no vote, and no server has two.
        assert_eq!(elected(&[vote("a", "x", 1), vote("d", "x", 1)]), None);
        assert_eq!(elected(&[vote("a", "x", 1), vote("a", "x", 1)]), None);
        let votes = [vote("a", "x", 1), vote("b", "y", 2), vote("c", "y", 2)];
        assert_eq!(elected(&votes), Some("y".into()));
        // There are more voters than these servers know.
        assert!(majority(&votes, 3).is_some());
        assert!(majority(&votes, 4).is_none());
    }

    /// Two of the primaries p, a and b have elected r. One of them, a, knows that r serves the slot. The other one, b,
    /// and p, which has learned the epoch from b, do not know it yet.
    #[test]
    fn two_majorities_of_one_term_share_a_voter() {
        let vote = |voter: &str, primary: &str| Vote {
            voters: [primary, "a", "b"]
                .map(|name| (name.into(), name.into()))
                .into(),
            ..vote(voter, primary, 7)
        };
        let (old, new) = (
            [vote("p", "p"), vote("b", "p")],
            [vote("r", "r"), vote("a", "r")],
        );
        assert_eq!((elected(&old), elected(&new)), (None, None));
        assert_eq!(elected(&[vote("a", "r"), vote("b", "r")]), Some("r".into()));
        let sole = Vote {
            voters: [("p".into(), "p".into())].into(),
            ..vote("p", "p")
        };
        assert_eq!(elected(&[sole]), Some("p".into()));
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
        let of = |slot| cluster_vote(nodes, 9, slot, "here", true).unwrap();
        let vote = of(5460);
        assert_eq!(vote.voter, "e7d1");
        assert_eq!((vote.primary.id.as_str(), vote.primary.term), ("e7d1", 9));
        assert_eq!(vote.primary.address.as_deref(), Some("here:30001"));
        let mut voters: Vec<_> = vote.voters.values().map(String::as_str).collect();
        voters.sort_unstable();
        assert_eq!(voters, ["10.0.0.2:30002", "here:30001", "host3:30003"]);
        let by_address = cluster_vote(nodes, 9, 7, "here", false).unwrap();
        assert_eq!(by_address.voters["292f"], "10.0.0.3:30003");
        assert_eq!(of(7).primary.id, "e7d1");
        assert_eq!(of(16_383).primary.id, "292f");
        assert_eq!(cluster_vote("", 9, 7, "here", true), None);
        assert_eq!(
            cluster_vote("nonsense\nmore nonsense", 9, 7, "here", true),
            None
        );
    }
}
