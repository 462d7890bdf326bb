//! The folder of status files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde::Serialize;
use serde_yaml::{Mapping, Value};
use twinsite_api::API_VERSION;

use crate::{control::durable::write_whole, objects::Problem};

/// An unchanged status is written again after this time, so that its age tells that the agent lives.
const REFRESH: Duration = Duration::from_secs(5);
const PROBLEMS: &str = "problems.yaml";

/// The wall clock, for people; nothing is decided by it.
pub fn now() -> Time {
    Time(Timestamp::now())
}

/// Writes status files and takes those of objects that are gone away.
#[derive(Debug)]
pub struct StatusFolder {
    path: PathBuf,
    written: BTreeMap<String, Written>,
    problems: Option<Vec<Problem>>,
}

#[derive(Debug)]
struct Written {
    status: Value,
    at: Instant,
}

impl StatusFolder {
    /// The `status` folder beside the objects; it is made if the objects' folder is there.
    pub fn open(objects: &Path) -> io::Result<Self> {
        let path = objects.join("status");
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self {
            path,
            written: BTreeMap::new(),
            problems: None,
        })
    }

    /// Writes the status of an object if it has changed, or if the last one is old.
    pub fn write<S: Serialize>(&mut self, kind: &str, name: &str, status: &S) {
        let file = format!("{}-{name}.yaml", kind.to_ascii_lowercase());
        let status = match serde_yaml::to_value(status) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(kind, name, %error, "a status cannot be written");
                return;
            }
        };
        let fresh = |written: &Written| written.status == status && written.at.elapsed() < REFRESH;
        if self.written.get(&file).is_some_and(fresh) {
            return;
        }
        let mut shown = status.clone();
        if let (Value::Mapping(fields), Ok(at)) = (&mut shown, serde_yaml::to_value(now())) {
            fields.insert("observedAt".into(), at);
        }
        let mut metadata = Mapping::new();
        metadata.insert("name".into(), name.into());
        let mut object = Mapping::new();
        object.insert("apiVersion".into(), API_VERSION.into());
        object.insert("kind".into(), kind.into());
        object.insert("metadata".into(), Value::Mapping(metadata));
        object.insert("status".into(), shown);
        if self.put(&file, &object) {
            self.written.insert(
                file,
                Written {
                    status,
                    at: Instant::now(),
                },
            );
        }
    }

    /// Writes what cannot be read.
    pub fn write_problems(&mut self, problems: &[Problem]) {
        if self.problems.as_deref() == Some(problems) {
            return;
        }
        #[derive(Serialize)]
        struct Listed<'a> {
            problems: &'a [Problem],
        }
        if self.put(PROBLEMS, &Listed { problems }) {
            self.problems = Some(problems.to_vec());
        }
    }

    /// Keeps only the files of these objects.
    pub fn keep(&mut self, objects: &BTreeSet<(&'static str, String)>) {
        let wanted: BTreeSet<String> = objects
            .iter()
            .map(|(kind, name)| format!("{}-{name}.yaml", kind.to_ascii_lowercase()))
            .collect();
        self.written.retain(|file, _| wanted.contains(file));
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".yaml") && name != PROBLEMS && !wanted.contains(&name) {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }

    fn put<S: Serialize>(&self, file: &str, content: &S) -> bool {
        let text = serde_yaml::to_string(content).map_err(io::Error::other);
        let written = text.and_then(|text| write_whole(&self.path.join(file), text.as_bytes()));
        if let Err(error) = &written {
            tracing::warn!(file, %error, "a status file cannot be written");
        }
        written.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsite_api::{LegState, LegStatus};

    #[test]
    fn a_status_is_a_whole_object_with_the_time_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(dir.path()).unwrap();
        let status = LegStatus {
            state: LegState::Serving,
            ..LegStatus::default()
        };
        folder.write("Leg", "a", &status);
        let path = dir.path().join("status/leg-a.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let object: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(
            (object["kind"].as_str(), object["metadata"]["name"].as_str()),
            (Some("Leg"), Some("a"))
        );
        let read: LegStatus = serde_yaml::from_value(object["status"].clone()).unwrap();
        assert_eq!(read.state, LegState::Serving);
        assert!(read.observed_at.is_some());
        fs::remove_file(&path).unwrap();
        folder.write("Leg", "a", &status);
        assert!(
            !path.exists(),
            "an unchanged status is not written again at once"
        );
        folder.write("Leg", "a", &LegStatus::default());
        assert!(path.exists());
    }

    #[test]
    fn files_of_objects_that_are_gone_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = StatusFolder::open(dir.path()).unwrap();
        folder.write("Leg", "a", &LegStatus::default());
        folder.write("Leg", "b", &LegStatus::default());
        folder.write_problems(&[]);
        folder.keep(&BTreeSet::from([("Leg", "b".to_owned())]));
        let mut left: Vec<_> = fs::read_dir(dir.path().join("status"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["leg-b.yaml", "problems.yaml"]);
    }
}
