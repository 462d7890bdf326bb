//! Does for the volumes of a folder what the operator does in a cluster: legs, birth, growth, burial.
//!
//! ```text
//!   legs ordered -> served -> birth ordered -> Done: live
//!   deletion     -> register to tombstone -> wipe ordered -> Done -> legs removed -> register removed
//! ```
//! Each turn looks at what is there and does the next step, so that it may die between any two. Nothing moves between sites
//! here.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt as _;
use twinsite_api::{
    ActiveSite, Attachment, AttachmentMode, AttachmentState, AttachmentStatus, Leg, LegIndex,
    LegRemoval, LegSpec, LegState, LegStatus, LegTarget, MirroredVolume, Quantity, SitePair,
    StoragePool, VolumeId, VolumeLegState, VolumeLegStatus, condition, condition_type,
    order::{self, attachment_name, leg_name},
    reason, set_condition,
};
use twinsite_witness::{
    Directory, Swap, Witness,
    register::{self, GroupId, Register, State, TxId},
};

use super::{Folder, list, new_uid, read, remove, said, write};
use crate::{
    controller::{
        identity,
        objects::{Objects as _, ObjectsError, Result},
    },
    serve::Stop,
};

const TURN: Duration = Duration::from_millis(100);

/// Looks after all volumes until it is told to stop.
pub async fn tend(folder: Arc<Folder>, stop: Stop) {
    let turns = async {
        loop {
            if let Err(error) = turn(&folder).await {
                tracing::warn!(%error, "volumes are not looked after now");
            }
            tokio::time::sleep(TURN).await;
        }
    };
    tokio::select! {
        () = turns => {}
        () = stop.wait() => {}
    }
}

async fn turn(folder: &Folder) -> Result<()> {
    for volume in folder.volumes().await? {
        let task = Task {
            folder,
            id: identity(&volume),
            volume: &volume,
        };
        let told = if volume.metadata.deletion_timestamp.is_some() {
            task.bury().await
        } else {
            task.raise().await
        };
        if let Err(error) = told {
            task.tell(&error.to_string())?;
        }
    }
    Ok(())
}

/// One volume in one turn.
struct Task<'a> {
    folder: &'a Folder,
    id: VolumeId,
    volume: &'a MirroredVolume,
}

fn pending(text: impl Into<String>) -> ObjectsError {
    ObjectsError::Away(text.into())
}

impl Task<'_> {
    /// Both legs served, the volume born, and what is so in its status.
    async fn raise(&self) -> Result<()> {
        let pair = self.pair().await?;
        let pools = self.folder.pools().await?;
        let mut legs = Vec::new();
        let mut sizes = Vec::new();
        for wanted in &self.volume.spec.legs {
            let ordered = self.order_leg(&pair, &pools, &wanted.site)?;
            let folder = self.site(&wanted.site)?;
            let said: Option<LegStatus> = said(folder, "leg", &ordered.name_any())?;
            let said = said.filter(|said| said.state == LegState::Serving);
            sizes.push(said.as_ref().and_then(|said| said.size).unwrap_or(0));
            legs.push(self.leg_status(&ordered, said, &pools));
        }
        let size = sizes.into_iter().min().unwrap_or(0);
        let mut after = self.volume.clone();
        let status = after.status.get_or_insert_default();
        status.volume_id = Some(self.id);
        status.legs = legs;
        if size > 0 {
            status.capacity = Some(Quantity::from_bytes(size));
        }
        if status.epoch.is_none() && size >= self.volume.spec.capacity.bytes() {
            self.give_birth(&pair, &mut after)?;
        }
        let status = after.status.get_or_insert_default();
        let live = status.epoch.is_some();
        for leg in status.legs.iter_mut().filter(|_| live) {
            leg.state = VolumeLegState::Member;
        }
        self.save(
            after,
            live,
            "the legs are not served yet, or the volume is being born",
        )
    }

    fn give_birth(&self, pair: &SitePair, after: &mut MirroredVolume) -> Result<()> {
        let site = self.volume.spec.active_site.clone().unwrap_or_default();
        let mode = AttachmentMode::Birth;
        let Some(done) = self.one_shot(after, pair, &site, mode)? else {
            return Ok(());
        };
        let register = done
            .register
            .ok_or_else(|| pending("the birth is done and shows no register yet"))?;
        let status = after.status.get_or_insert_default();
        status.epoch = Some(register.epoch).filter(|epoch| *epoch > 0);
        status.active_site = Some(ActiveSite {
            name: site.clone(),
            ..register.active_site
        });
        self.end_one_shot(&site, mode)
    }

    /// Orders something that is done once; what its agent says once it is.
    fn one_shot(
        &self,
        volume: &MirroredVolume,
        pair: &SitePair,
        site: &str,
        mode: AttachmentMode,
    ) -> Result<Option<AttachmentStatus>> {
        let folder = self.site(site)?;
        let name = attachment_name(self.id, mode);
        let path = folder.join(format!("{name}.yaml"));
        let status: Option<AttachmentStatus> = said(folder, "attachment", &name)?;
        if read::<Attachment>(&path)?.is_none() {
            let node = self.node_at(site)?;
            let order = order::object(volume, pair, site, &node, mode);
            let mut order = order.map_err(|not_yet| pending(not_yet.to_string()))?;
            order.metadata.uid = Some(new_uid()?);
            order.metadata.generation = Some(1);
            order.metadata.finalizers = None;
            write(&path, &order)?;
            return Ok(None);
        }
        match status {
            Some(status) if status.state == AttachmentState::Done => Ok(Some(status)),
            Some(status) if status.state == AttachmentState::Failed => Err(pending(format!(
                "{mode:?} failed: {}",
                status.message.unwrap_or_default()
            ))),
            _ => Ok(None),
        }
    }

    fn end_one_shot(&self, site: &str, mode: AttachmentMode) -> Result<()> {
        let name = attachment_name(self.id, mode);
        remove(&self.site(site)?.join(format!("{name}.yaml")))
    }

    /// The Leg of a site, made if it is not there, grown if it is too small.
    fn order_leg(&self, pair: &SitePair, pools: &[StoragePool], site: &str) -> Result<Leg> {
        let index = index_of(pair, site)?;
        let path = self.leg_file(site, &leg_name(self.id, index))?;
        let size = &self.volume.spec.capacity;
        if let Some(mut there) = read::<Leg>(&path)? {
            if there.spec.size.bytes() < size.bytes() {
                there.spec.size = size.clone();
                there.metadata.generation = there.metadata.generation.map(|number| number + 1);
                write(&path, &there)?;
            }
            return Ok(there);
        }
        let pool = self.pool(pools, site)?;
        let node = pool.spec.node.as_ref();
        let spec = LegSpec {
            volume: self.id,
            group: None,
            leg: index,
            site: site.to_owned(),
            site_pair: pair.name_any(),
            pool: pool.name_any(),
            node: node.map(|node| node.name.clone()).unwrap_or_default(),
            size: size.clone(),
            block_size: 4096,
            iqn: None,
            lun: 0,
            naa: None,
            chap: None,
            initiators: Vec::new(),
            removal: LegRemoval::DeleteWiped,
        };
        let mut leg = Leg::new(&leg_name(self.id, index), spec);
        leg.metadata.generation = Some(1);
        write(&path, &leg)?;
        Ok(leg)
    }

    fn pool<'p>(&self, pools: &'p [StoragePool], site: &str) -> Result<&'p StoragePool> {
        let namespace = self.volume.namespace().unwrap_or_default();
        let mut legs = self.volume.spec.legs.iter();
        let wanted = legs.find(|leg| leg.site == site);
        let fits = |pool: &&StoragePool| {
            let allowed = &pool.spec.allowed_namespaces;
            let name = wanted.and_then(|leg| leg.pool.as_ref());
            let class = wanted.and_then(|leg| leg.pool_class.as_ref());
            pool.spec.site == site
                && pool.spec.node.is_some()
                && name.is_none_or(|name| *name == pool.name_any())
                && class.is_none_or(|class| pool.spec.class.as_ref() == Some(class))
                && (allowed.is_empty() || allowed.contains(&namespace))
        };
        let free = |pool: &&StoragePool| pool.status.as_ref().and_then(|it| it.free_bytes);
        let found = pools.iter().filter(fits).max_by_key(free);
        found.ok_or_else(|| pending(format!("no pool at {site} fits: correct poolClass")))
    }

    fn node_at(&self, site: &str) -> Result<String> {
        let pools: Vec<StoragePool> = list(self.site(site)?, "StoragePool")?;
        let mut nodes = pools
            .into_iter()
            .filter(|pool| pool.spec.site == site)
            .filter_map(|pool| pool.spec.node);
        let node = nodes.next().map(|node| node.name);
        node.ok_or_else(|| pending(format!("site {site} has no node with a pool")))
    }

    fn leg_status(
        &self,
        leg: &Leg,
        said: Option<LegStatus>,
        pools: &[StoragePool],
    ) -> VolumeLegStatus {
        let pool = pools.iter().find(|pool| pool.name_any() == leg.spec.pool);
        let index = leg.spec.leg;
        let target = said.as_ref().map(|_| LegTarget {
            iqn: self.id.leg_iqn(index),
            lun: leg.spec.lun,
            naa: self.id.leg_naa_text(index),
            chap: leg.spec.chap.clone(),
            ..LegTarget::default()
        });
        let portals = pool.map(|pool| pool.spec.portals.clone());
        VolumeLegStatus {
            site: leg.spec.site.clone(),
            leg: Some(index),
            state: VolumeLegState::New,
            dirty_bytes: None,
            resync_percent: None,
            resync_bytes_per_second: None,
            eta_seconds: None,
            portals: portals.filter(|_| said.is_some()).unwrap_or_default(),
            target,
            observed_at: None,
            observed_by: None,
        }
    }

    /// The volume and its copies, away for ever.
    async fn bury(&self) -> Result<()> {
        if self.is_ordered()? {
            return Err(pending("an order about it is still carried out"));
        }
        let pair = self.pair().await?;
        let witness = witness(&pair)?;
        let group = GroupId(self.id.bytes());
        let found = witness.read(group).await;
        let found = found.map_err(|error| pending(error.to_string()))?;
        match found {
            Some(register) if register.state != State::Tombstone => {
                let next = register
                    .tombstone(register::Gen(random()?), TxId(random()?))
                    .map_err(|refusal| pending(refusal.to_string()))?;
                return swap(&witness, &register, &next).await;
            }
            Some(register) if !register.is_buried() => {
                let site = self.folder.site.clone();
                let mode = AttachmentMode::Wipe;
                if self.one_shot(self.volume, &pair, &site, mode)?.is_none() {
                    return Ok(());
                }
                let mut next = register.clone();
                for leg in register::Leg::BOTH {
                    next = next
                        .wiped(leg, TxId(random()?))
                        .map_err(|refusal| pending(refusal.to_string()))?;
                }
                swap(&witness, &register, &next).await?;
                return self.end_one_shot(&site, mode);
            }
            Some(_) | None => {}
        }
        self.end_one_shot(&self.folder.site, AttachmentMode::Wipe)?;
        for leg in &self.volume.spec.legs {
            for index in LegIndex::BOTH {
                let name = leg_name(self.id, index);
                remove(&self.leg_file(&leg.site, &name)?)?;
                if said::<LegStatus>(self.site(&leg.site)?, "leg", &name)?.is_some() {
                    return Ok(());
                }
            }
        }
        if let Some(register) = found {
            match witness.remove(&register).await {
                Swap::Won | Swap::Conflict(None) => {}
                Swap::Conflict(Some(_)) => return Err(pending("the register has changed")),
                Swap::Unknown(what) => return Err(pending(what)),
            }
        }
        let _writing = self.folder.lock();
        remove(&self.own_file())
    }

    /// Whether an agent of any site has an order about the volume other than the one that wipes it.
    fn is_ordered(&self) -> Result<bool> {
        use AttachmentMode::{Birth, Caretaker, Inspect, Writer};
        for folder in self.folder.sites.values() {
            for mode in [Writer, Caretaker, Birth, Inspect] {
                let name = attachment_name(self.id, mode);
                if mode == Birth {
                    remove(&folder.join(format!("{name}.yaml")))?;
                }
                if said::<AttachmentStatus>(folder, "attachment", &name)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn pair(&self) -> Result<SitePair> {
        let name = &self.volume.spec.site_pair;
        let pair = self.folder.pair(name).await?;
        pair.ok_or_else(|| pending(format!("there is no SitePair {name}")))
    }

    fn site(&self, name: &str) -> Result<&Path> {
        let folder = self.folder.sites.get(name).map(PathBuf::as_path);
        folder.ok_or_else(|| pending(format!("no folder is named for site {name}")))
    }

    fn leg_file(&self, site: &str, name: &str) -> Result<PathBuf> {
        Ok(self.site(site)?.join(format!("{name}.yaml")))
    }

    fn own_file(&self) -> PathBuf {
        let namespace = self.volume.namespace().unwrap_or_default();
        self.folder.volume_file(&namespace, &self.volume.name_any())
    }

    /// Says why a volume does not come along.
    fn tell(&self, why: &str) -> Result<()> {
        self.save(self.volume.clone(), false, why)
    }

    /// Writes the status, beside a spec that may have changed meanwhile.
    fn save(&self, mut after: MirroredVolume, ready: bool, why: &str) -> Result<()> {
        let status = after.status.get_or_insert_default();
        let generation = after.metadata.generation;
        status.observed_generation = generation;
        let (word, text) = if ready {
            (reason::AS_DESIRED, "")
        } else {
            (reason::PENDING, why)
        };
        let now = k8s_openapi::jiff::Timestamp::now();
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
        let said = condition(
            condition_type::READY,
            Some(ready),
            word,
            text,
            generation,
            now,
        );
        set_condition(&mut status.conditions, said);
        if after.status == self.volume.status {
            return Ok(());
        }
        let _writing = self.folder.lock();
        let path = self.own_file();
        if let Some(mut there) = read::<MirroredVolume>(&path)? {
            there.status = after.status;
            write(&path, &there)?;
        }
        Ok(())
    }
}

/// The index of a site: as it was claimed; before the first claim, which a first leg brings about, by the order in the pair.
fn index_of(pair: &SitePair, site: &str) -> Result<LegIndex> {
    let claims = pair.status.as_ref().map_or(&[][..], |it| &it.claims);
    if let Some(claim) = claims.iter().find(|claim| claim.name == site) {
        return Ok(claim.index);
    }
    if let Some(other) = claims.first() {
        return Ok(other.index.other());
    }
    let mut sites = pair.spec.sites.iter().zip(LegIndex::BOTH);
    let found = sites.find(|(known, _)| known.name == site);
    found.map(|(_, index)| index).ok_or_else(|| {
        pending(format!(
            "site {site} is none of SitePair {}",
            pair.name_any()
        ))
    })
}

fn witness(pair: &SitePair) -> Result<Witness> {
    let directory = pair.spec.witness.directory.as_ref();
    let directory = directory
        .ok_or_else(|| pending("volumes in folders are deleted only with a witness directory"))?;
    let directory = Directory::open(Path::new(&directory.path));
    let directory = directory.map_err(|error| pending(error.to_string()))?;
    Witness::new(Arc::new(directory), &pair.name_any()).map_err(|error| pending(error.to_string()))
}

async fn swap(witness: &Witness, there: &Register, next: &Register) -> Result<()> {
    match witness.swap(there, next).await {
        Swap::Won => Ok(()),
        Swap::Conflict(_) => Err(pending("the register has changed: it is read again")),
        Swap::Unknown(what) => Err(pending(what)),
    }
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let filled = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    filled.map_err(|error| pending(error.to_string()))?;
    Ok(bytes)
}
