//! How a leg is served.

use super::*;

const LEG: &str = "
volume: ts-000102030405060708090a0b0c0d0e0f
leg: A
site: medical
sitePair: ctrc
pool: fast
node: m1
size: 1Mi
";

/// A disk that hangs in a sync would stop the legs of other disks on that thread, and whoever orders them.
#[test]
fn a_leg_is_written_by_its_thread_and_never_synced_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Pool::init(folder.path()).unwrap();
    pool.create_leg("a", 1 << 20).unwrap();
    let spec: LegSpec = serde_yaml::from_str(LEG).unwrap();
    let unit = unit(&spec, pool.open_leg("a", 1 << 20).unwrap()).unwrap();
    assert!(unit.write_at_once && !unit.sync_at_once);
    assert_eq!(unit.block_size, BlockSize::B4096);
}
