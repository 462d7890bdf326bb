//! Which files follow from what the API server showed, and when one goes.

use super::*;

fn object(kind: Kind, name: &str, rest: Value) -> DynamicObject {
    let mut object = json!({
        "apiVersion": kind.api_version(), "kind": kind.word(),
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1, "resourceVersion": "5", "managedFields": []},
    });
    for (key, value) in rest.as_object().unwrap() {
        if let (Some(into), Some(from)) = (object[key].as_object_mut(), value.as_object()) {
            into.extend(from.clone());
        } else {
            object[key] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

fn pair(witness: Value) -> DynamicObject {
    let spec = json!({"sites": [{"name": "medical"}, {"name": "research"}], "witness": witness});
    object(Kind::SitePair, "ctrc", json!({"spec": spec}))
}

fn pool(name: &str, node: &str) -> DynamicObject {
    let spec =
        json!({"site": "medical", "node": {"name": node, "directory": "/p"}, "portals": ["h:1"]});
    object(Kind::StoragePool, name, json!({"spec": spec}))
}

fn leg(metadata: Value) -> DynamicObject {
    let spec = json!({"node": "m1", "sitePair": "ctrc", "pool": "p1", "chap": {"pairSecret": "twinsite-pair"}});
    object(
        Kind::Leg,
        "v-a",
        json!({"spec": spec, "metadata": metadata}),
    )
}

fn attachment(metadata: Value) -> DynamicObject {
    let spec =
        json!({"node": "m1", "sitePair": "ctrc", "legs": [{"chap": {"authSecret": "array"}}]});
    object(
        Kind::Attachment,
        "v-writer",
        json!({"spec": spec, "metadata": metadata, "status": {"state": "Attached", "order": 4}}),
    )
}

fn secret(name: &str) -> DynamicObject {
    object(
        Kind::Secret,
        name,
        json!({"data": {"key": "a2V5"}, "type": "Opaque"}),
    )
}

#[test]
fn what_only_a_newer_definition_knows_stays_out_of_the_files_except_of_orders_that_are_final() {
    let newer = json!({"tomorrow": "blue"});
    let pair = object(Kind::SitePair, "ctrc", json!({"spec": newer}));
    assert!(!text(Kind::SitePair, &pair).contains("tomorrow"));
    for (mode, stays) in [
        ("Writer", false),
        ("Caretaker", false),
        ("Wipe", true),
        ("Reseed", true),
    ] {
        let order = json!({"spec": {"mode": mode, "tomorrow": "blue"}});
        let order = text(Kind::Attachment, &object(Kind::Attachment, "v-x", order));
        assert_eq!(order.contains("tomorrow"), stays, "{mode}");
    }
}

struct World {
    cache: Cache,
    disk: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        Self {
            cache: Cache::new("m1", "medical"),
            disk: BTreeMap::new(),
        }
    }

    /// A whole list comes, and the files are brought up to it.
    fn list(&mut self, source: Source, objects: Vec<DynamicObject>) {
        self.cache.hear(source.clone(), Event::Init);
        for object in objects {
            self.cache.hear(source.clone(), Event::InitApply(object));
        }
        self.cache.hear(source, Event::InitDone);
        self.apply();
    }

    fn apply(&mut self) {
        self.disk = self.cache.files(&self.disk);
    }

    fn all() -> Self {
        let mut world = Self::new();
        let witness = json!({"kubernetes": {"kubeconfigSecret": "witness", "namespace": "w"}});
        world.list(Source::All(Kind::SitePair), vec![pair(witness)]);
        world.list(
            Source::All(Kind::StoragePool),
            vec![pool("p1", "m1"), pool("p2", "m2")],
        );
        world.list(Source::All(Kind::Leg), vec![leg(json!({}))]);
        world.list(Source::All(Kind::Attachment), vec![attachment(json!({}))]);
        for name in world.cache.secrets().unwrap() {
            world.list(Source::Secret(name.clone()), vec![secret(&name)]);
        }
        world
    }

    fn check(&self, expected: &[&str]) {
        let files: Vec<&str> = self.disk.keys().map(String::as_str).collect();
        assert_eq!(files, expected);
    }
}

const ALL: [&str; 7] = [
    "attachment-v-writer.yaml",
    "leg-v-a.yaml",
    "secret-array.yaml",
    "secret-twinsite-pair.yaml",
    "secret-witness.yaml",
    "sitepair-ctrc.yaml",
    "storagepool-p1.yaml",
];

#[test]
fn the_objects_of_the_node_and_the_secrets_they_name_become_files() {
    let world = World::all();
    world.check(&ALL);
    assert_eq!(
        world.disk["attachment-v-writer.yaml"],
        "apiVersion: twinsite.io/v1alpha1\nkind: Attachment\nmetadata:\n  generation: 1\n  name: v-writer\n  uid: uid-v-writer\nspec:\n  legs:\n  - chap:\n      authSecret: array\n  node: m1\n  sitePair: ctrc\nstatus:\n  order: 4\n"
    );
    assert_eq!(
        world.disk["secret-array.yaml"],
        "apiVersion: v1\ndata:\n  key: a2V5\nkind: Secret\nmetadata:\n  name: array\n"
    );
    let parsed = parse_file("secret", &world.disk["secret-array.yaml"]);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
}

#[test]
fn what_is_not_listed_yet_stays_as_it_was_before_the_start() {
    let mut world = World::all();
    world.cache = Cache::new("m1", "medical");
    world.apply();
    world.check(&ALL);
    world.list(Source::All(Kind::Attachment), vec![]);
    world.check(&ALL[1..]);
}

#[test]
fn what_was_deleted_unseen_is_let_go_once_the_list_lacks_it() {
    let mut world = World::all();
    world.list(Source::All(Kind::Leg), vec![]);
    world.list(Source::All(Kind::Attachment), vec![]);
    world.check(&[
        "secret-witness.yaml",
        "sitepair-ctrc.yaml",
        "storagepool-p1.yaml",
    ]);
}

#[test]
fn a_deletion_is_the_order_to_let_go_and_waits_for_the_agent() {
    let mut world = World::all();
    assert_eq!(world.cache.leaving(), []);
    let going = json!({"deletionTimestamp": "2026-11-28T06:00:00Z", "finalizers": ["other/one", AGENT_FINALIZER]});
    world.cache.hear(
        Source::All(Kind::Attachment),
        Event::Apply(attachment(going)),
    );
    world.apply();
    assert!(!world.disk.contains_key("attachment-v-writer.yaml"));
    assert_eq!(
        world.cache.leaving(),
        [Leaving {
            kind: Kind::Attachment,
            name: "v-writer".to_owned(),
            version: "5".to_owned(),
            others: vec!["other/one".to_owned()],
        }]
    );
}

#[test]
fn a_pair_or_pool_that_is_still_named_outlives_its_deletion() {
    let mut world = World::all();
    world.list(Source::All(Kind::SitePair), vec![]);
    world.list(Source::All(Kind::StoragePool), vec![]);
    for file in ["sitepair-ctrc.yaml", "storagepool-p1.yaml"] {
        assert!(world.disk.contains_key(file), "{file}");
    }
    world.list(Source::All(Kind::Leg), vec![]);
    world.list(Source::All(Kind::Attachment), vec![]);
    world.check(&[]);
}

#[test]
fn objects_of_other_nodes_and_sites_have_no_files() {
    let mut world = World::new();
    let mut other = leg(json!({}));
    other.data["spec"]["node"] = "m2".into();
    world.list(Source::All(Kind::Leg), vec![other]);
    let mut far = pool("far", "m1");
    far.data["spec"]["site"] = "research".into();
    world.list(Source::All(Kind::StoragePool), vec![far]);
    let mut foreign = pair(json!({"site": "medical"}));
    foreign.data["spec"]["sites"] = json!([{"name": "a"}, {"name": "b"}]);
    world.list(Source::All(Kind::SitePair), vec![foreign]);
    world.check(&[]);
}

#[test]
fn a_secret_that_is_deleted_goes_and_one_that_is_not_read_yet_stays() {
    let mut world = World::all();
    world.list(Source::Secret("array".to_owned()), vec![]);
    assert!(!world.disk.contains_key("secret-array.yaml"));
    let named = world.cache.secrets().unwrap();
    world.cache.forget_secrets(&BTreeSet::new());
    world.apply();
    assert!(world.disk.contains_key("secret-witness.yaml"));
    assert_eq!(named.len(), 3);
}

#[test]
fn what_was_readable_stays_of_the_same_object_only() {
    let all = Source::All(Kind::Attachment);
    let file = "attachment-v-writer.yaml";
    // No reader takes these: most of an order is missing.
    let changed = |uid: &str| {
        let spec = json!({"node": "m1", "mode": "Tomorrow"});
        let metadata = json!({"uid": uid});
        object(
            Kind::Attachment,
            "v-writer",
            json!({"spec": spec, "metadata": metadata}),
        )
    };
    let mut world = World::all();
    let before = world.disk[file].clone();
    world.list(all.clone(), vec![changed("uid-v-writer")]);
    assert_eq!(world.disk[file], before);
    world.list(all, vec![changed("uid-of-another")]);
    assert!(world.disk[file].contains("uid-of-another"));
}
