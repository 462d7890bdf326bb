//! A server of three pages: /metrics, /healthz, /readyz. HTTP/1.1 as far as that takes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

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
/// The control loop turns twice a second and may wait for a disk in between.
const STALE: Duration = Duration::from_secs(30);

/// What the pages show; written by the control loop.
#[derive(Debug)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    turned: Instant,
    not_ready: Option<String>,
    metrics: String,
}

impl Default for Health {
    fn default() -> Self {
        let not_ready = Some("the objects have not been read yet".to_owned());
        Self {
            inner: Mutex::new(Inner {
                turned: Instant::now(),
                not_ready,
                metrics: String::new(),
            }),
        }
    }
}

impl Health {
    /// The control loop has turned; `not_ready`: why nobody should count on this node yet.
    pub fn turned(&self, not_ready: Option<String>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.turned, inner.not_ready) = (Instant::now(), not_ready);
    }

    pub fn set_metrics(&self, page: String) {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .metrics = page;
    }

    fn answer(&self, path: &str) -> (u16, String) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match path {
            "/metrics" => (200, inner.metrics.clone()),
            "/healthz" if inner.turned.elapsed() < STALE => (200, "ok\n".to_owned()),
            "/healthz" => (
                503,
                format!(
                    "the control loop has not turned for {} s\n",
                    inner.turned.elapsed().as_secs()
                ),
            ),
            "/readyz" => match &inner.not_ready {
                None => (200, "ok\n".to_owned()),
                Some(why) => (503, format!("{why}\n")),
            },
            _ => (404, "pages: /metrics /healthz /readyz\n".to_owned()),
        }
    }
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, health: Arc<Health>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let health = Arc::clone(&health);
                tokio::spawn(async move {
                    let answered = timeout(REQUEST_TIME, converse(stream, &health)).await;
                    trace_end(peer, answered.is_ok());
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn trace_end(peer: SocketAddr, in_time: bool) {
    if !in_time {
        tracing::debug!(%peer, "a request took too long");
    }
}

/// One request, one answer.
async fn converse(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => health.answer(target.split('?').next().unwrap_or(target)),
        _ => (405, "only GET\n".to_owned()),
    };
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn three_pages_are_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Arc::new(Health::default());
        let server = tokio::spawn(serve(listener, Arc::clone(&health)));
        assert!(
            ask(address, "GET /readyz HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 503")
        );
        health.turned(None);
        health.set_metrics("twinsite_agent_info 1\n".to_owned());
        assert!(
            ask(address, "GET /readyz HTTP/1.1\r\n\r\n")
                .await
                .ends_with("\r\n\r\nok\n")
        );
        assert!(
            ask(address, "GET /healthz?x HTTP/1.0\r\nHost: h\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 200 OK")
        );
        assert!(
            ask(address, "GET /metrics HTTP/1.1\r\n\r\n")
                .await
                .ends_with("twinsite_agent_info 1\n")
        );
        assert!(
            ask(address, "GET / HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            ask(address, "POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
        server.abort();
    }
}
