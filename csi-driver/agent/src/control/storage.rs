//! Pools and legs: opens directories and devices, serves legs by iSCSI, measures what it serves.
//!
//! There is one server per set of addresses. A leg is a target of its own, so that a volume's legs can
//! be served, fenced and stopped without a thought of the others.
//!
//! ```text
//! <state>/legs/<volume>-<a|b>     this leg was made here, with so many bytes: a file that is missing or shorter now is a
//!                                 loss, not a birth or something to be grown
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use twinsite_api::{
    HEAD_BYTES, LegRemoval, LegSpec, NodeBackend, VolumeId, parse_naa, reason, told,
};
use twinsite_iscsi::{
    chap::{Secret as ChapSecret, SecretError},
    scsi::BlockSize,
    session::{Account, Acl, Auth},
};
use twinsite_mirror::layout::{BLOCK, SLOT_OFFSETS, Slots};

use super::{
    durable::{read_optional, write_durable},
    secrets::{self, SecretFault},
};
use crate::{
    backend::{Access, BackendError, Backing, Capacity, Pool},
    objects::Objects,
    reactor::Thread,
    target::{
        Export, ExportLun, PortalConfig, Server, ServerConfig, ServerError, ServerHandle,
        TargetStats,
    },
};

/// How long initiators get to log out when the agent ends.
const GRACE: Duration = Duration::from_secs(2);

/// Everything that this node serves.
pub struct Storage {
    threads: Vec<Thread>,
    /// Where to listen instead of at the pools' portals.
    listen: Vec<SocketAddr>,
    made: PathBuf,
    servers: BTreeMap<Vec<SocketAddr>, ServerHandle>,
    pools: BTreeMap<String, OpenPool>,
    legs: BTreeMap<String, Served>,
}

enum OpenPool {
    Directory(Pool),
    Device(PathBuf),
}

struct Served {
    server: ServerHandle,
    iqn: String,
    spec: LegSpec,
    path: PathBuf,
}

/// What a leg's target says.
#[derive(Clone, Debug)]
pub struct LegSample {
    pub addresses: Vec<SocketAddr>,
    pub stats: TargetStats,
    pub last_foreign: Option<Duration>,
    /// Bytes that its file takes.
    pub allocated: Option<u64>,
}

/// What is to be asked of a leg's target.
pub struct LegProbe {
    pub name: String,
    server: ServerHandle,
    iqn: String,
    lun: u16,
    own_key: u64,
    path: PathBuf,
}

/// A pool to be measured.
pub struct PoolProbe {
    pub name: String,
    pool: Pool,
}

impl PoolProbe {
    /// Its space and what its marker says; may wait for its disk.
    pub fn take(&self) -> Option<(Capacity, String)> {
        Some((self.pool.capacity().ok()?, self.pool.id().to_owned()))
    }
}

impl LegProbe {
    /// Asks; waits for a data thread.
    pub fn take(&self) -> Option<LegSample> {
        let stats = self.server.stats(&self.iqn).ok()?;
        let last_foreign = self
            .server
            .foreign_command_age(&self.iqn, self.lun, self.own_key);
        Some(LegSample {
            addresses: self.server.addresses().to_vec(),
            stats,
            last_foreign: last_foreign.ok().flatten(),
            allocated: fs::metadata(&self.path)
                .ok()
                .filter(fs::Metadata::is_file)
                .map(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512),
        })
    }
}

/// Why something cannot be served; `word` is a condition reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub word: &'static str,
    pub text: String,
}

impl Fault {
    fn new(word: &'static str, text: impl Into<String>) -> Self {
        Self {
            word,
            text: text.into(),
        }
    }
}

/// The one table from errors to reasons and advice.
impl From<BackendError> for Fault {
    fn from(error: BackendError) -> Self {
        let advice = |word, advice: &str| Self::new(word, format!("{}: {advice}", told(&error)));
        match &error {
            BackendError::NoMarker(_) => advice(
                reason::POOL_NOT_MOUNTED,
                "mount its disk; if this is a new pool, make it one with `twinsite-agent pool init`",
            ),
            BackendError::BadMarker(_) => {
                advice(reason::POOL_MISMATCH, "mount the right disk here")
            }
            BackendError::Locked(_) => advice(reason::PENDING, "it is tried again"),
            BackendError::Size { .. } => advice(
                reason::INVALID_SPEC,
                "correct spec.size: a leg never shrinks",
            ),
            BackendError::NoLeg(_) => advice(
                reason::LEG_FILE_MISSING,
                "see that the pool's disk is the right one",
            ),
            BackendError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                advice(reason::POOL_FULL, "make room in the pool")
            }
            BackendError::PoolExists(_)
            | BackendError::Name(_)
            | BackendError::LegExists(_)
            | BackendError::Kind(_)
            | BackendError::Io { .. } => advice(reason::PENDING, "it is tried again"),
        }
    }
}

impl From<ServerError> for Fault {
    fn from(error: ServerError) -> Self {
        let advice = match &error {
            ServerError::Listen { .. } => "see that the address is this node's and free",
            ServerError::Exists(_) => {
                "another Leg has this iSCSI name: correct spec.iqn of one of them"
            }
            _ => "it is tried again",
        };
        Self::new(reason::PENDING, format!("{}: {advice}", told(&error)))
    }
}

impl From<SecretFault> for Fault {
    fn from(fault: SecretFault) -> Self {
        Self::new(reason::PENDING, fault.to_string())
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        Self::new(reason::INVALID_SPEC, error.to_string())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::new(reason::PENDING, format!("{error}: it is tried again"))
    }
}

impl Storage {
    /// Serves with these threads, which do nothing else; `listen` empty: at the portals of the pools.
    pub fn new(threads: Vec<Thread>, listen: Vec<SocketAddr>, state: &Path) -> io::Result<Self> {
        let made = state.join("legs");
        fs::create_dir_all(&made)?;
        Ok(Self {
            threads,
            listen,
            made,
            servers: BTreeMap::new(),
            pools: BTreeMap::new(),
            legs: BTreeMap::new(),
        })
    }

    /// Opens a pool. Gives the directory in which marks are kept, if it is one.
    pub fn open_pool(
        &mut self,
        name: &str,
        backend: &NodeBackend,
    ) -> Result<Option<PathBuf>, Fault> {
        if let Some(directory) = &backend.directory {
            let pool = Pool::open(Path::new(directory))?;
            self.pools
                .insert(name.to_owned(), OpenPool::Directory(pool));
            return Ok(Some(directory.into()));
        }
        let device = backend.device.as_deref().unwrap_or_default();
        fs::metadata(device).map_err(|error| {
            Fault::new(
                reason::POOL_NOT_MOUNTED,
                format!("{device}: {error}: see that the device is there"),
            )
        })?;
        self.pools
            .insert(name.to_owned(), OpenPool::Device(device.into()));
        Ok(None)
    }

    pub fn close_pool(&mut self, name: &str) {
        self.pools.remove(name);
    }

    /// What is to be measured.
    pub fn pool_probes(&self) -> Vec<PoolProbe> {
        let probe = |(name, pool): (&String, &OpenPool)| match pool {
            OpenPool::Directory(pool) => Some(PoolProbe {
                name: name.clone(),
                pool: pool.clone(),
            }),
            OpenPool::Device(_) => None,
        };
        self.pools.iter().filter_map(probe).collect()
    }

    /// Serves a leg. A leg that was never made here is made now, empty.
    pub fn serve_leg(
        &mut self,
        name: &str,
        spec: &LegSpec,
        objects: &Objects,
    ) -> Result<(), Fault> {
        let backing = self.open_leg(spec)?;
        let path = backing.path().to_owned();
        let (auth, acl) = access(spec, objects)?;
        let iqn = spec.target_name();
        let lun = unit(spec, backing)?;
        let server = self.server(&spec.pool, objects)?;
        server.add_export(Export {
            iqn: iqn.clone(),
            alias: Some(name.to_owned()),
            auth,
            acl,
            redirect: None,
            luns: vec![lun],
        })?;
        self.legs.insert(
            name.to_owned(),
            Served {
                server,
                iqn,
                spec: spec.clone(),
                path,
            },
        );
        Ok(())
    }

    fn open_leg(&self, spec: &LegSpec) -> Result<Backing, Fault> {
        let wanted = spec.size.bytes().checked_add(HEAD_BYTES);
        let wanted =
            wanted.ok_or_else(|| Fault::new(reason::INVALID_SPEC, "spec.size is too large"))?;
        let file = file_name(spec);
        let pool = match self.pools.get(&spec.pool) {
            Some(OpenPool::Directory(pool)) => pool,
            Some(OpenPool::Device(path)) => {
                let backing = Backing::open(path, Some(wanted), Access::ReadWrite)?;
                return Ok(backing.with_reservations(self.made.join(format!("{file}.pr")))?);
            }
            None => {
                return Err(Fault::new(
                    reason::PENDING,
                    format!("StoragePool {} is not open", spec.pool),
                ));
            }
        };
        let made = self.made.join(&file);
        let known = pool.legs()?.into_iter().find(|(name, _)| *name == file);
        let size_made = size_made(&made)?;
        match known {
            Some((_, size)) if size_made.is_some_and(|made| size < made) => {
                return Err(Fault::new(
                    reason::LEG_FILE_MISSING,
                    format!(
                        "{file} has {size} bytes in the pool and had {}: a part of it is gone; see that the pool's disk is the right one; to build this copy anew by a full resync, remove the file and {}",
                        size_made.unwrap_or_default(),
                        made.display()
                    ),
                ));
            }
            Some((_, size)) if size < wanted => {
                self.check_room(pool, wanted - size)?;
                pool.grow_leg(&file, wanted)?;
            }
            Some(_) => {}
            None if size_made.is_some() => {
                return Err(Fault::new(
                    reason::LEG_FILE_MISSING,
                    format!(
                        "the pool has no {file} although this node made it: see that the pool's disk is the right one; to build this copy anew by a full resync, remove {}",
                        made.display()
                    ),
                ));
            }
            None => {
                self.check_room(pool, wanted)?;
                pool.create_leg(&file, wanted)?;
            }
        }
        write_durable(&made, wanted.to_string().as_bytes())?;
        Ok(pool.open_leg(&file, wanted)?)
    }

    /// Files are sparse: a size that does not fit would only be found by a write that fails.
    fn check_room(&self, pool: &Pool, more: u64) -> Result<(), Fault> {
        let Capacity { free, .. } = pool.capacity()?;
        if free < more {
            let text = format!(
                "the pool has {free} bytes left and {more} are wanted: make room, or ask for less"
            );
            return Err(Fault::new(reason::POOL_FULL, text));
        }
        Ok(())
    }

    /// Grows a leg under its initiators.
    pub fn grow_leg(&mut self, name: &str, spec: &LegSpec) -> Result<(), Fault> {
        let served = self
            .legs
            .get_mut(name)
            .ok_or_else(|| Fault::new(reason::PENDING, "not served"))?;
        let wanted = spec.size.bytes() + HEAD_BYTES;
        match self.pools.get(&spec.pool) {
            Some(OpenPool::Directory(pool)) => {
                let more = spec.size.bytes().saturating_sub(served.spec.size.bytes());
                let Capacity { free, .. } = pool.capacity()?;
                if free < more {
                    let text = format!(
                        "the pool has {free} bytes left and {more} more are wanted: make room, or ask for less"
                    );
                    return Err(Fault::new(reason::POOL_FULL, text));
                }
                pool.grow_leg(&file_name(spec), wanted)?;
                let made = self.made.join(file_name(spec));
                write_durable(&made, wanted.to_string().as_bytes())?;
            }
            Some(OpenPool::Device(_)) | None => {
                return Err(Fault::new(
                    reason::INVALID_SPEC,
                    "a device does not grow by itself: stop the leg, enlarge the device",
                ));
            }
        }
        served.server.set_size(&served.iqn, spec.lun, wanted)?;
        served.spec.size = spec.size.clone();
        Ok(())
    }

    /// What is to become of the file of a served leg, as its object says now.
    pub fn set_removal(&mut self, name: &str, removal: LegRemoval) {
        if let Some(served) = self.legs.get_mut(name) {
            served.spec.removal = removal;
        }
    }

    /// Changes who may log in; sessions that exist go on.
    pub fn set_access(
        &mut self,
        name: &str,
        spec: &LegSpec,
        objects: &Objects,
    ) -> Result<(), Fault> {
        let (auth, acl) = access(spec, objects)?;
        let served = self
            .legs
            .get_mut(name)
            .ok_or_else(|| Fault::new(reason::PENDING, "not served"))?;
        served.server.set_access(&served.iqn, auth, acl)?;
        (served.spec.chap, served.spec.initiators) = (spec.chap.clone(), spec.initiators.clone());
        Ok(())
    }

    /// Ends the sessions of a leg and lets its file go; removes the file if the order says so and the
    /// leg was wiped.
    pub fn stop_leg(&mut self, name: &str, object_is_gone: bool) -> Result<(), Fault> {
        let Some(served) = self.legs.remove(name) else {
            return Ok(());
        };
        served.server.remove_export(&served.iqn)?;
        if object_is_gone && served.spec.removal == LegRemoval::DeleteWiped {
            self.delete_wiped(&served.spec)?;
        }
        Ok(())
    }

    fn delete_wiped(&self, spec: &LegSpec) -> Result<(), Fault> {
        let Some(OpenPool::Directory(pool)) = self.pools.get(&spec.pool) else {
            return Ok(());
        };
        let file = file_name(spec);
        let Some((_, size)) = pool.legs()?.into_iter().find(|(name, _)| *name == file) else {
            return Ok(());
        };
        let backing = pool.open_leg(&file, size)?;
        let is_wiped = is_wiped(backing.path())?;
        drop(backing);
        if !is_wiped {
            tracing::warn!(
                leg = file,
                "the leg still carries a superblock: its file stays"
            );
            return Ok(());
        }
        pool.delete_leg(&file)?;
        super::durable::remove_durable(&self.made.join(&file))?;
        tracing::info!(leg = file, "the leg was wiped before: its file is removed");
        Ok(())
    }

    /// What is to be asked of every served leg; `own_key`: the key by which this node holds the volume.
    pub fn probes(&self, own_key: impl Fn(VolumeId) -> u64) -> Vec<LegProbe> {
        let probe = |(name, served): (&String, &Served)| LegProbe {
            name: name.clone(),
            server: served.server.clone(),
            iqn: served.iqn.clone(),
            lun: served.spec.lun,
            own_key: own_key(served.spec.volume),
            path: served.path.clone(),
        };
        self.legs.iter().map(probe).collect()
    }

    /// Takes no more connections and ends those that are.
    pub fn shutdown(&mut self) {
        self.legs.clear();
        for server in std::mem::take(&mut self.servers).into_values() {
            server.shutdown(GRACE);
        }
    }

    fn server(&mut self, pool: &str, objects: &Objects) -> Result<ServerHandle, Fault> {
        let addresses = if self.listen.is_empty() {
            portals_of(pool, objects)?
        } else {
            self.listen.clone()
        };
        if let Some(server) = self.servers.get(&addresses) {
            return Ok(server.clone());
        }
        let portals = addresses
            .iter()
            .map(|address| PortalConfig::new(*address))
            .collect();
        let server = Server::start(ServerConfig::new(portals), self.threads.clone())?;
        self.servers.insert(addresses, server.clone());
        Ok(server)
    }
}

/// The size with which a leg was made or grown here; `None`: it never was.
fn size_made(record: &Path) -> io::Result<Option<u64>> {
    let bytes = read_optional(record)?;
    let number = |bytes: &Vec<u8>| std::str::from_utf8(bytes).ok()?.parse().ok();
    Ok(bytes.map(|bytes| number(&bytes).unwrap_or_default()))
}

fn portals_of(pool: &str, objects: &Objects) -> Result<Vec<SocketAddr>, Fault> {
    let portals = objects
        .pools
        .get(pool)
        .map(|pool| pool.spec.portals.as_slice())
        .unwrap_or_default();
    let mut addresses = BTreeSet::new();
    for portal in portals {
        let resolved = portal.to_socket_addrs().map_err(|error| {
            Fault::new(
                reason::INVALID_SPEC,
                format!("portal {portal} of StoragePool {pool}: {error}: correct it"),
            )
        })?;
        addresses.extend(resolved);
    }
    Ok(addresses.into_iter().collect())
}

/// A leg as it is served: stable writes are synced elsewhere, since its thread is that of other disks, too.
fn unit(spec: &LegSpec, backing: Backing) -> Result<ExportLun, Fault> {
    let mut unit = ExportLun::new(&spec.target_name(), spec.lun, backing);
    // The threads of the server serve nothing but legs.
    unit.write_at_once = true;
    unit.naa = parse_naa(&spec.naa_text())
        .ok_or_else(|| Fault::new(reason::INVALID_SPEC, "spec.naa is no NAA name"))?;
    unit.block_size = if spec.block_size == 512 {
        BlockSize::B512
    } else {
        BlockSize::B4096
    };
    Ok(unit)
}

/// Name of the leg's file in its pool.
fn file_name(spec: &LegSpec) -> String {
    format!("{}-{}", spec.volume, spec.leg.letter())
}

fn access(spec: &LegSpec, objects: &Objects) -> Result<(Auth, Acl), Fault> {
    let auth = match secrets::chap(&objects.secrets, spec.chap.as_ref(), &spec.target_name())? {
        None => Auth::None,
        Some(chap) => {
            let account = Account {
                secret: ChapSecret::new(chap.password.as_bytes())?,
                initiator: None,
            };
            let mutual = match chap.mutual {
                Some((name, password)) => Some((name, ChapSecret::new(password.as_bytes())?)),
                None => None,
            };
            Auth::chap(BTreeMap::from([(chap.username, account)]), mutual)?
        }
    };
    let acl = if spec.initiators.is_empty() {
        Acl::Any
    } else {
        Acl::Only(spec.initiators.iter().cloned().collect())
    };
    Ok((auth, acl))
}

fn is_wiped(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(path)?;
    let mut blocks = [[0; BLOCK]; 2];
    for (block, offset) in blocks.iter_mut().zip(SLOT_OFFSETS) {
        file.read_exact_at(block, offset)?;
    }
    Ok(Slots::parse([&blocks[0], &blocks[1]]) == Slots::Blank)
}

#[cfg(test)]
mod tests;
