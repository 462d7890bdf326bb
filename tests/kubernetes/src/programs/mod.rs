//! The programs of other people that the tests run: which, in which version, and where they lie.
//!
//! Each lies in the cache as `<program>-<version>/<program>`, outside the tree, and is built from published Go modules when it is
//! absent ([`go`]); one is taken from a Debian package ([`debian`]). The cache is `$TWINSITE_CACHE`, else `~/.cache/twinsite`; without it everything works, only later.

mod debian;
mod go;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The release of Kubernetes that the tests run.
pub const KUBERNETES: &str = "v1.37.1";

/// A program from a Go module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubelet,
    Kubectl,
    CsiSanity,
    CsiProvisioner,
    CsiAttacher,
    CsiResizer,
    Helm,
    /// The Lua that Argo CD runs.
    Glua,
}

impl Program {
    /// What a control plane without nodes takes.
    pub const CONTROL_PLANE: &'static [Self] = &[Self::Etcd, Self::KubeApiserver];

    /// Everything of a whole cluster and what installs and tests the driver on it.
    pub const ALL: &'static [Self] = &[
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubelet,
        Self::Kubectl,
        Self::CsiSanity,
        Self::CsiProvisioner,
        Self::CsiAttacher,
        Self::CsiResizer,
        Self::Helm,
    ];

    /// Its file name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Kubectl => "kubectl",
            Self::CsiSanity => "csi-sanity",
            Self::CsiProvisioner => "csi-provisioner",
            Self::CsiAttacher => "csi-attacher",
            Self::CsiResizer => "csi-resizer",
            Self::Helm => "helm",
            Self::Glua => "glua",
        }
    }

    /// Module, version and package below the module.
    fn source(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Etcd => ("go.etcd.io/etcd/server/v3", "v3.6.8", ""),
            Self::KubeApiserver => ("k8s.io/kubernetes", KUBERNETES, "/cmd/kube-apiserver"),
            Self::KubeControllerManager => (
                "k8s.io/kubernetes",
                KUBERNETES,
                "/cmd/kube-controller-manager",
            ),
            Self::KubeScheduler => ("k8s.io/kubernetes", KUBERNETES, "/cmd/kube-scheduler"),
            Self::Kubelet => ("k8s.io/kubernetes", KUBERNETES, "/cmd/kubelet"),
            Self::Kubectl => ("k8s.io/kubernetes", KUBERNETES, "/cmd/kubectl"),
            Self::CsiSanity => (
                "github.com/kubernetes-csi/csi-test/v5",
                "v5.6.0",
                "/cmd/csi-sanity",
            ),
            Self::CsiProvisioner => (
                "github.com/kubernetes-csi/external-provisioner/v6",
                "v6.3.0",
                "/cmd/csi-provisioner",
            ),
            Self::CsiAttacher => (
                "github.com/kubernetes-csi/external-attacher/v4",
                "v4.12.0",
                "/cmd/csi-attacher",
            ),
            Self::CsiResizer => (
                "github.com/kubernetes-csi/external-resizer/v2",
                "v2.2.0",
                "/cmd/csi-resizer",
            ),
            Self::Helm => ("helm.sh/helm/v4", "v4.2.4", "/cmd/helm"),
            Self::Glua => ("github.com/yuin/gopher-lua", "v1.1.2", "/cmd/glua"),
        }
    }

    fn place(self, cache: &Path) -> PathBuf {
        let (_, version, _) = self.source();
        cache
            .join(format!("{}-{version}", self.name()))
            .join(self.name())
    }
}

/// The programs, all of those asked for present.
#[derive(Debug, Clone)]
pub struct Programs {
    cache: PathBuf,
}

impl Programs {
    /// Why the programs cannot be had here, if so: the test says this line and ends.
    #[must_use]
    pub fn missing(wanted: &[Program]) -> Option<String> {
        let Ok(cache) = cache() else {
            return Some(
                "there is no home folder to keep Kubernetes' programs in: set TWINSITE_CACHE"
                    .into(),
            );
        };
        let absent: Vec<&str> = wanted
            .iter()
            .filter(|program| !program.place(&cache).exists())
            .map(|program| program.name())
            .collect();
        if absent.is_empty() || go::present() {
            return None;
        }
        Some(format!(
            "no Go on this machine to build {} with (https://go.dev/dl)",
            absent.join(", ")
        ))
    }

    /// Builds what is absent, one program after the other, with a line for each; another process that does the same is
    /// waited for.
    ///
    /// # Errors
    /// Go is missing, a module cannot be had, or a build fails.
    pub fn obtain(wanted: &[Program]) -> Result<Self> {
        let cache = cache()?;
        let absent = |program: &&Program| !program.place(&cache).exists();
        if wanted.iter().any(|program| absent(&program)) {
            let _lock = locked(&cache)?;
            for &program in wanted.iter().filter(absent) {
                let (module, version, package) = program.source();
                go::build(&cache, module, version, package, &program.place(&cache))
                    .with_context(|| format!("cannot build {} {version}", program.name()))?;
            }
        }
        Ok(Self { cache })
    }

    /// Where a program lies.
    #[must_use]
    pub fn path(&self, program: Program) -> PathBuf {
        program.place(&self.cache)
    }
}

/// Prometheus' tool for rules: the one of this machine, else that of Debian's package, fetched into the cache and not installed.
///
/// # Errors
/// There is none here, and the package cannot be had.
pub fn promtool() -> Result<PathBuf> {
    let here = PathBuf::from("promtool");
    if Command::new(&here).arg("--version").output().is_ok() {
        return Ok(here);
    }
    let cache = cache()?;
    let place = cache.join("promtool-debian/promtool");
    let _lock = locked(&cache)?;
    if !place.exists() {
        debian::fetch("prometheus", "usr/bin/promtool", &place)?;
    }
    Ok(place)
}

/// The cache, made if it is not there, while nobody else puts something into it.
fn locked(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache)
        .with_context(|| format!("cannot make the cache {}", cache.display()))?;
    let lock = File::create(cache.join("build.lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("TWINSITE_CACHE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let home = env::var_os("HOME").context("neither TWINSITE_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/twinsite"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_versions_of_a_program_lie_apart() {
        let cache = Path::new("/cache");
        assert_eq!(
            Program::Kubelet.place(cache),
            Path::new("/cache/kubelet-v1.37.1/kubelet")
        );
    }

    #[test]
    fn all_programs_have_a_name_and_a_source_of_their_own() {
        for (index, program) in Program::ALL.iter().enumerate() {
            for other in &Program::ALL[index + 1..] {
                assert_ne!(program.name(), other.name());
                assert_ne!(program.source(), other.source());
            }
        }
    }
}
