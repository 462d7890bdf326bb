//! The objects that tell this node what to do, read from a folder of YAML files.
//!
//! The folder holds the same objects that the operator makes in Kubernetes. A file may hold several
//! documents. What is broken is told with file, line, field and what to do about it ([`Problem`]),
//! and the other objects go on. Breaking a file never takes an object away: what it held before
//! stays as it was until it can be read again, or the file is removed.
//!
//! Not here: what is done about the objects (`control`), status (`status`).

mod check;
mod folder;
mod parse;
mod problem;
mod secret;

use std::collections::BTreeMap;

use twinsite_api::{Attachment, Leg, SitePair, StoragePool};

pub use folder::{Folder, Scan};
pub use parse::{Object, Parsed, parse_file};
pub use problem::Problem;
pub use secret::Secret;

/// Everything that is wanted, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub pairs: BTreeMap<String, SitePair>,
    pub pools: BTreeMap<String, StoragePool>,
    pub legs: BTreeMap<String, Leg>,
    pub attachments: BTreeMap<String, Attachment>,
    pub secrets: BTreeMap<String, Secret>,
}

impl Objects {
    /// Puts an object among the others; gives it back if its place is taken.
    pub fn add(&mut self, object: Object) -> Result<(), Object> {
        fn put<T>(
            map: &mut BTreeMap<String, T>,
            name: String,
            value: T,
            back: fn(T) -> Object,
        ) -> Result<(), Object> {
            if map.contains_key(&name) {
                return Err(back(value));
            }
            map.insert(name, value);
            Ok(())
        }
        let name = object.name().to_owned();
        match object {
            Object::SitePair(pair) => put(&mut self.pairs, name, *pair, |o| {
                Object::SitePair(Box::new(o))
            }),
            Object::StoragePool(pool) => put(&mut self.pools, name, *pool, |o| {
                Object::StoragePool(Box::new(o))
            }),
            Object::Leg(leg) => put(&mut self.legs, name, *leg, |o| Object::Leg(Box::new(o))),
            Object::Attachment(attachment) => put(&mut self.attachments, name, *attachment, |o| {
                Object::Attachment(Box::new(o))
            }),
            Object::Secret(secret) => put(&mut self.secrets, name, secret, Object::Secret),
        }
    }
}
