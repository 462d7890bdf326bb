//! The fault catalogue of protocol section 3 as a table: fault, injection, expectation, and where it runs.
//!
//! No row is skipped in silence: a row without a run of its own says why.

mod data;
mod life;
pub mod row;
pub mod scenario;

use row::Row;

pub fn rows() -> impl Iterator<Item = &'static Row> {
    data::ROWS.iter().chain(life::ROWS)
}
