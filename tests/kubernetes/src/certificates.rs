//! A certificate authority of a cluster's own, by the `openssl` program.
//!
//! Keys are P-256: making one takes milliseconds. Everything lies in one folder as `<name>.crt` and `<name>.key`.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};

const DAYS: &str = "30";
const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

/// The authority and the folder of what it signed.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes an authority, and a key that signs service accounts' tokens, in `folder`.
    ///
    /// # Errors
    /// `openssl` is missing or refuses.
    pub fn make(folder: &Path, cluster: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let made = Self {
            folder: folder.to_owned(),
        };
        let mut authority = openssl("req");
        authority
            .arg("-x509")
            .args(NEW_KEY)
            .args(["-days", DAYS, "-subj", &format!("/CN={cluster}-ca")])
            .arg("-keyout")
            .arg(made.key("ca"))
            .arg("-out")
            .arg(made.certificate("ca"));
        run(&mut authority)?;
        let mut tokens = openssl("genpkey");
        tokens
            .args([
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
            ])
            .arg(made.key("tokens"));
        run(&mut tokens)?;
        let mut public = openssl("pkey");
        public
            .arg("-in")
            .arg(made.key("tokens"))
            .arg("-pubout")
            .arg("-out")
            .arg(made.public_key("tokens"));
        run(&mut public)?;
        Ok(made)
    }

    /// Signs a certificate for `subject` (`/O=group/CN=user`), good for servers at `addresses` and for clients.
    ///
    /// # Errors
    /// `openssl` refuses.
    pub fn sign(&self, name: &str, subject: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        let mut names = String::from("DNS:localhost,DNS:kubernetes.default.svc");
        for address in addresses {
            let _ = write!(names, ",IP:{address}");
        }
        let extensions = self.folder.join(format!("{name}.ext"));
        fs::write(
            &extensions,
            format!("subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"),
        )?;
        let request = self.folder.join(format!("{name}.csr"));
        let mut ask = openssl("req");
        ask.args(NEW_KEY)
            .args(["-subj", subject, "-keyout"])
            .arg(self.key(name))
            .arg("-out")
            .arg(&request);
        run(&mut ask)?;
        let mut sign = openssl("x509");
        sign.args(["-req", "-days", DAYS, "-set_serial", &serial(), "-in"])
            .arg(&request)
            .arg("-CA")
            .arg(self.certificate("ca"))
            .arg("-CAkey")
            .arg(self.key("ca"))
            .arg("-extfile")
            .arg(&extensions)
            .arg("-out")
            .arg(self.certificate(name));
        run(&mut sign)
    }

    /// A kubeconfig whose user is the certificate `name`, everything inside it: it may be carried elsewhere.
    ///
    /// # Errors
    /// A file of the certificate cannot be read.
    pub fn kubeconfig(&self, server: &str, name: &str) -> Result<String> {
        let inline = |path: PathBuf| -> Result<String> {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(base64(&bytes))
        };
        Ok(format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: cluster, cluster: {{server: \"{server}\", certificate-authority-data: {}}}}}]\n\
             users: [{{name: {name}, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n\
             contexts: [{{name: cluster, context: {{cluster: cluster, user: {name}}}}}]\n\
             current-context: cluster\n",
            inline(self.certificate("ca"))?,
            inline(self.certificate(name))?,
            inline(self.key(name))?,
        ))
    }

    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    #[must_use]
    pub fn public_key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pub"))
    }
}

/// Unlike every other of this process; no file keeps count, since machines are made side by side.
fn serial() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

fn openssl(what: &str) -> Command {
    let mut command = Command::new("openssl");
    command.arg(what);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot run openssl: install the package openssl")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Standard base64 with padding, as kubeconfig and Secret want it.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for position in 0..4 {
            if position <= chunk.len() {
                text.push(char::from(
                    LETTERS[(bits >> (18 - 6 * position)) as usize & 63],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_everybody_else_writes() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
    }

    #[test]
    fn a_signed_certificate_is_of_its_authority() {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: openssl is missing");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let made = Certificates::make(folder.path(), "medical").unwrap();
        made.sign(
            "admin",
            "/O=system:masters/CN=admin",
            &[Ipv4Addr::LOCALHOST],
        )
        .unwrap();
        let output = Command::new("openssl")
            .arg("verify")
            .arg("-CAfile")
            .arg(made.certificate("ca"))
            .arg(made.certificate("admin"))
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = made.kubeconfig("https://127.0.0.1:1", "admin").unwrap();
        kube::config::Kubeconfig::from_yaml(&text).unwrap();
    }
}
