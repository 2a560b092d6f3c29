//! Where the API listens: a unix socket for its owner, and TCP with certificates on both sides.

use std::{
    fs::{self, DirBuilder, Permissions},
    future::Future,
    io,
    net::SocketAddr,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use shunt_control_api::{FILE_DESCRIPTOR_SET, v1::switch_server::SwitchServer};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    service::Routes,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tonic_health::server::{HealthReporter, health_reporter};

use super::SwitchApi;
use crate::config::Tcp;

/// Largest request, in bytes: a whole cluster of 100,000 services with a million endpoints.
const MAX_REQUEST: usize = 256 << 20;

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something about the socket.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers there.
    #[error("another process listens on {}; stop it, or give this one its own [api] socket", .0.display())]
    Busy(PathBuf),
    /// There is a file, and it is not a socket.
    #[error("{} exists and is not a socket; move it away, or name another [api] socket", .0.display())]
    NotASocket(PathBuf),
    /// TCP.
    #[error("cannot listen on {address} ([api.tcp] listen): {source}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key, or the server itself.
    #[error("the API cannot be served: {0}; if it names certificates, check the files of [api.tcp]")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors that reflection serves.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ServeError + 'a {
    move |source| ServeError::Io { what, path: path.to_owned(), source }
}

/// All services of the API, and the switch for its health.
pub async fn services(api: SwitchApi) -> Result<(Routes, HealthReporter), ServeError> {
    let (reporter, health) = health_reporter();
    reporter.set_serving::<SwitchServer<SwitchApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let switch = SwitchServer::new(api).max_decoding_message_size(MAX_REQUEST);
    Ok((Routes::new(switch).add_service(health).add_service(reflection), reporter))
}

/// A unix socket that only its owner can use; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Listens at `path`, in the place of a socket on which nobody answers any more.
    pub fn bind(path: &Path) -> Result<Socket, ServeError> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed("create", dir))?;
        }
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("look at", path)(e)),
            Ok(meta) if !meta.file_type().is_socket() => return Err(ServeError::NotASocket(path.to_owned())),
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(ServeError::Busy(path.to_owned())),
            Ok(_) => fs::remove_file(path).map_err(failed("remove", path))?,
        }
        // Bound beside and moved into place with its permissions, so it is never there with others.
        let temp = path.with_extension("new");
        let _ = fs::remove_file(&temp);
        let listener = UnixListener::bind(&temp).map_err(failed("listen on", path))?;
        fs::set_permissions(&temp, Permissions::from_mode(0o600)).map_err(failed("protect", path))?;
        fs::rename(&temp, path).map_err(failed("listen on", path))?;
        Ok(Socket { path: path.to_owned(), listener: Some(listener) })
    }

    /// Serves until `stop`, and then until open calls are answered.
    pub async fn serve(mut self, routes: Routes, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let listener = self.listener.take().expect("taken once, here");
        let incoming = UnixListenerStream::new(listener);
        Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await?;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may have been replaced by hand; then there is nothing of ours to remove.
        let _ = fs::remove_file(&self.path);
    }
}

/// A TCP port with TLS; callers need a certificate signed by `client_ca`.
#[derive(Debug)]
pub struct TlsPort {
    listener: TcpListener,
    server: Server,
}

impl TlsPort {
    /// Reads the certificates and listens.
    pub async fn bind(tcp: &Tcp) -> Result<TlsPort, ServeError> {
        let read = |path: &Path| fs::read(path).map_err(failed("read", path));
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(read(&tcp.cert)?, read(&tcp.key)?))
            .client_ca_root(Certificate::from_pem(read(&tcp.client_ca)?));
        let server = Server::builder().tls_config(tls)?;
        let listener =
            TcpListener::bind(tcp.listen).await.map_err(|source| ServeError::Tcp { address: tcp.listen, source })?;
        Ok(TlsPort { listener, server })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, and then until open calls are answered.
    pub async fn serve(mut self, routes: Routes, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let incoming = TcpListenerStream::new(self.listener);
        self.server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await?;
        Ok(())
    }
}
