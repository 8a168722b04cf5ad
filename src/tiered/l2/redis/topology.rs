//! Which server is the primary, as those who decide it see it: a majority that is pure.

use crate::tiered::l2::redis::url::Address;
use std::collections::HashMap;

/// The primary of a term.
#[derive(Debug, Clone, Default, Eq)]
pub(crate) struct Primary {
    /// What those who decide call it.
    pub(crate) id: String,
    pub(crate) address: Option<Address>,
    /// Rises with each new primary.
    pub(crate) term: u64,
}

/// Nobody calls its address alike.
impl PartialEq for Primary {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.term == other.term
    }
}

/// What one of those who decide says.
#[derive(Debug, PartialEq)]
pub(crate) struct View {
    /// Who says it.
    pub(crate) by: String,
    pub(crate) primary: Primary,
    /// Of all who decide, as far as it knows, by what they are called, and where they are.
    pub(crate) voters: HashMap<String, Address>,
}

/// What a majority says of those who decide, by its own word, and at least of so many.
///
/// The primary itself has no voice, since it is another one before a failover than after: so that any
/// two majorities share a voter. Only where it is all alone it is believed.
pub(crate) fn agreed(views: &[View], least: usize) -> Option<&View> {
    views.iter().find(|view| {
        let primary = &view.primary;
        let others = view.voters.keys().filter(|voter| **voter != primary.id);
        let others = others.count().max(least);
        if others == 0 {
            return view.by == primary.id;
        }
        let agree = views
            .iter()
            .filter(|other| other.primary == *primary && view.voters.contains_key(&other.by));
        // One who was asked under two addresses has one voice.
        let mut voices: Vec<&str> = agree.map(|other| &*other.by).collect();
        voices.retain(|voter| *voter != primary.id);
        voices.sort_unstable();
        voices.dedup();
        2 * voices.len() > others
    })
}

/// The view of a cluster's server on who serves a slot. `epoch` is the last of which it knows, learnt
/// before `nodes`, the reply to `CLUSTER NODES`; `host` is where it was asked. Servers are called by
/// their names, if they have any, where certificates are of names.
pub(crate) fn view_of_cluster(
    nodes: &str,
    epoch: u64,
    slot: u16,
    host: &str,
    by_name: bool,
) -> Option<View> {
    let mut by = None;
    let mut primary = None;
    let mut voters = HashMap::new();
    for line in nodes.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, address, flags, _, _, _, _, _, slots @ ..] = &words[..] else {
            continue;
        };
        let has = |flag| flags.split(',').any(|other| other == flag);
        if has("myself") {
            by = Some((*id).to_string());
        }
        let mut ranges = slots.iter().filter_map(|word| range(word)).peekable();
        if !has("master") || ranges.peek().is_none() {
            continue;
        }
        let address = address_of(address, host, by_name)?;
        voters.insert((*id).to_string(), address.clone());
        if ranges.any(|(first, last)| (first..=last).contains(&slot)) {
            primary = Some(Primary {
                id: (*id).into(),
                address: Some(address),
                term: epoch,
            });
        }
    }
    Some(View {
        by: by?,
        primary: primary?,
        voters,
    })
}

/// Slots that are served. Those on their way, in brackets, are none.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Of `ip:port@cport[,hostname[,..]]`. A server that does not know its own IP is where it was asked.
fn address_of(address: &str, host: &str, by_name: bool) -> Option<Address> {
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

    fn view(by: &str, primary: &str, term: u64) -> View {
        let voters = ["a", "b", "c"].map(|name| (name.into(), name.into()));
        View {
            by: by.into(),
            primary: Primary {
                id: primary.into(),
                address: None,
                term,
            },
            voters: voters.into(),
        }
    }

    fn agreed(views: &[View]) -> Option<String> {
        crate::tiered::l2::redis::topology::agreed(views, 0).map(|view| view.primary.id.clone())
    }

    #[test]
    fn a_majority_says_the_same_of_the_same_term() {
        assert_eq!(agreed(&[]), None);
        assert_eq!(agreed(&[view("a", "x", 1)]), None);
        assert_eq!(agreed(&[view("a", "x", 1), view("b", "x", 2)]), None);
        assert_eq!(agreed(&[view("a", "x", 1), view("b", "y", 1)]), None);
        // A stranger has no voice, and nobody has two.
        assert_eq!(agreed(&[view("a", "x", 1), view("d", "x", 1)]), None);
        assert_eq!(agreed(&[view("a", "x", 1), view("a", "x", 1)]), None);
        let views = [view("a", "x", 1), view("b", "y", 2), view("c", "y", 2)];
        assert_eq!(agreed(&views), Some("y".into()));
        // There are more than these know of.
        assert!(
            crate::tiered::l2::redis::topology::agreed(&views, 3).is_some()
                && crate::tiered::l2::redis::topology::agreed(&views, 4).is_none()
        );
    }

    /// Of the primaries p, a and b, a and b have voted for r. a has heard that it serves the slot; b, and
    /// p, which has heard of the epoch from b, have not yet.
    #[test]
    fn two_majorities_of_one_term_share_a_voter() {
        let view = |by: &str, primary: &str| View {
            voters: [primary, "a", "b"]
                .map(|name| (name.into(), name.into()))
                .into(),
            ..view(by, primary, 7)
        };
        let (old, new) = (
            [view("p", "p"), view("b", "p")],
            [view("r", "r"), view("a", "r")],
        );
        assert_eq!((agreed(&old), agreed(&new)), (None, None));
        assert_eq!(agreed(&[view("a", "r"), view("b", "r")]), Some("r".into()));
        let alone = View {
            voters: [("p".into(), "p".into())].into(),
            ..view("p", "p")
        };
        assert_eq!(agreed(&[alone]), Some("p".into()));
    }

    #[test]
    fn views_are_read_from_cluster_nodes() {
        let nodes = "\
07c3 127.0.0.1:30004@31004,host4 slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:30002@31002,,shard-id=x master - 0 1426238316232 2 connected 5461-10922 [7-<-e7d1]
292f 10.0.0.3:30003@31003,host3 master,fail - 0 1426238318243 3 connected 10923-16383
6ec2 10.0.0.4:30005@31005 master - 0 1426238318243 3 connected
e7d1 :30001@31001,,tls-port=0 myself,master - 0 0 1 connected 0-5459 5460 [7->-67ed]
";
        let of = |slot| view_of_cluster(nodes, 9, slot, "here", true).unwrap();
        let view = of(5460);
        assert_eq!(view.by, "e7d1");
        assert_eq!((view.primary.id.as_str(), view.primary.term), ("e7d1", 9));
        assert_eq!(view.primary.address.as_deref(), Some("here:30001"));
        let mut voters: Vec<_> = view.voters.values().map(String::as_str).collect();
        voters.sort_unstable();
        assert_eq!(voters, ["10.0.0.2:30002", "here:30001", "host3:30003"]);
        let by_address = view_of_cluster(nodes, 9, 7, "here", false).unwrap();
        assert_eq!(by_address.voters["292f"], "10.0.0.3:30003");
        assert_eq!(of(7).primary.id, "e7d1");
        assert_eq!(of(16_383).primary.id, "292f");
        assert_eq!(view_of_cluster("", 9, 7, "here", true), None);
        assert_eq!(
            view_of_cluster("nonsense\nmore nonsense", 9, 7, "here", true),
            None
        );
    }
}
