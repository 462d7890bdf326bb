//! A gRPC server on a unix socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Router;

/// How long calls under way may take after the order to stop.
pub const DRAIN: Duration = Duration::from_secs(20);

/// The order to stop, for as many as listen to it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// An order that can be given, and its listener.
    pub fn channel() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits for the order; one who can give it and has gone counts as given.
    pub async fn wait(mut self) {
        let _gone = self.0.wait_for(|stop| *stop).await;
    }
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0:?} is no unix socket: give unix:///absolute/path")]
    Endpoint(String),
    #[error("cannot listen on {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("the server of {path} ended")]
    Server {
        path: PathBuf,
        source: tonic::transport::Error,
    },
}

/// The path that an endpoint such as `unix:///csi/csi.sock` names.
///
/// # Errors
/// It names something else.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, ServeError> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    // unix:///a and unix:/a name the same.
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err(ServeError::Endpoint(endpoint.to_owned()));
    }
    Ok(PathBuf::from(path))
}

/// Binds a socket that only root may use; the file of a process that has gone is replaced.
///
/// # Errors
/// It cannot be bound, or a living process has it.
pub fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers there",
        )));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// Serves until it is told to stop; calls under way may end, for as long as [`DRAIN`].
///
/// # Errors
/// The socket cannot be had or the server fails.
pub async fn serve(path: &Path, router: Router, stop: Stop) -> Result<(), ServeError> {
    let incoming = UnixListenerStream::new(bind(path)?);
    let late = async {
        stop.clone().wait().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = router.serve_with_incoming_shutdown(incoming, stop.clone().wait()) => {
            served.map_err(|source| ServeError::Server { path: path.to_owned(), source })?;
        }
        () = late => tracing::warn!("calls were still under way at the end"),
    }
    let _gone = fs::remove_file(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_absolute_path() {
        for text in ["unix:///a/b.sock", "unix:/a/b.sock", "/a/b.sock"] {
            assert_eq!(socket_path(text).unwrap(), Path::new("/a/b.sock"), "{text}");
        }
        for text in ["tcp://127.0.0.1:1", "a.sock", "unix:a.sock", ""] {
            assert!(socket_path(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn the_socket_of_a_living_process_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/csi.sock");
        let first = bind(&path).unwrap();
        assert!(bind(&path).is_err());
        drop(first);
        bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }
}
