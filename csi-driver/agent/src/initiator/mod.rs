//! The initiator: reaches the legs of a volume by iSCSI and carries out the mirror's commands there.
//!
//! A [`Link`] is one leg with its two sessions. It is no actor: the volume owns it, passes events of its tokens on and
//! polls it, all on one thread. `command` turns commands of the mirror into SCSI and back, `outcome` says what a SCSI
//! status means to the mirror, `identify` asks a LUN what it is.
//! Not here: sockets (`reactor`), the session protocol (`twinsite_iscsi`), time-outs and retries (the mirror engine).

mod command;
mod commands;
mod identify;
mod isid;
mod link;
mod outcome;
mod random;
mod session;
mod spec;

pub use command::{Arrived, Destination};
pub use isid::{Purpose, initiator_name, isid};
pub use link::{Link, LinkEvent};
#[cfg(test)]
pub(crate) use random::random;
pub use spec::{LegSpec, Times};

#[cfg(test)]
pub(crate) mod tests;
