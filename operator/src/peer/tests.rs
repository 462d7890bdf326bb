//! A peer that answers, but not everything.

use std::sync::atomic::{AtomicBool, Ordering};

use kube::Config;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const PAIR: &str = "ctrc";

/// An API server with one SitePair and nothing else; of Attachments it says nothing once that is `denied`.
async fn serve(listener: TcpListener, denied: Arc<AtomicBool>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&denied)));
    }
}

async fn answer(mut stream: TcpStream, denied: Arc<AtomicBool>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.split(' ').nth(1).unwrap_or_default();
    let is_denied = || target.contains("/attachments") && denied.load(Ordering::Relaxed);
    let pair = json!({
        "apiVersion": "twinsite.io/v1alpha1", "kind": "SitePair", "metadata": {"name": PAIR},
        "spec": {"sites": [{"name": "medical"}, {"name": "research"}], "witness": {"directory": {"path": "/w"}}},
    });
    let (code, body) = if is_denied() {
        (
            403,
            json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "attachments is forbidden"}),
        )
    } else if target.contains("watch=true") {
        // It is quiet, until it is cut.
        _ = stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
            )
            .await;
        while !is_denied() {
            sleep(Duration::from_millis(100)).await;
        }
        return;
    } else if target.contains(&format!("/sitepairs/{PAIR}")) {
        (200, pair)
    } else {
        (
            200,
            json!({"apiVersion": "twinsite.io/v1alpha1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}),
        )
    };
    _ = stream.write_all(&reply(code, &body)).await;
}

fn reply(code: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {code} Said\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

async fn until(peer: &Peer, answers: bool, limit: Duration) -> Link {
    let deadline = Instant::now() + limit;
    loop {
        let link = peer.link();
        if link.answers == answers {
            return link;
        }
        assert!(Instant::now() < deadline, "{link:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_peer_that_shows_a_kind_no_more_does_not_count_as_answering() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let denied = Arc::new(AtomicBool::new(false));
    tokio::spawn(serve(listener, Arc::clone(&denied)));
    let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap()));
    let peer = Peer::start(client.unwrap(), PAIR, Arc::new(|_| {}));
    until(&peer, true, PROBE * 2).await;
    denied.store(true, Ordering::Relaxed);
    let link = until(&peer, false, SILENCE + PROBE).await;
    assert!(link.why.unwrap().contains("forbidden"));
    denied.store(false, Ordering::Relaxed);
    until(&peer, true, SILENCE).await;
}
