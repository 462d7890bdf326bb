//! One operation per volume: a second one is refused at once, never queued, so that its caller asks again and finds the
//! outcome of the first.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tonic::Status;

/// The volumes that an operation is under way on.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Mutex<BTreeSet<String>>>);

/// Holds a volume until it is dropped.
#[derive(Debug)]
pub struct Guard {
    set: InFlight,
    key: String,
}

impl InFlight {
    /// Takes a volume.
    ///
    /// # Errors
    /// ABORTED: an operation on it is under way.
    pub fn begin(&self, key: &str) -> Result<Guard, Status> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.insert(key.to_owned()) {
            return Err(Status::aborted(format!(
                "an operation on {key} is under way: ask again"
            )));
        }
        Ok(Guard {
            set: self.clone(),
            key: key.to_owned(),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut keys = self.set.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_second_operation_on_a_volume_is_refused_and_on_another_is_not() {
        let set = InFlight::default();
        let guard = set.begin("a").unwrap();
        assert_eq!(set.begin("a").unwrap_err().code(), Code::Aborted);
        set.begin("b").unwrap();
        drop(guard);
        set.begin("a").unwrap();
    }

    #[test]
    fn a_guard_is_let_go_when_its_holder_panics() {
        let set = InFlight::default();
        let theirs = set.clone();
        let thread = std::thread::spawn(move || {
            let _guard = theirs.begin("a").unwrap();
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        set.begin("a").unwrap();
    }
}
