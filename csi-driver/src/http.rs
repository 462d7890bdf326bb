//! What the pages of the driver say.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

/// What the pages say. As long as the process answers it is healthy: what it waits for may be away.
pub struct Pages {
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Why nobody should count on this process yet.
    pub not_ready: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

impl twinsite_pages::Pages for Pages {
    fn metrics(&self) -> String {
        (self.metrics)()
    }

    fn healthy(&self) -> Result<String, String> {
        Ok("ok".to_owned())
    }

    fn ready(&self) -> Result<String, String> {
        (self.not_ready)().map_or_else(|| Ok("ok".to_owned()), Err)
    }
}

/// Binds and serves until the process ends.
///
/// # Errors
/// The address cannot be had.
pub async fn listen(address: SocketAddr, pages: Pages) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(twinsite_pages::serve(listener, Arc::new(pages)));
    Ok(())
}
