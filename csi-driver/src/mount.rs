//! Mounts as the kernel tells them, and the programs that change them.
//!
//! The kernel's table is the only truth about what is mounted: a record may be older than a reboot.
//!
//! Invariants: every program has a time limit; a path given by a caller is never followed into a mount that may not answer.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncReadExt, process::Command};

/// For programs that only look.
pub const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// For programs that write: their caller may give up before, they go on.
pub const WORK_LIMIT: Duration = Duration::from_secs(1800);
/// How much of what a program says is kept.
const MAX_OUTPUT: u64 = 64 << 10;
/// Mounts stacked on one point that are taken away in one call.
const MAX_STACK: usize = 16;

/// Major and minor number of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl DeviceNumber {
    /// The number of the device that a node in /dev, or a file it is bound on, stands for.
    ///
    /// # Errors
    /// It is not there, or is no block device.
    pub fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let meta = fs::metadata(path)?;
        if !meta.file_type().is_block_device() {
            return Err(io::Error::other("it is no block device"));
        }
        Ok(Self {
            major: libc::major(meta.rdev()),
            minor: libc::minor(meta.rdev()),
        })
    }

    /// Bytes of the device, as the kernel has them now.
    ///
    /// # Errors
    /// The device has gone.
    pub fn size(self) -> io::Result<u64> {
        let path = format!("/sys/dev/block/{}:{}/size", self.major, self.minor);
        let sectors: u64 = fs::read_to_string(path)?
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        Ok(sectors * 512)
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub device: DeviceNumber,
    /// What of the file system is shown here.
    pub root: PathBuf,
    pub point: PathBuf,
    /// Read only at this point.
    pub read_only: bool,
    pub fs_type: String,
    /// The file system as a whole is read only.
    pub fs_read_only: bool,
}

/// All mounts that this process sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the kernel's table.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read("/proc/self/mountinfo")?))
    }

    fn parse(table: &[u8]) -> Self {
        Self(table.split(|b| *b == b'\n').filter_map(line).collect())
    }

    /// What is seen at a point: the last that was mounted there.
    pub fn at(&self, point: &Path) -> Option<&Mount> {
        let point = settle(point);
        self.0.iter().rev().find(|mount| mount.point == point)
    }

    /// Points at which a device's file system is mounted.
    pub fn of(&self, device: DeviceNumber) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.device == device)
    }
}

/// One line of mountinfo: id parent major:minor root point options [fields] - type source options.
fn line(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    let text = |word: &[u8]| std::str::from_utf8(word).ok().map(str::to_owned);
    let number = text(words.get(2)?)?;
    let (major, minor) = number.split_once(':')?;
    let read_only = |options: &[u8]| options.split(|b| *b == b',').any(|option| option == b"ro");
    Some(Mount {
        device: DeviceNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        root: unescape(words.get(3)?),
        point: unescape(words.get(4)?),
        read_only: read_only(words.get(5)?),
        fs_type: text(words.get(dash + 1)?)?,
        fs_read_only: read_only(words.get(dash + 3)?),
    })
}

/// Space, tab, newline and backslash stand as `\` and three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((byte, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        };
        match after.get(..3).and_then(octal) {
            Some(value) if *byte == b'\\' => {
                bytes.push(value);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// A path as the kernel names it: links in its folder are followed, what it names itself is not touched.
pub fn settle(path: &Path) -> PathBuf {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return path.to_owned();
    };
    match fs::canonicalize(folder) {
        Ok(folder) => folder.join(name),
        Err(_) => path.to_owned(),
    }
}

/// Why a program did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{program} cannot be started: is it in the image?")]
    Start { program: String, source: io::Error },
    #[error("{program} {}: {said}", code.map_or("was killed".to_owned(), |code| format!("ended with {code}")))]
    Failed {
        program: String,
        code: Option<i32>,
        said: String,
    },
    #[error("{program} did not end within {seconds} s: the volume does not answer")]
    Late { program: String, seconds: u64 },
}

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program; `fine`: exit codes that are no failure.
///
/// # Errors
/// It cannot be started, ends otherwise, or not in time.
pub async fn run<I, S>(
    program: &str,
    arguments: I,
    fine: &[i32],
    limit: Duration,
) -> Result<Said, RunError>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    tracing::debug!(command = ?command.as_std(), "run");
    let start = |source| RunError::Start {
        program: program.to_owned(),
        source,
    };
    let mut child = command.spawn().map_err(start)?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (stdout, stderr, status) = tokio::join!(hear(&mut out), hear(&mut err), child.wait());
        status.map(|status| (status.code(), stdout, stderr))
    };
    let ended = tokio::time::timeout(limit, work).await;
    let (code, stdout, stderr) = match ended {
        Err(_) => {
            return Err(RunError::Late {
                program: program.to_owned(),
                seconds: limit.as_secs(),
            });
        }
        Ok(ended) => ended.map_err(start)?,
    };
    match code {
        Some(code) if code == 0 || fine.contains(&code) => Ok(Said {
            code,
            stdout,
            stderr,
        }),
        code => Err(RunError::Failed {
            program: program.to_owned(),
            code,
            said: if stderr.trim().is_empty() {
                stdout
            } else {
                stderr
            }
            .trim()
            .replace('\n', "; "),
        }),
    }
}

async fn hear(pipe: &mut Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What could not be read is missing in a message, no more. The rest is drained, so that nobody waits for us.
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(pipe, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Mounts a device.
///
/// # Errors
/// As [`run`].
pub async fn mount(
    device: &Path,
    point: &Path,
    fs_type: &str,
    options: &[String],
) -> Result<(), RunError> {
    let mut arguments: Vec<&OsStr> = vec!["-t".as_ref(), fs_type.as_ref()];
    let joined = options.join(",");
    if !joined.is_empty() {
        arguments.extend(["-o".as_ref(), OsStr::new(&joined)]);
    }
    arguments.extend([device.as_os_str(), point.as_os_str()]);
    run("mount", arguments, &[], WORK_LIMIT).await.map(drop)
}

/// Shows what is at `from` at `point` too.
///
/// # Errors
/// As [`run`]. A bind that could not be made read only is taken away again.
pub async fn bind(from: &Path, point: &Path, read_only: bool) -> Result<(), RunError> {
    let paths = [from.as_os_str(), point.as_os_str()];
    let bind = [OsStr::new("--bind")].into_iter().chain(paths);
    run("mount", bind, &[], LOOK_LIMIT).await?;
    if !read_only {
        return Ok(());
    }
    let again = ["-o".as_ref(), "remount,bind,ro".as_ref(), point.as_os_str()];
    let made = run("mount", again, &[], LOOK_LIMIT).await;
    if made.is_err() {
        unmount(point).await?;
    }
    made.map(drop)
}

/// Takes away everything that is mounted at a point; nothing there is fine.
///
/// # Errors
/// As [`run`], or the kernel's table cannot be read.
pub async fn unmount(point: &Path) -> Result<(), RunError> {
    let point = settle(point);
    for _ in 0..MAX_STACK {
        let mounts = Mounts::read().map_err(no_table)?;
        if mounts.at(&point).is_none() {
            return Ok(());
        }
        let done = run("umount", [point.as_os_str()], &[], WORK_LIMIT).await;
        // Somebody else may have been faster.
        let gone = || Mounts::read().is_ok_and(|mounts| mounts.at(&point).is_none());
        if let Err(error) = done
            && !gone()
        {
            return Err(error);
        }
    }
    Err(RunError::Failed {
        program: "umount".to_owned(),
        code: None,
        said: format!("{} is mounted again and again", point.display()),
    })
}

/// Takes a mount away whose device is dead: whoever still uses it keeps what it has.
///
/// # Errors
/// As [`run`].
pub async fn abandon(point: &Path) -> Result<(), RunError> {
    let arguments = ["-l".as_ref(), point.as_os_str()];
    run("umount", arguments, &[], LOOK_LIMIT).await.map(drop)
}

fn no_table(source: io::Error) -> RunError {
    RunError::Start {
        program: "mountinfo".to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
90 22 7:3 / /var/lib/kubelet/a\\040b rw,noatime shared:9 master:2 - xfs /dev/loop3 rw,inode64
91 22 7:3 / /target ro,noatime - xfs /dev/loop3 rw,inode64
92 22 0:5 /loop7 /block/file rw - devtmpfs dev rw,size=1
93 91 7:4 / /target rw - ext4 /dev/loop4 ro,seclabel

broken line
";

    fn device(major: u32, minor: u32) -> DeviceNumber {
        DeviceNumber { major, minor }
    }

    #[test]
    fn the_kernels_table_is_read() {
        let mounts = Mounts::parse(TABLE.as_bytes());
        assert_eq!(mounts.0.len(), 5);
        let spaced = mounts.at(Path::new("/var/lib/kubelet/a b")).unwrap();
        assert_eq!(
            (spaced.device, spaced.fs_type.as_str()),
            (device(7, 3), "xfs")
        );
        assert!(!spaced.read_only && !spaced.fs_read_only);
        let top = mounts.at(Path::new("/target")).unwrap();
        assert_eq!(top.device, device(7, 4), "the last mount is what is seen");
        assert!(!top.read_only && top.fs_read_only);
        let block = mounts.at(Path::new("/block/file")).unwrap();
        assert_eq!(block.root, Path::new("/loop7"));
        assert_eq!(mounts.of(device(7, 3)).count(), 2);
        assert_eq!(mounts.at(Path::new("/nowhere")), None);
    }

    #[test]
    fn escapes_are_undone_and_what_only_looks_like_one_stays() {
        for (text, path) in [
            ("a\\040b", "a b"),
            ("\\134", "\\"),
            ("a\\04", "a\\04"),
            ("\\9", "\\9"),
        ] {
            assert_eq!(unescape(text.as_bytes()), Path::new(path), "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_that_fails_hangs_or_is_missing_is_told_apart() {
        let said = run("sh", ["-c", "echo a; exit 1"], &[1], LOOK_LIMIT)
            .await
            .unwrap();
        assert_eq!((said.code, said.stdout.as_str()), (1, "a\n"));
        let failed = run("sh", ["-c", "echo bad >&2; exit 3"], &[1], LOOK_LIMIT).await;
        assert_eq!(failed.unwrap_err().to_string(), "sh ended with 3: bad");
        let late = run("sleep", ["100"], &[], Duration::from_millis(50)).await;
        assert!(matches!(late, Err(RunError::Late { .. })));
        let missing = run("no-such-program", ["1"], &[], LOOK_LIMIT).await;
        assert!(matches!(missing, Err(RunError::Start { .. })));
    }
}
