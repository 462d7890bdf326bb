//! What a test of the whole needs from the machine, asked in one place.

use std::fs::OpenOptions;
use std::path::Path;

/// Why devices cannot be shown here, if they cannot: the test then says so and ends.
#[must_use]
pub fn missing_for_devices() -> Option<&'static str> {
    let opens = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    if !opens("/dev/fuse") {
        return Some("/dev/fuse cannot be opened: it takes root and the fuse module");
    }
    if !opens("/dev/loop-control") {
        return Some("/dev/loop-control cannot be opened: it takes root and the loop module");
    }
    if !["/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        return Some("mkfs.ext4 is missing: tests/setup.sh installs it");
    }
    None
}
