//! What the shop sells and knows, and how it is queried. Statements are such as SQLite and PostgreSQL
//! both take; parameters are numbered in the order in which they appear, which SQLite counts by.

use crate::AnyError;
use crate::snapshots::Stored;
use serde::{Deserialize, Serialize};

pub(crate) type Id = i64;

/// A row of either database.
pub(crate) trait Row {
    fn number(&self, column: usize) -> Result<i64, AnyError>;
    fn text(&self, column: usize) -> Result<String, AnyError>;
}

/// What a query finds.
pub(crate) trait Found: Send + Sized + 'static {
    fn read(row: &impl Row) -> Result<Self, AnyError>;
}

/// What is looked up by its id.
pub(crate) trait Record: Found + Stored + Serialize + Sync {
    /// `$1` is the id, or several of them.
    const QUERY: &str;

    fn id(&self) -> Id;
}

/// What changes while it is served.
pub(crate) trait Versioned: Record + Copy {
    /// Sets the number `$1` of id `$2` if its version is `$3` still.
    const CHANGE: &str;

    fn number(&self) -> i64;
    fn version(&self) -> i64;

    /// The next version of it.
    fn changed(self, number: i64) -> Self;
}

/// All that a product's page shows, but for what changes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) reviews: i64,
    /// Hundredths, on average.
    pub(crate) stars: i64,
    pub(crate) best_review: String,
}

impl Found for Product {
    fn read(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            id: row.number(0)?,
            name: row.text(1)?,
            description: row.text(2)?,
            category: row.text(3)?,
            reviews: row.number(4)?,
            stars: row.number(5)?,
            best_review: row.text(6)?,
        })
    }
}

impl Record for Product {
    const QUERY: &str = "\
        SELECT p.id, p.name, p.description, c.name, count(r.id), \
            CAST(coalesce(avg(r.stars) * 100, 0) AS BIGINT), \
            coalesce((SELECT b.words FROM reviews b WHERE b.product = p.id \
                ORDER BY b.stars DESC, b.id LIMIT 1), '') \
        FROM products p JOIN categories c ON c.id = p.category \
            LEFT JOIN reviews r ON r.product = p.id \
        WHERE p.id IN ($1) GROUP BY p.id, c.name";

    fn id(&self) -> Id {
        self.id
    }
}

/// What sells best, for the home page.
#[derive(Serialize, Deserialize)]
pub(crate) struct Home {
    pub(crate) products: Vec<Listed>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) category: String,
    /// Hundredths, on average.
    pub(crate) stars: i64,
}

impl Listed {
    /// The first `$1`.
    pub(crate) const QUERY: &str = "\
        SELECT p.id, p.name, c.name, \
            CAST(coalesce((SELECT avg(r.stars) FROM reviews r WHERE r.product = p.id) * 100, 0) \
                AS BIGINT) \
        FROM products p JOIN categories c ON c.id = p.category \
        ORDER BY p.sold DESC, p.id LIMIT $1";
}

impl Found for Listed {
    fn read(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            id: row.number(0)?,
            name: row.text(1)?,
            category: row.text(2)?,
            stars: row.number(3)?,
        })
    }
}

/// What the home page shows of a product.
pub(crate) struct Offer {
    pub(crate) product: Listed,
    pub(crate) cents: i64,
    pub(crate) left: i64,
}

impl Offer {
    /// The first `$1`.
    pub(crate) const QUERY: &str = "\
        SELECT p.id, p.name, c.name, \
            CAST(coalesce((SELECT avg(r.stars) FROM reviews r WHERE r.product = p.id) * 100, 0) \
                AS BIGINT), m.cents, s.count \
        FROM products p JOIN categories c ON c.id = p.category \
            JOIN prices m ON m.product = p.id JOIN stock s ON s.product = p.id \
        ORDER BY p.sold DESC, p.id LIMIT $1";
}

impl Found for Offer {
    fn read(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            product: Listed::read(row)?,
            cents: row.number(4)?,
            left: row.number(5)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) city: String,
    pub(crate) reviews: i64,
}

impl Found for Profile {
    fn read(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            id: row.number(0)?,
            name: row.text(1)?,
            city: row.text(2)?,
            reviews: row.number(3)?,
        })
    }
}

impl Record for Profile {
    const QUERY: &str = "\
        SELECT p.id, p.name, p.city, count(r.id) \
        FROM profiles p LEFT JOIN reviews r ON r.author = p.id \
        WHERE p.id IN ($1) GROUP BY p.id";

    fn id(&self) -> Id {
        self.id
    }
}

/// Who is logged in, and has what in the basket.
#[derive(Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) id: Id,
    pub(crate) profile: Id,
    pub(crate) name: String,
    pub(crate) basket: i64,
}

impl Found for Session {
    fn read(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            id: row.number(0)?,
            profile: row.number(1)?,
            name: row.text(2)?,
            basket: row.number(3)?,
        })
    }
}

impl Record for Session {
    const QUERY: &str = "\
        SELECT s.id, s.profile, p.name, s.basket \
        FROM sessions s JOIN profiles p ON p.id = s.profile WHERE s.id IN ($1)";

    fn id(&self) -> Id {
        self.id
    }
}

macro_rules! versioned {
    ($name:ident, $number:ident, $table:literal) => {
        #[derive(Clone, Copy, Serialize, Deserialize)]
        pub(crate) struct $name {
            id: Id,
            $number: i64,
            /// Given by the database: it rises with each change.
            version: i64,
        }

        impl Found for $name {
            fn read(row: &impl Row) -> Result<Self, AnyError> {
                Ok(Self {
                    id: row.number(0)?,
                    $number: row.number(1)?,
                    version: row.number(2)?,
                })
            }
        }

        impl Record for $name {
            const QUERY: &str = concat!(
                "SELECT product, ",
                stringify!($number),
                ", version FROM ",
                $table,
                " WHERE product IN ($1)"
            );

            fn id(&self) -> Id {
                self.id
            }
        }

        impl Versioned for $name {
            const CHANGE: &str = concat!(
                "UPDATE ",
                $table,
                " SET ",
                stringify!($number),
                " = $1, version = version + 1 WHERE product = $2 AND version = $3"
            );

            fn number(&self) -> i64 {
                self.$number
            }

            fn version(&self) -> i64 {
                self.version
            }

            fn changed(mut self, number: i64) -> Self {
                self.$number = number;
                self.version += 1;
                self
            }
        }
    };
}

versioned!(Price, cents, "prices");
// `count` is a function, but a column's name as well.
versioned!(Stock, count, "stock");
