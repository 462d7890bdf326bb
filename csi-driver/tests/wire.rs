//! Our interface files say the same as the published ones, as far as they go: names, numbers, types.

use std::{collections::BTreeMap, path::Path, path::PathBuf, process::Command};

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// Everything that goes over the wire, by its full name.
fn facts(file: &Path, include: &Path) -> BTreeMap<String, String> {
    let descriptors = protox::compile([file], [include]).expect("it compiles");
    let name = file.file_name().expect("a name").to_string_lossy();
    let found = descriptors.file.into_iter();
    let mut files = found.filter(|found| found.name().ends_with(&*name));
    let file: FileDescriptorProto = files.next().expect("the file itself");
    let mut facts = BTreeMap::new();
    for service in &file.service {
        for method in &service.method {
            let key = format!("{}.{}", service.name(), method.name());
            let types = format!("{} -> {}", method.input_type(), method.output_type());
            facts.insert(key, types);
        }
    }
    for message in &file.message_type {
        of_message("", message, &mut facts);
    }
    for kind in &file.enum_type {
        of_enum("", kind, &mut facts);
    }
    facts
}

fn of_message(outer: &str, message: &DescriptorProto, facts: &mut BTreeMap<String, String>) {
    let path = format!("{outer}{}.", message.name());
    for field in &message.field {
        let fact = format!(
            "{} {:?} {:?} {}",
            field.number(),
            field.r#type(),
            field.label(),
            field.type_name()
        );
        facts.insert(format!("{path}{}", field.name()), fact);
    }
    for inner in &message.nested_type {
        of_message(&path, inner, facts);
    }
    for kind in &message.enum_type {
        of_enum(&path, kind, facts);
    }
}

fn of_enum(outer: &str, kind: &EnumDescriptorProto, facts: &mut BTreeMap<String, String>) {
    for value in &kind.value {
        let key = format!("{outer}{}.{}", kind.name(), value.name());
        facts.insert(key, value.number().to_string());
    }
}

/// The folder of a module in Go's cache; nothing is fetched for it.
fn module(path: &str) -> Option<PathBuf> {
    let output = Command::new("go")
        .args(["env", "GOMODCACHE"])
        .output()
        .ok()?;
    let cache = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    Some(cache.join(path)).filter(|folder| folder.exists())
}

fn check(ours: &str, published: Option<PathBuf>, least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let ours = facts(&folder.join(ours), &folder);
    assert!(ours.len() >= least, "{}", ours.len());
    let Some(published) = published else {
        eprintln!("skipped: the published file is not in Go's module cache");
        return;
    };
    let include = published.parent().expect("a folder");
    let published = facts(&published, include);
    for (name, fact) in &ours {
        assert_eq!(published.get(name), Some(fact), "{name}");
    }
}

#[test]
fn csi_is_as_published() {
    let spec = module("github.com/container-storage-interface/spec@v1.13.0");
    check(
        "csi.proto",
        spec.map(|folder| folder.join("csi.proto")),
        200,
    );
}

#[test]
fn the_registration_with_kubelet_is_as_published() {
    let kubelet = module("k8s.io/kubelet@v0.37.1");
    let path = "pkg/apis/pluginregistration/v1/api.proto";
    let published = kubelet.map(|folder| folder.join(path));
    // Its file has another name there.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let ours = facts(&folder.join("pluginregistration.proto"), &folder);
    let Some(published) = published else {
        eprintln!("skipped: the published file is not in Go's module cache");
        return;
    };
    let include = published.parent().expect("a folder");
    assert_eq!(ours, facts(&published, include));
}
