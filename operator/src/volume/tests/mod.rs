//! Plans against a small world of two clusters, a witness and agents, all in memory.
//!
//! A scenario is a list of what happens; its golden text is every action of both operators, in order. Every plan goes
//! through the linter, every scenario ends in a fixpoint. `UPDATE_GOLDENS=1 cargo test` writes the texts anew.

mod agents;
mod argo;
mod bad_days;
mod group;
mod group_deleted;
mod group_force;
mod group_reseed;
mod group_world;
mod kubernetes;
mod linter;
mod lost_nodes;
mod moving;
mod newer;
mod ordinary;
mod reseed;
mod verify;
mod world;

use std::{fs, path::PathBuf};

use world::World;

/// Compares the transcript of a scenario with its golden text.
fn golden(name: &str, world: &World) {
    same_text(name, &world.transcript());
}

fn same_text(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("src/volume/tests/goldens/{name}.txt"));
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == golden,
        "{name} differs from its golden text; it is now:\n{text}"
    );
}
