//! Volumes: the mirror engine joined with the legs, the device and the witness.
//!
//! [`DataPath`] is what the control plane opens volumes with. A volume lives on one data thread ([`actor`]); orders to
//! it are posted, what happens is told through the report that came with the order.
//! Not here: what is decided (`twinsite_mirror`), when a volume is opened (`control`).

mod actor;
mod device;
pub mod drive;
mod inspect;
mod machine;
mod open;
mod requests;
mod together;
mod witness;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use twinsite_mirror::io::RegisterError;
use twinsite_witness::ReadError;

use crate::frontend::{DeviceSpec, Events, Frontend, FrontendError, FuseLoop, Ublk};

pub use open::{DataPath, DataPathError, Guest, OpenVolume};
pub use requests::Answer;

/// Makes a front end of the caller's own, on the volume's thread.
pub type MakeFrontend =
    Box<dyn FnMut(&DeviceSpec, Events) -> Result<Box<dyn Frontend>, FrontendError> + Send>;

/// How a volume is shown.
pub enum DeviceChoice {
    /// Not at all: it is used through [`Guest`].
    None,
    FuseLoop {
        run_dir: PathBuf,
    },
    Ublk {
        run_dir: PathBuf,
    },
    Custom(MakeFrontend),
}

impl DeviceChoice {
    fn show(
        &mut self,
        spec: &DeviceSpec,
        events: Events,
    ) -> Result<Option<Box<dyn Frontend>>, FrontendError> {
        match self {
            Self::None => Ok(None),
            Self::FuseLoop { run_dir } => {
                let device = FuseLoop::show(spec, run_dir, events)?;
                Ok(Some(Box::new(device)))
            }
            Self::Ublk { run_dir } => {
                let device = Ublk::show(spec, run_dir, events)?;
                Ok(Some(Box::new(device)))
            }
            Self::Custom(make) => make(spec, events).map(Some),
        }
    }
}

fn unreadable(error: ReadError) -> RegisterError {
    match error {
        ReadError::Unreachable(_) => RegisterError::Unreachable,
        ReadError::Corrupt { .. } => RegisterError::Corrupt,
    }
}
