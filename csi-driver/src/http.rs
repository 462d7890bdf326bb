//! /healthz, /readyz and /metrics: HTTP/1.1 as far as that takes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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

/// What the pages say.
pub struct Pages {
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Why nobody should count on this process yet.
    pub not_ready: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Binds and serves until the process ends.
///
/// # Errors
/// The address cannot be had.
pub async fn listen(address: SocketAddr, pages: Pages) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(serve(listener, Arc::new(pages)));
    Ok(bound)
}

async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    // A visitor that goes away, or says nothing, is no matter.
                    let _ = timeout(REQUEST_TIME, answer(stream, &pages)).await;
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

async fn answer(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).await?;
        if length == 0 || request.len() + length > MAX_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&piece[..length]);
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

fn page(line: &str, pages: &Pages) -> (&'static str, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let mut words = line.split(' ');
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    if method != Some("GET") {
        return ("405 Method Not Allowed", TEXT, "GET only\n".to_owned());
    }
    match path.split('?').next().unwrap_or_default() {
        "/healthz" => ("200 OK", TEXT, "ok\n".to_owned()),
        "/readyz" => match (pages.not_ready)() {
            None => ("200 OK", TEXT, "ok\n".to_owned()),
            Some(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        "/metrics" => (
            "200 OK",
            "text/plain; version=0.0.4; charset=utf-8",
            (pages.metrics)(),
        ),
        _ => (
            "404 Not Found",
            TEXT,
            "/metrics, /healthz and /readyz are here\n".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn three_pages_are_served_and_nothing_else() {
        let pages = Pages {
            metrics: Box::new(|| "twinsite_x 1\n".to_owned()),
            not_ready: Box::new(|| Some("not yet".to_owned())),
        };
        let address = listen(([127, 0, 0, 1], 0).into(), pages).await.unwrap();
        for (request, start, end) in [
            ("GET /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 200", "ok\n"),
            ("GET /readyz HTTP/1.1\r\n\r\n", "HTTP/1.1 503", "not yet\n"),
            (
                "GET /metrics?x HTTP/1.1\r\n\r\n",
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
}
