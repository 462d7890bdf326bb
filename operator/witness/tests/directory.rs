//! The directory backend between processes, some of which are killed, and with files that are not whole.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{GROUP, register, suite};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use twinsite_witness::{
    Care, Directory, DirectoryError, Liveness, ObjectName, ReadError, Store, Swap, Witness, probe,
};

const ROLE: &str = "TWINSITE_TEST_RACER";
const RACERS: u64 = 4;
const RACE: Duration = Duration::from_secs(4);

fn store(path: &Path) -> Arc<dyn Store> {
    Arc::new(Directory::open(path).unwrap())
}

fn witness(path: &Path) -> Witness {
    Witness::new(store(path), "ctrc").unwrap()
}

/// Only does something as a child of the race: swaps as fast as it can and prints each number it won.
#[tokio::test]
async fn racer() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (path, who) = role.rsplit_once(':').unwrap();
    let who: u64 = who.parse().unwrap();
    let witness = witness(Path::new(path));
    loop {
        let current = witness.read(GROUP).await.unwrap().unwrap();
        let new = register(current.order.n + 1, who);
        let won = match witness.swap(&current, &new).await {
            Swap::Won => true,
            Swap::Conflict(_) => false,
            Swap::Unknown(_) => witness.read(GROUP).await.unwrap().unwrap() == new,
        };
        if won {
            println!("won {}", new.order.n);
        }
    }
}

fn spawn_racer(path: &Path, who: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "racer", "--nocapture", "--test-threads=1"])
        .env(ROLE, format!("{}:{who}", path.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn wins_of(mut child: Child, life: Duration) -> Vec<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wins = Vec::new();
    let end = tokio::time::sleep(life);
    tokio::pin!(end);
    loop {
        tokio::select! {
            line = lines.next_line() => match line.unwrap() {
                Some(line) => wins.extend(line.strip_prefix("won ").map(|n| n.parse::<u64>().unwrap())),
                None => break,
            },
            () = &mut end => {
                // SIGKILL at an instant of no importance to the victim.
                child.start_kill().unwrap();
                while let Some(line) = lines.next_line().await.unwrap() {
                    wins.extend(line.strip_prefix("won ").map(|n| n.parse::<u64>().unwrap()));
                }
                break;
            }
        }
    }
    child.wait().await.unwrap();
    wins
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_race_and_are_killed_never_share_a_win_and_never_lose_one() {
    let dir = tempfile::tempdir().unwrap();
    let witness = witness(dir.path());
    assert_eq!(witness.create(&register(0, 0)).await, Swap::Won);

    let start = Instant::now();
    let mut racers = tokio::task::JoinSet::new();
    for who in 1..=RACERS {
        let path = dir.path().to_owned();
        racers.spawn(async move {
            let mut wins = Vec::new();
            let mut life = 150 + 37 * who;
            // Killed and started again, each time a little later.
            while start.elapsed() < RACE {
                wins.extend(wins_of(spawn_racer(&path, who), Duration::from_millis(life)).await);
                life = life * 5 / 4;
            }
            wins
        });
    }
    let mut winners = BTreeMap::new();
    let mut who = 0;
    while let Some(wins) = racers.join_next().await {
        who += 1;
        for n in wins.unwrap() {
            assert_eq!(winners.insert(n, who), None, "{n} was won twice");
        }
    }
    let last = witness.read(GROUP).await.unwrap().unwrap();
    let (&highest, _) = winners.last_key_value().unwrap();
    assert!(
        last.order.n >= highest,
        "{highest} was won and is gone, the register shows {}",
        last.order.n
    );
    assert!(
        winners.len() > 50,
        "too few wins for a race: {}",
        winners.len()
    );
    // Not every win was printed before its process died, but at most one per life was lost.
    let unseen = last.order.n - winners.len() as u64;
    assert!(unseen <= 4 * 30, "{unseen} wins were never reported");
}

#[tokio::test]
async fn a_directory_keeps_its_conditions() {
    let dir = tempfile::tempdir().unwrap();
    probe(store(dir.path())).await.unwrap();
    let left: Vec<_> = fs::read_dir(dir.path().join("probe")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_register_is_created_swapped_repeated_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    suite::a_register_is_created_swapped_repeated_and_removed(&witness(dir.path())).await;
}

fn newest_file(dir: &Path) -> std::path::PathBuf {
    let folder = dir.join("ctrc/registers").join(GROUP.to_string());
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap()
}

#[tokio::test]
async fn a_torn_file_is_found_and_the_version_before_it_is_not_taken_instead() {
    let dir = tempfile::tempdir().unwrap();
    let witness = witness(dir.path());
    witness.create(&register(1, 1)).await;
    witness.swap(&register(1, 1), &register(2, 1)).await;
    let path = newest_file(dir.path());
    let whole = fs::read(&path).unwrap();
    for broken in [
        &whole[..0],
        &whole[..10],
        &whole[..whole.len() - 1],
        &[&whole[..], b"x"].concat(),
    ] {
        fs::write(&path, broken).unwrap();
        assert!(matches!(
            witness.read(GROUP).await,
            Err(ReadError::Corrupt { .. })
        ));
        assert!(matches!(
            witness.swap(&register(1, 1), &register(3, 1)).await,
            Swap::Unknown(_)
        ));
    }
    let mut flipped = whole.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    fs::write(&path, &flipped).unwrap();
    let error = witness.read(GROUP).await.unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    fs::write(&path, &whole).unwrap();
    assert_eq!(witness.read(GROUP).await, Ok(Some(register(2, 1))));
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_not_an_empty_witness() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    assert!(matches!(
        Directory::open(&path),
        Err(DirectoryError::Missing { .. })
    ));
    assert!(matches!(
        Directory::open(Path::new("disk")),
        Err(DirectoryError::Relative { .. })
    ));
    fs::create_dir(&path).unwrap();
    let witness = witness(&path);
    witness.create(&register(1, 1)).await;
    fs::rename(&path, dir.path().join("unmounted")).unwrap();
    assert!(matches!(
        witness.read(GROUP).await,
        Err(ReadError::Unreachable(_))
    ));
    assert!(matches!(
        witness.swap(&register(1, 1), &register(2, 1)).await,
        Swap::Unknown(_)
    ));
    fs::rename(dir.path().join("unmounted"), &path).unwrap();
    assert_eq!(witness.read(GROUP).await, Ok(Some(register(1, 1))));
}

/// A read that waits as on a file system that hangs.
#[tokio::test]
async fn requests_that_hang_hold_a_bounded_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().join("ctrc");
    fs::create_dir_all(objects.join("a")).unwrap();
    let pipe = objects.join("a/00000000000000000001");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let store = store(dir.path());
    let name = ObjectName::new(&["ctrc", "a"]).unwrap();
    let before = threads();
    for _ in 0..160 {
        let read = store.read(&name, Care::Evidence);
        let ended = tokio::time::timeout(Duration::from_millis(5), read).await;
        assert!(ended.is_err());
    }
    let more = threads() - before;
    // Lets all of them go: whoever comes to read now finds the end.
    drop(
        fs::File::options()
            .read(true)
            .write(true)
            .open(&pipe)
            .unwrap(),
    );
    fs::remove_file(&pipe).unwrap();
    assert!(more <= 80, "{more} threads");
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[tokio::test]
async fn old_versions_are_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let witness = witness(dir.path());
    for nonce in 0..300 {
        witness
            .renew(
                "medical",
                &Liveness {
                    writer: "m1".to_owned(),
                    nonce,
                },
            )
            .await
            .unwrap();
    }
    let files = fs::read_dir(dir.path().join("ctrc/liveness/medical"))
        .unwrap()
        .count();
    assert_eq!(files, 65);
    assert_eq!(
        witness.liveness("medical").await.unwrap().unwrap().nonce,
        299
    );
    assert_eq!(witness.liveness("research").await, Ok(None));
    assert_eq!(witness.liveness("../medical").await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_only_rise_whoever_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    suite::beats_only_rise_whoever_writes_them(&|| witness(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_that_claim_at_once_get_one_index_each_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    suite::two_sites_that_claim_at_once_get_one_index_each_for_ever(&|| witness(dir.path())).await;
}
