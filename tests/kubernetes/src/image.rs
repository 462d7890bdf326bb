//! Container images without a container engine: an OCI archive of files, as `ctr images import` takes it.
//!
//! One layer, not compressed. Programs bring the shared libraries that `ldd` names; everything lies where it lies here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest, Sha256};

/// Files of an image, by their path in it.
#[derive(Debug, Default)]
pub struct Image {
    files: BTreeMap<PathBuf, PathBuf>,
    entrypoint: Vec<String>,
}

impl Image {
    /// An image that runs this when nothing else is said.
    #[must_use]
    pub fn new(entrypoint: &[&str]) -> Self {
        Self {
            files: BTreeMap::new(),
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, source: &Path, inside: &str) -> Self {
        self.files.insert(PathBuf::from(inside), source.to_owned());
        self
    }

    /// Adds a program and its shared libraries.
    ///
    /// # Errors
    /// The program is missing.
    pub fn program(mut self, source: &Path, inside: &str) -> Result<Self> {
        ensure!(source.exists(), "{} is missing", source.display());
        for library in libraries(source)? {
            self.files.insert(library.clone(), library);
        }
        Ok(self.file(source, inside))
    }

    /// Adds a program of this machine by its name, found in the usual places.
    ///
    /// # Errors
    /// There is none.
    pub fn installed(self, name: &str) -> Result<Self> {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.exists())
            .with_context(|| format!("{name} is missing: tests/setup.sh installs it"))?;
        // A link to a library's own name stays readable by that name.
        let inside = found.display().to_string();
        self.program(&found, &inside)
    }

    /// Writes the archive for `reference` (`localhost/name:tag`).
    ///
    /// # Errors
    /// A file cannot be read, or the archive not written.
    pub fn write(&self, reference: &str, archive: &Path) -> Result<()> {
        let draft = archive.with_extension("layer");
        let (layer, size) = self.write_layer(&draft)?;
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        }))?;
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
        }))?;
        let index = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
                "annotations": {"io.containerd.image.name": reference}, "platform": {"architecture": architecture(), "os": "linux"},
            }],
        }))?;
        let mut tar = Tar::create(archive)?;
        tar.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.bytes("index.json", &index)?;
        tar.bytes(&blob(&digest(&config)), &config)?;
        tar.bytes(&blob(&digest(&manifest)), &manifest)?;
        tar.copy(&blob(&layer), &draft, 0o644)?;
        tar.end()?;
        fs::remove_file(&draft)?;
        Ok(())
    }

    fn write_layer(&self, path: &Path) -> Result<(String, u64)> {
        let mut tar = Tar::create(path)?;
        tar.folder("tmp", 0o1777)?;
        for (inside, source) in &self.files {
            let mode = fs::metadata(source)
                .with_context(|| format!("cannot read {}", source.display()))?
                .permissions()
                .mode()
                & 0o777;
            let inside = inside.to_str().context("a path that is not text")?;
            tar.copy(inside.trim_start_matches('/'), source, mode)?;
        }
        tar.end()?;
        // The program of the same name is some hundred times faster than a debug build of ours.
        let output = Command::new("sha256sum").arg(path).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let hash = said
            .split_whitespace()
            .next()
            .context("sha256sum said nothing")?;
        Ok((format!("sha256:{hash}"), fs::metadata(path)?.len()))
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(hash: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in hash {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The libraries and the loader of a program, as the loader finds them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

/// A writer of the ustar format.
struct Tar {
    file: io::BufWriter<File>,
}

impl Tar {
    fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            file: io::BufWriter::with_capacity(1 << 20, file),
        })
    }

    fn header(&mut self, name: &str, size: u64, mode: u32, kind: u8) -> Result<()> {
        let mut block = [0; 512];
        let (prefix, name) = split(name)?;
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"00000000000");
        block[148..156].fill(b' ');
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Ok(self.file.write_all(&block)?)
    }

    fn folder(&mut self, name: &str, mode: u32) -> Result<()> {
        self.header(&format!("{name}/"), 0, mode, b'5')
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.header(name, bytes.len() as u64, 0o644, b'0')?;
        self.file.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn copy(&mut self, name: &str, source: &Path, mode: u32) -> Result<()> {
        let mut file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let size = file.metadata()?.len();
        self.header(name, size, mode, b'0')?;
        let copied = io::copy(&mut file, &mut self.file)?;
        ensure!(
            copied == size,
            "{} changed while it was read",
            source.display()
        );
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let rest = (512 - size % 512) % 512;
        Ok(self.file.write_all(&[0; 512][..usize::try_from(rest)?])?)
    }

    fn end(mut self) -> Result<()> {
        self.file.write_all(&[0; 1024])?;
        Ok(self.file.flush()?)
    }
}

/// A long name is divided at a slash: at most 155 letters before it, 100 behind.
fn split(name: &str) -> Result<(&str, &str)> {
    if name.len() <= 100 {
        return Ok(("", name));
    }
    name.match_indices('/')
        .map(|(at, _)| (&name[..at], &name[at + 1..]))
        .find(|(prefix, rest)| prefix.len() <= 155 && rest.len() <= 100)
        .with_context(|| format!("the path {name} is too long for an archive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_was_written_and_the_index_names_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        Image::new(&["/bin/true"])
            .program(Path::new("/bin/true"), "/bin/true")
            .unwrap()
            .write("localhost/true:dev", &archive)
            .unwrap();
        let output = Command::new("tar")
            .arg("-tf")
            .arg(&archive)
            .output()
            .unwrap();
        assert!(output.status.success());
        let list = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            list.lines()
                .filter(|line| line.starts_with("blobs/sha256/"))
                .count(),
            3
        );
        let output = Command::new("tar")
            .args(["-xOf"])
            .arg(&archive)
            .arg("index.json")
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("localhost/true:dev"));
    }

    #[test]
    fn a_long_path_is_divided_at_a_slash() {
        let name = format!("{}/{}", "a".repeat(120), "b".repeat(80));
        assert_eq!(split(&name).unwrap(), (&name[..120], &name[121..]));
        assert!(split(&"c".repeat(300)).is_err());
    }
}
