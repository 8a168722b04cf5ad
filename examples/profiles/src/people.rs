//! Generated people, whose data has a realistic size.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

const FIRST_NAMES: [&str; 16] = [
    "Ada", "Bela", "Carmen", "Dmitri", "Elif", "Farid", "Grace", "Hiro", "Ines", "Jonas", "Kofi",
    "Lucia", "Mei", "Nadia", "Omar", "Priya",
];
const LAST_NAMES: [&str; 16] = [
    "Adeyemi", "Brandt", "Costa", "Dubois", "Eriksen", "Fischer", "Garcia", "Horvat", "Ivanov",
    "Jensen", "Kim", "Lopez", "Moreau", "Novak", "Okafor", "Patel",
];
const CITIES: [&str; 12] = [
    "Accra", "Bergen", "Chicago", "Dublin", "Hanoi", "Lima", "Lisbon", "Nairobi", "Osaka",
    "Prague", "Seoul", "Toronto",
];
const SENTENCES: [&str; 10] = [
    "Writes about old bridges and the people who keep them standing.",
    "Spent ten years at sea and has been looking for dry socks ever since.",
    "Teaches mathematics at a night school and plays chess badly by mail.",
    "Collects field recordings of railway stations in the early morning.",
    "Runs a small bakery with two friends and a very demanding sourdough.",
    "Maintains more open source libraries than there are evenings in a week.",
    "Ask me about beekeeping, but only if you have an hour to spare.",
    "Photographs empty cinemas on expired film.",
    "Currently learning to repair accordions; the neighbors are patient.",
    "Opinions are my own and change with the weather.",
];
const BADGES: [&str; 6] = [
    "early bird",
    "moderator",
    "patron",
    "photographer",
    "translator",
    "verified",
];

/// The columns of one person in the tables.
pub struct Person {
    pub name: String,
    pub email: String,
    pub city: &'static str,
    pub bio: String,
    pub followers: u32,
    pub joined: u32,
    pub badges: Vec<&'static str>,
}

impl Person {
    /// Generates a person.
    pub fn random(id: u64, rng: &mut SmallRng) -> Self {
        let (first, last) = (pick(&FIRST_NAMES, rng), pick(&LAST_NAMES, rng));
        let sentences = rng.random_range(3..=7);
        let badges = rng.random_range(0..=3);
        Self {
            name: format!("{first} {last}"),
            email: format!("{first}.{last}.{id}@example.com").to_lowercase(),
            city: pick(&CITIES, rng),
            bio: some(&SENTENCES, sentences, rng).join(" "),
            followers: rng.random_range(0..50_000),
            joined: rng.random_range(2005..=2025),
            badges: some(&BADGES, badges, rng),
        }
    }
}

fn pick(from: &[&'static str], rng: &mut impl Rng) -> &'static str {
    from.choose(rng).expect("the list is not empty")
}

fn some(from: &[&'static str], count: usize, rng: &mut impl Rng) -> Vec<&'static str> {
    from.sample(rng, count).copied().collect()
}
