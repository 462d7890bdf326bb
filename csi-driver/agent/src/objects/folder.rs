//! The folder of objects, watched by looking at it: file systems differ in what they announce, and a
//! look at a small folder twice a second costs nothing.
//!
//! Invariants: a file that cannot be read, or holds something broken, takes nothing away: the objects
//! that it held before stay. A folder that is not there takes nothing away either. Only a file that is
//! gone, or a file that is whole and no longer holds an object, does. Of two files with the same object the one counts that
//! had it first.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Objects,
    parse::{MAX_FILE_BYTES, Object, parse_file},
    problem::Problem,
};

/// The folder and what was last seen in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<String, Seen>,
    /// The file that each object was taken from, by the object's kind and name.
    sources: BTreeMap<String, String>,
    folder_fault: Option<String>,
}

/// What the folder holds now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    pub objects: Objects,
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    objects: Vec<(usize, Object)>,
    problems: Vec<Problem>,
}

/// By what a changed file is told from an unchanged one.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Folder {
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: BTreeMap::new(),
            sources: BTreeMap::new(),
            folder_fault: None,
        }
    }

    /// Looks at the folder; `None`: nothing has changed since the last look.
    pub fn scan(&mut self) -> Option<Scan> {
        let listed = match list(&self.path) {
            Ok(listed) => listed,
            Err(error) => {
                let fault = Some(error.to_string());
                let changed = self.folder_fault != fault;
                self.folder_fault = fault;
                return changed.then(|| self.collect());
            }
        };
        let mut changed = self.folder_fault.take().is_some();
        let gone: Vec<String> = self
            .files
            .keys()
            .filter(|name| !listed.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.files.remove(&name);
            changed = true;
        }
        for (name, stamp) in listed {
            if self
                .files
                .get(&name)
                .is_some_and(|seen| seen.stamp == stamp)
            {
                continue;
            }
            changed = true;
            self.read(name, stamp);
        }
        changed.then(|| self.collect())
    }

    fn read(&mut self, name: String, stamp: Stamp) {
        let before = self
            .files
            .remove(&name)
            .map(|seen| seen.objects)
            .unwrap_or_default();
        let seen = match read_text(&self.path.join(&name), stamp.length) {
            Ok(text) => {
                let mut parsed = parse_file(&name, &text);
                if !parsed.problems.is_empty() {
                    keep(&mut parsed.objects, before);
                }
                Seen {
                    stamp,
                    objects: parsed.objects,
                    problems: parsed.problems,
                }
            }
            Err(error) => {
                let problem = Problem {
                    file: name.clone(),
                    line: 0,
                    object: None,
                    field: None,
                    message: format!("cannot be read: {error}"),
                    advice: "correct it, or remove the file".to_owned(),
                };
                Seen {
                    stamp,
                    objects: before,
                    problems: vec![problem],
                }
            }
        };
        self.files.insert(name, seen);
    }

    fn collect(&mut self) -> Scan {
        let mut scan = Scan::default();
        if let Some(fault) = &self.folder_fault {
            scan.problems.push(Problem {
                file: self.path.display().to_string(),
                line: 0,
                object: None,
                field: None,
                message: format!("the folder cannot be read: {fault}"),
                advice: "make it, or correct --objects; nothing is changed until it can be read"
                    .to_owned(),
            });
        }
        for seen in self.files.values() {
            scan.problems.extend(seen.problems.iter().cloned());
        }
        let objects = self.files.iter().flat_map(|(name, seen)| {
            let objects = seen.objects.iter();
            objects.map(move |(line, object)| (name, *line, object))
        });
        // What is in use stays in use: a second file of the same object does not push it aside.
        let (held, new): (Vec<_>, Vec<_>) =
            objects.partition(|(name, _, object)| self.sources.get(&object.label()) == Some(*name));
        let mut sources = BTreeMap::new();
        for (name, line, object) in held.into_iter().chain(new) {
            let label = object.label();
            match scan.objects.add(object.clone()) {
                Ok(()) => drop(sources.insert(label, name.clone())),
                Err(double) => scan.problems.push(Problem {
                    file: name.clone(),
                    line,
                    object: Some(double.label()),
                    field: Some("metadata.name".to_owned()),
                    message: "another file, or another document, has this object already"
                        .to_owned(),
                    advice: "remove one of the two, or give it another name".to_owned(),
                }),
            }
        }
        self.sources = sources;
        scan
    }
}

/// Adds what a file held before and does not show now.
fn keep(objects: &mut Vec<(usize, Object)>, before: Vec<(usize, Object)>) {
    for (line, old) in before {
        if !objects.iter().any(|(_, new)| new.label() == old.label()) {
            objects.push((line, old));
        }
    }
}

fn list(path: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_ours = (name.ends_with(".yaml") || name.ends_with(".yml")) && !name.starts_with('.');
        if !is_ours {
            continue;
        }
        // Follows links: a ConfigMap volume shows its files as links.
        match fs::metadata(entry.path()) {
            Ok(meta) if meta.is_file() => {
                let stamp = Stamp {
                    modified: meta.modified().ok(),
                    length: meta.len(),
                    #[cfg(unix)]
                    inode: std::os::unix::fs::MetadataExt::ino(&meta),
                };
                files.insert(name, stamp);
            }
            Ok(_) => {}
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn read_text(path: &Path, length: u64) -> io::Result<String> {
    if length > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it has {length} bytes, more than {MAX_FILE_BYTES}"
        )));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, site: &str) -> String {
        format!(
            "apiVersion: twinsite.io/v1alpha1\nkind: StoragePool\nmetadata: {{name: {name}}}\nspec:\n  site: {site}\n  node: {{name: m1, directory: /srv}}\n  portals: ['127.0.0.1:3260']\n"
        )
    }

    struct Lab {
        dir: tempfile::TempDir,
        folder: Folder,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::new(dir.path());
            Self { dir, folder }
        }

        fn write(&self, name: &str, text: &str) {
            // As editors and kubelets do: whole, under another name, then renamed.
            let aside = self.dir.path().join(format!(".{name}.new"));
            fs::write(&aside, text).unwrap();
            fs::rename(aside, self.dir.path().join(name)).unwrap();
        }

        fn check(&mut self, expected: Option<(&[(&str, &str)], usize)>) {
            let scan = self.folder.scan();
            let found = scan.as_ref().map(|scan| {
                let pools: Vec<(&str, &str)> = scan
                    .objects
                    .pools
                    .iter()
                    .map(|(name, pool)| (name.as_str(), pool.spec.site.as_str()))
                    .collect();
                (pools, scan.problems.len())
            });
            assert_eq!(
                found,
                expected.map(|(pools, problems)| (pools.to_vec(), problems)),
                "{:?}",
                scan.as_ref().map(|s| &s.problems)
            );
        }
    }

    #[test]
    fn files_that_come_change_and_go_are_seen() {
        let mut lab = Lab::new();
        lab.check(None);
        lab.write("a.yaml", &pool("a", "medical"));
        lab.write("notes.txt", "not ours");
        lab.write(".hidden.yaml", "not ours");
        lab.check(Some((&[("a", "medical")], 0)));
        lab.check(None);
        lab.write("a.yaml", &pool("a", "research"));
        lab.write("b.yml", &pool("b", "medical"));
        lab.check(Some((&[("a", "research"), ("b", "medical")], 0)));
        fs::remove_file(lab.dir.path().join("a.yaml")).unwrap();
        lab.check(Some((&[("b", "medical")], 0)));
    }

    #[test]
    fn a_broken_file_keeps_what_it_held() {
        let mut lab = Lab::new();
        lab.write(
            "a.yaml",
            &format!("{}---\n{}", pool("a", "medical"), pool("b", "medical")),
        );
        lab.check(Some((&[("a", "medical"), ("b", "medical")], 0)));
        lab.write("a.yaml", &format!("{}---\nspec: [", pool("a", "research")));
        lab.check(Some((&[("a", "research"), ("b", "medical")], 1)));
        lab.write("a.yaml", &pool("a", "research"));
        lab.check(Some((&[("a", "research")], 0)));
        lab.write("a.yaml", &"#".repeat(2 << 20));
        lab.check(Some((&[("a", "research")], 1)));
    }

    #[test]
    fn a_folder_that_is_not_there_takes_nothing_away() {
        let mut lab = Lab::new();
        lab.write("a.yaml", &pool("a", "medical"));
        lab.check(Some((&[("a", "medical")], 0)));
        let (here, away) = (
            lab.dir.path().to_owned(),
            lab.dir.path().with_extension("away"),
        );
        fs::rename(&here, &away).unwrap();
        lab.check(Some((&[("a", "medical")], 1)));
        lab.check(None);
        fs::rename(&away, &here).unwrap();
        lab.check(Some((&[("a", "medical")], 0)));
    }

    #[test]
    fn an_object_in_two_files_is_told_and_the_first_counts() {
        let mut lab = Lab::new();
        lab.write("a.yaml", &pool("a", "medical"));
        lab.write("b.yaml", &pool("a", "research"));
        lab.check(Some((&[("a", "medical")], 1)));
    }

    #[test]
    fn an_object_in_use_is_not_pushed_aside_by_another_file_of_its_name() {
        let mut lab = Lab::new();
        lab.write("b.yaml", &pool("a", "medical"));
        lab.check(Some((&[("a", "medical")], 0)));
        lab.write("a.yaml", &pool("a", "research"));
        lab.check(Some((&[("a", "medical")], 1)));
        fs::remove_file(lab.dir.path().join("b.yaml")).unwrap();
        lab.check(Some((&[("a", "research")], 0)));
    }
}
