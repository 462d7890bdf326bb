//! The bucket backend against a real S3-compatible server, with answers that get lost on the way.
//!
//! Needs `versitygw` in PATH or in the folder that `TWINSITE_TOOLS` names (by default
//! `~/.cache/twinsite-tools`); says how to get it and passes without it, unless `TWINSITE_REQUIRE_S3` is set.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod support;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use support::{GROUP, register, suite};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use twinsite_witness::{Bucket, BucketCredentials, ReadError, Store, Swap, Witness, probe};

const BUCKET: &str = "witness";

struct Server {
    _process: Child,
    _data: tempfile::TempDir,
    address: SocketAddr,
}

fn gateway() -> Option<PathBuf> {
    let cache = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/twinsite-tools"));
    let tools = std::env::var_os("TWINSITE_TOOLS")
        .map(PathBuf::from)
        .or_else(cache);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = tools
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join("versitygw"))
        .find(|file| file.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("TWINSITE_REQUIRE_S3").is_none(),
            "versitygw is required and not there"
        );
        println!(
            "skipped: no versitygw; get it with GOBIN=$HOME/.cache/twinsite-tools go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"
        );
    }
    found
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn server() -> Option<Server> {
    let program = gateway()?;
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join(BUCKET)).unwrap();
    let address: SocketAddr = format!("127.0.0.1:{}", free_port().await).parse().unwrap();
    let process = Command::new(program)
        .args(["--port", &address.to_string(), "posix"])
        .arg(data.path())
        .env("ROOT_ACCESS_KEY", "key")
        .env("ROOT_SECRET_KEY", "secret")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if TcpStream::connect(address).await.is_ok() {
            return Some(Server {
                _process: process,
                _data: data,
                address,
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("versitygw did not start");
}

fn bucket(address: SocketAddr, secret: &str) -> Arc<dyn Store> {
    let credentials = BucketCredentials {
        access_key_id: "key".to_owned(),
        secret_access_key: secret.to_owned(),
        region: None,
    };
    Arc::new(Bucket::open(&format!("http://{address}/{BUCKET}/pairs"), &credentials).unwrap())
}

fn witness(address: SocketAddr) -> Witness {
    Witness::new(bucket(address, "secret"), "ctrc").unwrap()
}

/// Passes everything on, but while `mute` is set hangs up instead of passing the answer to a PUT back.
async fn lossy(to: SocketAddr, mute: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay(client, to, Arc::clone(&mute)));
        }
    });
    address
}

async fn relay(client: TcpStream, to: SocketAddr, mute: Arc<AtomicBool>) {
    let server = TcpStream::connect(to).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut request, mut answer) = (vec![0; 65536], vec![0; 65536]);
    let mut is_put = false;
    loop {
        tokio::select! {
            read = from_client.read(&mut request) => {
                let Ok(n @ 1..) = read else { return };
                is_put = request.starts_with(b"PUT ") || (is_put && !request.starts_with(b"GET "));
                to_server.write_all(&request[..n]).await.unwrap();
            }
            read = from_server.read(&mut answer) => {
                let Ok(n @ 1..) = read else { return };
                if is_put && mute.load(Ordering::SeqCst) {
                    return;
                }
                to_client.write_all(&answer[..n]).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_store_is_probed_and_does_all_that_a_witness_must() {
    let Some(server) = server().await else { return };
    probe(bucket(server.address, "secret")).await.unwrap();
    suite::all(&|| witness(server.address)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_whose_answer_is_lost_is_unknown_and_then_found_to_be_won() {
    let Some(server) = server().await else { return };
    let mute = Arc::new(AtomicBool::new(false));
    let far = witness(lossy(server.address, Arc::clone(&mute)).await);
    let near = witness(server.address);
    let (first, second, third) = (register(1, 1), register(2, 1), register(3, 1));
    assert_eq!(far.create(&first).await, Swap::Won);
    mute.store(true, Ordering::SeqCst);
    assert!(matches!(far.swap(&first, &second).await, Swap::Unknown(_)));
    assert_eq!(near.read(GROUP).await, Ok(Some(second.clone())));
    // Repeated byte for byte: it is found to have won, and nothing is written again.
    assert_eq!(far.swap(&first, &second).await, Swap::Won);
    assert_eq!(
        far.swap(&first, &third).await,
        Swap::Conflict(Some(Box::new(second.clone())))
    );
    assert!(matches!(far.create(&third).await, Swap::Conflict(Some(_))));
    mute.store(false, Ordering::SeqCst);
    assert_eq!(far.swap(&second, &third).await, Swap::Won);
}

#[tokio::test]
async fn a_store_that_is_away_or_refuses_the_key_is_unreachable_and_its_swaps_unknown() {
    let nobody: SocketAddr = format!("127.0.0.1:{}", free_port().await).parse().unwrap();
    let away = witness(nobody);
    assert!(matches!(
        away.read(GROUP).await,
        Err(ReadError::Unreachable(_))
    ));
    assert!(matches!(
        away.swap(&register(1, 1), &register(2, 1)).await,
        Swap::Unknown(_)
    ));
    let Some(server) = server().await else { return };
    let stranger = Witness::new(bucket(server.address, "wrong"), "ctrc").unwrap();
    assert!(matches!(
        stranger.read(GROUP).await,
        Err(ReadError::Unreachable(_))
    ));
    assert!(probe(bucket(server.address, "wrong")).await.is_err());
}
