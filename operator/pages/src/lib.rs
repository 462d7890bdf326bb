//! The pages of a process: `/metrics`, `/healthz`, `/readyz`. HTTP/1.1 as far as that takes.
//!
//! One request per connection, so many at once, so long at the most: who visits can hold nothing up. What the pages say is
//! each process's own ([`Pages`]).
#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Connections at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 16;
const MAX_REQUEST: usize = 8 << 10;
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// After a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the pages say. `Err` says why not.
pub trait Pages: Send + Sync + 'static {
    /// In the text format of Prometheus.
    fn metrics(&self) -> String;
    /// No: the process should be started anew.
    fn healthy(&self) -> Result<String, String>;
    /// No: nobody should count on this process yet.
    fn ready(&self) -> Result<String, String>;
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    let answered = timeout(REQUEST_TIME, answer(stream, pages.as_ref())).await;
                    if answered.is_err() {
                        tracing::debug!(%peer, "a request took too long");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One request, one answer.
async fn answer(mut stream: TcpStream, pages: &dyn Pages) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let (status, kind, body) = page(&String::from_utf8_lossy(line), pages);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn page(line: &str, pages: &dyn Pages) -> (&'static str, &'static str, String) {
    let mut words = line.split(' ');
    let (Some("GET"), Some(target)) = (words.next(), words.next()) else {
        return ("405 Method Not Allowed", TEXT, "GET only\n".to_owned());
    };
    let said = match target.split('?').next().unwrap_or_default() {
        "/metrics" => return ("200 OK", METRICS, pages.metrics()),
        "/healthz" => pages.healthy(),
        "/readyz" => pages.ready(),
        _ => {
            let body = "/metrics, /healthz and /readyz are here\n".to_owned();
            return ("404 Not Found", TEXT, body);
        }
    };
    match said {
        Ok(text) => ("200 OK", TEXT, format!("{text}\n")),
        Err(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    struct Said;

    impl Pages for Said {
        fn metrics(&self) -> String {
            "twinsite_x 1\n".to_owned()
        }

        fn healthy(&self) -> Result<String, String> {
            Ok("ok".to_owned())
        }

        fn ready(&self) -> Result<String, String> {
            Err("not yet".to_owned())
        }
    }

    async fn serving() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(Said)));
        address
    }

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn three_pages_are_served_and_nothing_else() {
        let address = serving().await;
        for (request, start, end) in [
            (
                "GET /healthz?x HTTP/1.0\r\nHost: h\r\n\r\n",
                "HTTP/1.1 200 OK",
                "ok\n",
            ),
            ("GET /readyz HTTP/1.1\r\n\r\n", "HTTP/1.1 503", "not yet\n"),
            (
                "GET /metrics HTTP/1.1\r\n\r\n",
                "HTTP/1.1 200",
                "twinsite_x 1\n",
            ),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404", "are here\n"),
            (
                "POST /metrics HTTP/1.1\r\n\r\n",
                "HTTP/1.1 405",
                "GET only\n",
            ),
        ] {
            let text = get(address, request).await;
            assert!(text.starts_with(start) && text.ends_with(end), "{text}");
        }
    }

    #[tokio::test]
    async fn one_that_talks_without_end_is_not_listened_to() {
        let address = serving().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let line = [b'x'; 4096];
        for _ in 0..8 {
            if stream.write_all(&line).await.is_err() {
                break;
            }
        }
        let mut text = Vec::new();
        let _ended = stream.read_to_end(&mut text).await;
        assert!(text.is_empty());
        assert!(
            get(address, "GET /healthz HTTP/1.1\r\n\r\n")
                .await
                .ends_with("ok\n")
        );
    }
}
