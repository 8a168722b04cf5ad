//! The records of the shop and their queries. Statements are valid for SQLite and PostgreSQL. Parameters are numbered
//! in the order of their appearance, because SQLite assigns values in this order.

use crate::AnyError;
use crate::snapshots::Stored;
use serde::{Deserialize, Serialize};

pub(crate) type Id = i64;

/// A row of either database.
pub(crate) trait Row {
    fn number(&self, column: usize) -> Result<i64, AnyError>;
    fn text(&self, column: usize) -> Result<String, AnyError>;
}

/// A type that is read from a row.
pub(crate) trait FromRow: Send + Sized + 'static {
    fn from_row(row: &impl Row) -> Result<Self, AnyError>;
}

/// A record with an id.
pub(crate) trait Record: FromRow + Stored + Serialize + Sync {
    /// The query for records. `$1` is one id or a list of ids.
    const QUERY: &str;

    fn id(&self) -> Id;
}

/// A record whose number changes, and whose version rises with each change.
pub(crate) trait Versioned: Record + Copy {
    /// The statement that sets the number of id `$2` to `$1` if its version is `$3`.
    const CHANGE: &str;

    fn number(&self) -> i64;
    fn version(&self) -> i64;

    /// Returns the next version of the record, with another number.
    fn changed(self, number: i64) -> Self;
}

/// The data of a product page, except price and stock.
#[derive(Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) reviews: i64,
    /// The average rating, in hundredths of a star.
    pub(crate) stars: i64,
    pub(crate) best_review: String,
}

impl FromRow for Product {
    fn from_row(row: &impl Row) -> Result<Self, AnyError> {
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

/// The list of best sellers on the home page.
#[derive(Serialize, Deserialize)]
pub(crate) struct Home {
    pub(crate) products: Vec<ListedProduct>,
}

/// A product in the list of best sellers.
#[derive(Serialize, Deserialize)]
pub(crate) struct ListedProduct {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) category: String,
    /// The average rating, in hundredths of a star.
    pub(crate) stars: i64,
}

impl ListedProduct {
    /// The query for the `$1` products with the most sales.
    pub(crate) const QUERY: &str = "\
        SELECT p.id, p.name, c.name, \
            CAST(coalesce((SELECT avg(r.stars) FROM reviews r WHERE r.product = p.id) * 100, 0) \
                AS BIGINT) \
        FROM products p JOIN categories c ON c.id = p.category \
        ORDER BY p.sold DESC, p.id LIMIT $1";
}

impl FromRow for ListedProduct {
    fn from_row(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            id: row.number(0)?,
            name: row.text(1)?,
            category: row.text(2)?,
            stars: row.number(3)?,
        })
    }
}

/// A product on the home page, with price and stock.
pub(crate) struct Offer {
    pub(crate) product: ListedProduct,
    pub(crate) cents: i64,
    /// The number of items in stock.
    pub(crate) left: i64,
}

impl Offer {
    /// The query for the `$1` products with the most sales.
    pub(crate) const QUERY: &str = "\
        SELECT p.id, p.name, c.name, \
            CAST(coalesce((SELECT avg(r.stars) FROM reviews r WHERE r.product = p.id) * 100, 0) \
                AS BIGINT), m.cents, s.count \
        FROM products p JOIN categories c ON c.id = p.category \
            JOIN prices m ON m.product = p.id JOIN stock s ON s.product = p.id \
        ORDER BY p.sold DESC, p.id LIMIT $1";
}

impl FromRow for Offer {
    fn from_row(row: &impl Row) -> Result<Self, AnyError> {
        Ok(Self {
            product: ListedProduct::from_row(row)?,
            cents: row.number(4)?,
            left: row.number(5)?,
        })
    }
}

/// A customer.
#[derive(Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) city: String,
    pub(crate) reviews: i64,
}

impl FromRow for Profile {
    fn from_row(row: &impl Row) -> Result<Self, AnyError> {
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

/// The session of a customer who is logged in, with the number of items in the basket.
#[derive(Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) id: Id,
    pub(crate) profile: Id,
    pub(crate) name: String,
    pub(crate) basket: i64,
}

impl FromRow for Session {
    fn from_row(row: &impl Row) -> Result<Self, AnyError> {
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
            /// The version, which the database increments with each change.
            version: i64,
        }

        impl FromRow for $name {
            fn from_row(row: &impl Row) -> Result<Self, AnyError> {
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
// `count` is also the name of an SQL function, but it is valid as the name of a column.
versioned!(Stock, count, "stock");
