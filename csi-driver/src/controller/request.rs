//! What a CreateVolume request asks for, as a MirroredVolume. Pure.
//!
//! Identity is (pair, namespace, name of the claim), so that the same StatefulSet in both clusters gets one volume. A request
//! without a claim (another orchestrator, a test) is its own name in the default namespace.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use twinsite_api::{
    AccessMode, Claim, DeletionPolicy, Failback, MirroredVolume, MirroredVolumeSpec, OnNoQuorum,
    Quantity, SitePair, VolumeId, VolumeLeg, VolumeMode,
};

use super::{PROVISIONER, PROVISIONER_LABEL, is_provisioned, label, signed};
use crate::{
    capability::{Capability, FILE_SYSTEMS, Mode},
    proto::csi::{
        CapacityRange, CreateVolumeRequest, ValidateVolumeCapabilitiesRequest,
        ValidateVolumeCapabilitiesResponse, VolumeCapability,
        validate_volume_capabilities_response::Confirmed,
    },
};

/// Bytes of a volume whose request says nothing.
const DEFAULT_BYTES: u64 = 1 << 30;
/// Sizes are multiples of the engine's block, and of a MiB where the limit allows it.
const BLOCK: u64 = 4096;
const ROUND: u64 = 1 << 20;
/// mkfs.xfs refuses less.
const MIN_XFS: u64 = 300 << 20;
const MIN_OTHER: u64 = 16 << 20;
/// Larger sizes do not fit the wire's signed numbers once rounded.
const MAX_BYTES: u64 = 1 << 60;
/// The name that the CO gave, where the object's own name is another.
const NAME_ANNOTATION: &str = "twinsite.io/csi-name";
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
/// Parameters with this head come from the provisioner, not from a person.
const PROVISIONER_HEAD: &str = "csi.storage.k8s.io/";

/// The words of a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Parameters {
    pub(super) pair: String,
    pool_class: Option<String>,
    classes: BTreeMap<String, String>,
    fs_type: Option<String>,
    active_site: Option<String>,
    on_no_quorum: Option<OnNoQuorum>,
    failback: Option<Failback>,
    claim: Option<(String, String)>,
}

impl Parameters {
    /// # Errors
    /// A word is unknown, missing, or has a value it cannot have.
    pub(super) fn parse(given: &HashMap<String, String>) -> Result<Self, Status> {
        let mut read = Self::default();
        let (mut name, mut namespace) = (None, None);
        for (key, value) in given {
            let bad = |words: &str| {
                Status::invalid_argument(format!(
                    "parameter {key}: {value:?} is unknown; write one of {words}"
                ))
            };
            match key.as_str() {
                "sitePair" => read.pair.clone_from(value),
                "poolClass" => read.pool_class = Some(value.clone()),
                "fsType" if FILE_SYSTEMS.contains(&value.as_str()) => {
                    read.fs_type = Some(value.clone());
                }
                "fsType" => return Err(bad("ext4, xfs")),
                "activeSite" => read.active_site = Some(value.clone()),
                "onNoQuorum" => {
                    read.on_no_quorum = Some(match value.as_str() {
                        "Suspend" => OnNoQuorum::Suspend,
                        "Error" => OnNoQuorum::Error,
                        _ => return Err(bad("Suspend, Error")),
                    });
                }
                "failback" => {
                    read.failback = Some(match value.as_str() {
                        "Manual" => Failback::Manual,
                        "WhenInSync" => Failback::WhenInSync,
                        _ => return Err(bad("Manual, WhenInSync")),
                    });
                }
                CLAIM_NAME => name = Some(value.clone()),
                CLAIM_NAMESPACE => namespace = Some(value.clone()),
                _ if key.starts_with(PROVISIONER_HEAD) => {}
                _ => match key.strip_prefix("poolClass.") {
                    Some(site) => {
                        read.classes.insert(site.to_owned(), value.clone());
                    }
                    None => {
                        return Err(Status::invalid_argument(format!(
                            "parameter {key} is unknown: sitePair, poolClass, poolClass.<site>, fsType, activeSite, onNoQuorum and failback are known"
                        )));
                    }
                },
            }
        }
        if read.pair.is_empty() {
            return Err(Status::invalid_argument(
                "parameter sitePair is missing: name the SitePair in the StorageClass",
            ));
        }
        read.claim = namespace.zip(name);
        Ok(read)
    }

    /// The class of pools at a site.
    pub(super) fn class(&self, site: &str) -> Option<&String> {
        self.classes.get(site).or(self.pool_class.as_ref())
    }

    /// Bytes that a volume must have at least.
    pub(super) fn smallest(&self) -> u64 {
        smallest(self.fs_type.as_deref())
    }
}

fn smallest(fs_type: Option<&str>) -> u64 {
    match fs_type {
        Some("xfs") => MIN_XFS,
        _ => MIN_OTHER,
    }
}

/// A size within a range: at least `min`, a round number if the limit allows one.
///
/// # Errors
/// The range is upside down, or leaves no room for a size.
pub(super) fn size(range: Option<&CapacityRange>, default: u64, min: u64) -> Result<u64, Status> {
    let range = range.copied().unwrap_or_default();
    let bytes = |value: i64, what: &str| {
        u64::try_from(value).map_err(|_| Status::invalid_argument(format!("{what} is negative")))
    };
    let required = bytes(range.required_bytes, "required_bytes")?;
    let limit = match bytes(range.limit_bytes, "limit_bytes")? {
        0 => MAX_BYTES,
        limit if limit < required => {
            return Err(Status::invalid_argument(
                "limit_bytes is less than required_bytes",
            ));
        }
        limit => limit.min(MAX_BYTES),
    };
    let wanted = match required {
        0 => default.min(limit - limit % BLOCK),
        required => required,
    };
    let wanted = wanted.max(min);
    let fits = [ROUND, BLOCK]
        .map(|unit| wanted.div_ceil(unit).saturating_mul(unit))
        .into_iter()
        .find(|size| *size <= limit);
    fits.ok_or_else(|| {
        Status::out_of_range(format!(
            "no size between {required} and {limit} bytes: volumes have at least {min} bytes and are multiples of {BLOCK}"
        ))
    })
}

/// The volume that a request asks for.
///
/// # Errors
/// It asks for what no volume here can be.
pub(super) fn volume(
    request: &CreateVolumeRequest,
    parameters: &Parameters,
    pair: &SitePair,
    default_namespace: Option<&str>,
) -> Result<MirroredVolume, Status> {
    if request.volume_content_source.is_some() {
        return Err(Status::invalid_argument(
            "volume_content_source: snapshots and clones are not offered",
        ));
    }
    if !request.mutable_parameters.is_empty() {
        return Err(Status::invalid_argument(
            "mutable_parameters: a volume is changed through its MirroredVolume",
        ));
    }
    let capabilities = capabilities(&request.volume_capabilities)?;
    let block = capabilities[0].is_block();
    let fs_type = file_system(&capabilities, parameters)?;
    let range = request.capacity_range.as_ref();
    let size = size(range, DEFAULT_BYTES, smallest(fs_type.as_deref()))?;
    let (namespace, claim) = match (&parameters.claim, default_namespace) {
        (Some((namespace, claim)), _) => (namespace.clone(), claim.clone()),
        (None, Some(namespace)) => (namespace.to_owned(), object_name(&request.name)),
        (None, None) => {
            return Err(Status::invalid_argument(
                "the request does not name its claim: start the provisioner with --extra-create-metadata",
            ));
        }
    };
    let sites = pair.spec.sites.iter().map(|site| site.name.as_str());
    let sites: Vec<&str> = sites.collect();
    // The same in both clusters, from which one and the same claim asks for one volume.
    let first = sites.first().copied().unwrap_or_default();
    let active = parameters.active_site.as_deref().unwrap_or(first);
    for site in parameters
        .classes
        .keys()
        .map(String::as_str)
        .chain([active])
    {
        if !sites.contains(&site) {
            return Err(Status::invalid_argument(format!(
                "site {site:?} is none of SitePair {}, which has {}",
                parameters.pair,
                sites.join(" and ")
            )));
        }
    }
    let leg = |site: &str| {
        let class = parameters.class(site).cloned();
        let pool_class = class.ok_or_else(|| {
            Status::invalid_argument(format!(
                "parameter poolClass is missing, or poolClass.{site}: name the class of pools"
            ))
        })?;
        Ok(VolumeLeg {
            site: site.to_owned(),
            pool: None,
            pool_class: Some(pool_class),
            lun: None,
        })
    };
    let spec = MirroredVolumeSpec {
        site_pair: parameters.pair.clone(),
        active_site: Some(active.to_owned()),
        failback: parameters.failback,
        on_no_quorum: parameters.on_no_quorum,
        workloads: None,
        group: None,
        capacity: Quantity::from_bytes(size),
        volume_mode: if block {
            VolumeMode::Block
        } else {
            VolumeMode::Filesystem
        },
        fs_type,
        access_modes: access_modes(&capabilities),
        claim: Claim {
            name: claim.clone(),
            create: false,
        },
        deletion_policy: DeletionPolicy::Delete,
        legs: sites.into_iter().map(leg).collect::<Result<_, Status>>()?,
    };
    let mut volume = MirroredVolume::new(&claim, spec);
    let one = |key: &str, value: &str| Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
    volume.metadata.namespace = Some(namespace);
    volume.metadata.labels = one(PROVISIONER_LABEL, PROVISIONER);
    volume.metadata.annotations = one(NAME_ANNOTATION, &request.name);
    Ok(volume)
}

fn capabilities(wire: &[VolumeCapability]) -> Result<Vec<Capability>, Status> {
    if wire.is_empty() {
        return Err(Status::invalid_argument("volume_capabilities are missing"));
    }
    let read: Vec<Capability> = wire
        .iter()
        .map(|wire| Capability::parse(Some(wire)).map_err(|error| error.invalid()))
        .collect::<Result<_, _>>()?;
    if read.iter().any(|one| one.is_block() != read[0].is_block()) {
        return Err(Status::invalid_argument(
            "a volume is raw block or a file system, not both",
        ));
    }
    Ok(read)
}

fn file_system(
    capabilities: &[Capability],
    parameters: &Parameters,
) -> Result<Option<String>, Status> {
    if capabilities[0].is_block() {
        return Ok(None);
    }
    let asked = capabilities.iter().filter_map(Capability::fs_type);
    let asked: Vec<&str> = asked.collect();
    let first = parameters.fs_type.as_deref().or(asked.first().copied());
    let first = first.unwrap_or("ext4");
    if let Some(other) = asked.iter().find(|name| **name != first) {
        return Err(Status::invalid_argument(format!(
            "two file systems are asked for: {first} and {other}"
        )));
    }
    Ok(Some(first.to_owned()))
}

fn access_modes(capabilities: &[Capability]) -> Vec<AccessMode> {
    let mode = |capability: &Capability| match capability.mode {
        Mode::SingleWriter => AccessMode::ReadWriteOncePod,
        Mode::Writer | Mode::Reader | Mode::MultiWriter => AccessMode::ReadWriteOnce,
    };
    let mut modes: Vec<AccessMode> = Vec::new();
    for one in capabilities.iter().map(mode) {
        if !modes.contains(&one) {
            modes.push(one);
        }
    }
    modes
}

/// A name that an object can have: the given one if it can, else one that follows from it.
fn object_name(name: &str) -> String {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let plain = (1..=63).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if plain {
        return name.to_owned();
    }
    // The id's hash serves: 128 bits of the whole name.
    let hash = VolumeId::of("name", "", name).to_string();
    hash.replacen("ts-", "v-", 1)
}

/// What differs between a volume that is there and the one that is asked for.
pub(super) fn differs(
    there: &MirroredVolume,
    wanted: &MirroredVolume,
    range: Option<&CapacityRange>,
) -> Option<String> {
    let (old, new) = (&there.spec, &wanted.spec);
    if !is_provisioned(there) {
        return Some("was not made for a claim: give the claim another name, or let the MirroredVolume adopt it (claim.create: false, and storageClassName: \"\" in the claim)".to_owned());
    }
    let range = range.copied().unwrap_or_default();
    let bytes = signed(old.capacity.bytes());
    if bytes < range.required_bytes || (range.limit_bytes > 0 && bytes > range.limit_bytes) {
        return Some(format!("has {bytes} bytes"));
    }
    let same = [
        ("sitePair", old.site_pair == new.site_pair),
        ("volumeMode", old.volume_mode == new.volume_mode),
        ("fsType", old.fs_type == new.fs_type),
        ("poolClass", old.legs == new.legs),
    ];
    let other = same.iter().find(|(_, same)| !same);
    other.map(|(field, _)| format!("has another {field}"))
}

/// The answer to ValidateVolumeCapabilities: confirmed, or why not.
pub(super) fn validate(
    request: ValidateVolumeCapabilitiesRequest,
    volume: &MirroredVolume,
) -> ValidateVolumeCapabilitiesResponse {
    let cannot = |wire: &VolumeCapability| match Capability::parse(Some(wire)) {
        Err(error) => Some(error.to_string()),
        Ok(capability) => mismatch(&capability, volume),
    };
    if let Some(message) = request.volume_capabilities.iter().find_map(cannot) {
        return ValidateVolumeCapabilitiesResponse {
            confirmed: None,
            message,
        };
    }
    ValidateVolumeCapabilitiesResponse {
        confirmed: Some(Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        }),
        message: String::new(),
    }
}

/// What of a capability a volume does not have.
pub(super) fn mismatch(capability: &Capability, volume: &MirroredVolume) -> Option<String> {
    let spec = &volume.spec;
    if capability.is_block() != (spec.volume_mode == VolumeMode::Block) {
        let mode = spec.volume_mode;
        return Some(format!("{} has volumeMode {mode:?}", label(volume)));
    }
    match (capability.fs_type(), spec.fs_type.as_deref()) {
        (Some(asked), Some(has)) if asked != has => {
            Some(format!("{} has {has}, not {asked}", label(volume)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::{
        capability::tests::wire, controller::tests::pair,
        proto::csi::volume_capability::access_mode::Mode as Wire,
    };

    fn request(words: &[(&str, &str)]) -> CreateVolumeRequest {
        let parameters = words
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        CreateVolumeRequest {
            name: "pvc-1".to_owned(),
            volume_capabilities: vec![wire(Some("xfs"), Wire::SingleNodeSingleWriter)],
            parameters: parameters.collect(),
            ..CreateVolumeRequest::default()
        }
    }

    fn made(
        request: &CreateVolumeRequest,
        namespace: Option<&str>,
    ) -> Result<MirroredVolume, Status> {
        let parameters = Parameters::parse(&request.parameters)?;
        volume(request, &parameters, &pair(), namespace)
    }

    const PLAIN: [(&str, &str); 2] = [("sitePair", "ctrc"), ("poolClass", "ssd")];

    #[test]
    fn a_claim_becomes_a_volume_of_its_name() {
        let mut words = PLAIN.to_vec();
        words.extend([
            ("poolClass.research", "slow"),
            ("csi.storage.k8s.io/pvc/name", "data-db-0"),
            ("csi.storage.k8s.io/pvc/namespace", "rv"),
            ("csi.storage.k8s.io/pv/name", "pvc-1"),
        ]);
        let volume = made(&request(&words), None).unwrap();
        assert_eq!(label(&volume), "rv/data-db-0");
        let spec = &volume.spec;
        assert_eq!(spec.claim.name, "data-db-0");
        assert!(!spec.claim.create);
        assert_eq!(spec.active_site.as_deref(), Some("medical"));
        assert_eq!(spec.access_modes, [AccessMode::ReadWriteOncePod]);
        assert_eq!(spec.capacity.bytes(), 1 << 30);
        let classes = spec.legs.iter().map(|leg| leg.pool_class.clone().unwrap());
        assert_eq!(classes.collect::<Vec<_>>(), ["ssd", "slow"]);
        assert_eq!(differs(&volume, &volume, None), None);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_word_that_is_wrong() {
        let refused = |words: &[(&str, &str)], part: &str| {
            let error = made(&request(words), Some("default")).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{words:?}");
            assert!(error.message().contains(part), "{}", error.message());
        };
        refused(&[], "sitePair is missing");
        refused(&[("sitePair", "ctrc")], "poolClass is missing");
        let with = |key, value| [PLAIN[0], PLAIN[1], (key, value)];
        refused(&with("poolclass", "x"), "parameter poolclass is unknown");
        refused(&with("fsType", "ntfs"), "ext4, xfs");
        refused(&with("fsType", "ext4"), "two file systems");
        refused(&with("activeSite", "moon"), "\"moon\"");
        refused(&with("poolClass.moon", "x"), "\"moon\"");
        refused(&with("failback", "maybe"), "WhenInSync");
        let error = made(&request(&PLAIN), None).unwrap_err();
        assert!(error.message().contains("--extra-create-metadata"));
        let mut clone = request(&PLAIN);
        clone.volume_content_source = Some(Default::default());
        let error = made(&clone, Some("d")).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let mut mixed = request(&PLAIN);
        let block = wire(None, Wire::SingleNodeWriter);
        mixed.volume_capabilities.push(block);
        let error = made(&mixed, Some("d")).unwrap_err();
        assert!(error.message().contains("not both"));
    }

    #[test]
    fn a_name_no_object_can_have_gets_one_that_follows_from_it() {
        assert_eq!(object_name("pvc-0a1b"), "pvc-0a1b");
        let long = "X".repeat(128);
        let name = object_name(&long);
        assert_eq!(name.len(), 34);
        assert_eq!(name, object_name(&long));
        assert_ne!(name, object_name("x"));
        for odd in ["", "-a", "a-", "a b", "a/b", "ä"] {
            assert!(object_name(odd).starts_with("v-"), "{odd}");
        }
    }

    #[test]
    fn sizes_are_round_where_the_limit_allows_it() {
        const GI: i64 = 1 << 30;
        let sized = |required, limit, min| {
            let range = CapacityRange {
                required_bytes: required,
                limit_bytes: limit,
            };
            size(Some(&range), DEFAULT_BYTES, min).map_err(|error| error.code())
        };
        assert_eq!(sized(0, 0, MIN_OTHER), Ok(1 << 30));
        assert_eq!(sized(0, (1 << 29) + 1, MIN_OTHER), Ok(1 << 29));
        assert_eq!(sized(GI + 1, 0, MIN_OTHER), Ok((1 << 30) + (1 << 20)));
        assert_eq!(sized(GI + 1, GI + 4096, MIN_OTHER), Ok((1 << 30) + 4096));
        assert_eq!(sized(GI + 1, GI + 2, MIN_OTHER), Err(Code::OutOfRange));
        assert_eq!(sized(1, 0, MIN_XFS), Ok(MIN_XFS));
        assert_eq!(sized(1, 1 << 20, MIN_XFS), Err(Code::OutOfRange));
        assert_eq!(sized(i64::MAX, 0, MIN_OTHER), Err(Code::OutOfRange));
        assert_eq!(sized(-1, 0, MIN_OTHER), Err(Code::InvalidArgument));
        assert_eq!(sized(2, 1, MIN_OTHER), Err(Code::InvalidArgument));
    }

    #[test]
    fn the_same_name_with_another_wish_is_another_volume() {
        let there = made(&request(&PLAIN), Some("d")).unwrap();
        let range = |required, limit| CapacityRange {
            required_bytes: required,
            limit_bytes: limit,
        };
        let same = |range| differs(&there, &there, Some(&range));
        assert_eq!(same(range(1 << 30, 1 << 30)), None);
        assert!(same(range(2 << 30, 2 << 30)).is_some());
        assert!(same(range(0, 1 << 20)).is_some());
        let mut other = there.clone();
        other.spec.fs_type = Some("ext4".to_owned());
        let what = differs(&there, &other, None).unwrap();
        assert_eq!(what, "has another fsType");
        let mut foreign = there.clone();
        foreign.metadata.labels = None;
        let what = differs(&foreign, &there, None).unwrap();
        assert!(what.contains("not made for a claim"));
    }
}
