//! The images of the tests: ours, the sidecars, the workload's, and the one that holds a pod's namespaces.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::image::Image;
use crate::programs::{Program, Programs};

/// Repository and tag of our own image.
pub const TWINSITE: (&str, &str) = ("localhost/twinsite", "dev");
/// The record writer.
pub const RECORDS: &str = "localhost/records:dev";
/// Sidecars are `localhost/<name>:dev`.
pub const SIDECARS: [Program; 3] = [
    Program::CsiProvisioner,
    Program::CsiAttacher,
    Program::CsiResizer,
];

/// What our image brings for the file systems beside our programs.
const TOOLS: [&str; 16] = [
    "mkfs.ext4",
    "mkfs.xfs",
    "fsck",
    "fsck.ext4",
    "fsck.xfs",
    "e2fsck",
    "xfs_repair",
    "resize2fs",
    "xfs_growfs",
    "xfs_io",
    "mount",
    "umount",
    "losetup",
    "blkid",
    "blockdev",
    "dumpe2fs",
];

/// The folder of the programs that cargo built beside this one.
///
/// # Errors
/// This program's own place is not known.
pub fn built() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let folder = program.parent().context("a program lies in a folder")?;
    // Tests lie one deeper.
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_owned())
}

/// Makes all images below `folder`; their archives.
///
/// # Errors
/// A program is missing, or an archive cannot be written.
pub fn make(folder: &Path, programs: &Programs) -> Result<Vec<PathBuf>> {
    let mut archives = vec![pause(folder)?, ours(folder)?, records(folder)?];
    for sidecar in SIDECARS {
        let name = sidecar.name();
        let program = programs.path(sidecar);
        // Beside the program, whose version its folder names: it never changes.
        let archive = program.with_extension("tar");
        if !archive.exists() {
            let draft = folder.join(format!("{name}.tar"));
            Image::new(&[&format!("/{name}")])
                .file(&program, &format!("/{name}"))
                .write(&format!("localhost/{name}:dev"), &draft)?;
            fs::copy(&draft, program.with_extension("draft"))?;
            fs::rename(program.with_extension("draft"), &archive)?;
        }
        archives.push(archive);
    }
    Ok(archives)
}

/// Holds a pod's namespaces and ends when told to. Makes the folder, too.
///
/// # Errors
/// busybox is missing.
pub fn pause(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let archive = folder.join("pause.tar");
    let loop_ = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";
    Image::new(&["/bin/sh", "-c", loop_])
        .program(&busybox()?, "/bin/sh")?
        .program(&busybox()?, "/bin/sleep")?
        .write("localhost/pause:dev", &archive)?;
    Ok(archive)
}

fn busybox() -> Result<PathBuf> {
    let found = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    found
        .into_iter()
        .find(|path| path.exists())
        .context("busybox is missing: make setup-kubernetes installs it")
}

fn ours(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("twinsite.tar");
    let mut image = Image::new(&["twinsite-agent"]).program(&busybox()?, "/bin/sh")?;
    for program in [
        "twinsite-operator",
        "twinsite-csi",
        "twinsite-agent",
        // The guard of an uninstall runs it.
        "kubectl-twinsite",
    ] {
        image = image.program(
            &slim(folder, program)?,
            &format!("/usr/local/bin/{program}"),
        )?;
    }
    for tool in TOOLS {
        image = image.installed(tool)?;
    }
    let configuration = Path::new("/etc/mke2fs.conf");
    if configuration.exists() {
        image = image.file(configuration, "/etc/mke2fs.conf");
    }
    image.write(&format!("{}:{}", TWINSITE.0, TWINSITE.1), &archive)?;
    Ok(archive)
}

fn records(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("records.tar");
    Image::new(&["/records"])
        .program(&slim(folder, "records")?, "/records")?
        .program(&busybox()?, "/bin/sh")?
        .write(RECORDS, &archive)?;
    Ok(archive)
}

/// A program without what only debuggers read: a tenth of its size, and every node gets a copy.
fn slim(folder: &Path, name: &str) -> Result<PathBuf> {
    let source = built()?.join(name);
    ensure!(
        source.exists(),
        "{} is missing: build it with cargo build --bin {name}",
        source.display()
    );
    let slim = folder.join(format!("{name}.slim"));
    let stripped = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .arg(&slim)
        .arg(&source)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    Ok(if stripped { slim } else { source })
}
