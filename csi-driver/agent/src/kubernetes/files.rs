//! The objects' folder as the bridge writes it: one file per object, replaced whole, readable by root only.
//!
//! Invariants: a file that cannot be written stays as it was and is tried again; what is not named like an object of ours
//! is not touched. Written durably: after a power cut the agent must find what it had, also with the API server away.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::kinds::Kind;
use crate::control::durable::{remove_durable, write_durable};

/// The folder and what is in it.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    on_disk: BTreeMap<String, String>,
}

impl Files {
    /// Opens the folder, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let mut on_disk = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if Kind::of_file(&name).is_some() {
                // One that cannot be read is written anew as soon as the cluster shows its object.
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                on_disk.insert(name, text);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            on_disk,
        })
    }

    pub(crate) fn on_disk(&self) -> &BTreeMap<String, String> {
        &self.on_disk
    }

    pub(crate) fn contains(&self, kind: Kind, name: &str) -> bool {
        self.on_disk.contains_key(&kind.file(name))
    }

    /// Brings the folder up to this; says whether anything changed, and whether all of it could be done.
    pub(crate) fn bring_to(&mut self, wanted: &BTreeMap<String, String>) -> (bool, io::Result<()>) {
        let (mut changed, mut result) = (false, Ok(()));
        let mut files: Vec<(&String, &String)> = wanted
            .iter()
            .filter(|(file, text)| self.on_disk.get(*file) != Some(text))
            .collect();
        // What is named comes before who names it.
        files.sort_by_key(|(file, _)| Kind::of_file(file).map(|(kind, _)| kind));
        for (file, text) in files {
            match write_durable(&self.path.join(file), text.as_bytes()) {
                Ok(()) => {
                    self.on_disk.insert(file.clone(), text.clone());
                    changed = true;
                }
                Err(error) => result = Err(error),
            }
        }
        let gone: Vec<String> = self
            .on_disk
            .keys()
            .filter(|file| !wanted.contains_key(*file))
            .cloned()
            .collect();
        for file in gone {
            match remove_durable(&self.path.join(&file)) {
                Ok(()) => {
                    self.on_disk.remove(&file);
                    changed = true;
                }
                Err(error) => result = Err(error),
            }
        }
        (changed, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_brought_up_to_what_is_wanted_and_others_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let wanted = |files: &[(&str, &str)]| {
            let files = files.iter();
            files
                .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
                .collect()
        };
        let mut files = Files::open(&path).unwrap();
        fs::write(path.join("notes.yaml"), "mine").unwrap();
        let (changed, result) =
            files.bring_to(&wanted(&[("leg-a.yaml", "1"), ("secret-s.yaml", "2")]));
        assert!(changed && result.is_ok());
        let mode = |file: &str| fs::metadata(path.join(file)).unwrap().permissions().mode();
        assert_eq!(mode("secret-s.yaml") & 0o777, 0o600);
        assert_eq!(mode("") & 0o777, 0o700);
        let mut again = Files::open(&path).unwrap();
        assert_eq!(again.on_disk(), files.on_disk());
        let (changed, _) = again.bring_to(&wanted(&[("leg-a.yaml", "1")]));
        assert!(changed && !path.join("secret-s.yaml").exists());
        let (changed, _) = again.bring_to(&wanted(&[("leg-a.yaml", "1")]));
        assert!(!changed);
        assert!(path.join("notes.yaml").exists());
    }
}
