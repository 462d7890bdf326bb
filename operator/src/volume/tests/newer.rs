//! A field of a newer definition stands in the spec: what goes on without it, and what waits until it is understood.

use twinsite_api::DeletionPolicy;
use twinsite_register::State;

use super::world::{VOLUME, World};

const FIELD: &str = "spec.tomorrow";

fn newer(world: &mut World) {
    for cluster in &mut world.clusters {
        cluster.unknown = vec![FIELD.to_owned()];
    }
}

fn understood(world: &mut World) {
    for cluster in &mut world.clusters {
        cluster.unknown.clear();
    }
}

#[test]
fn a_volume_that_runs_goes_on_and_moves_without_what_is_not_known() {
    let mut world = World::running();
    newer(&mut world);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    assert!(world.told(0, "Ready").starts_with("True"));
    let told = world.told(0, "SpecUnderstood");
    assert!(
        told.starts_with("False UnknownFields") && told.contains(FIELD),
        "{told}"
    );
    world.edit_both(|volume| volume.spec.active_site = Some("research".to_owned()));
    world.settle();
    assert!(world.serves(1), "{}", world.transcript());
    world.kill(1);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
    understood(&mut world);
    world.settle();
    assert!(world.condition(0, "SpecUnderstood").is_none());
}

#[test]
fn a_volume_is_born_only_once_all_of_its_spec_is_understood() {
    let mut world = World::new();
    newer(&mut world);
    world.apply_to_both(VOLUME);
    world.settle();
    assert!(world.register.is_none(), "{}", world.transcript());
    assert!(
        world
            .told(0, "SpecUnderstood")
            .contains("neither made nor destroyed")
    );
    understood(&mut world);
    world.settle();
    assert!(world.serves(0), "{}", world.transcript());
}

#[test]
fn copies_are_destroyed_only_once_all_of_the_spec_is_understood() {
    let mut world = World::running();
    for cluster in &mut world.clusters {
        cluster.workloads[0].1 = 0;
    }
    newer(&mut world);
    let time = world.time();
    world.edit_both(|volume| {
        volume.spec.deletion_policy = DeletionPolicy::Delete;
        volume.metadata.deletion_timestamp = Some(time.clone());
    });
    world.settle();
    let register = world.register.as_ref().unwrap();
    assert_eq!(register.state, State::Live, "{}", world.transcript());
    assert!(world.clusters[0].volume.is_some() && !world.clusters[0].legs.is_empty());
    understood(&mut world);
    world.settle();
    assert!(world.register.is_none(), "{}", world.transcript());
}
