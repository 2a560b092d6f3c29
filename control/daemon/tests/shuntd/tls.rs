//! TCP: only with a certificate of the right authority.

use std::{net::SocketAddr, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use shunt_control_api::v1::{GetStatusRequest, switch_client::SwitchClient};
use shunt_control_daemon::{
    api::{
        SwitchApi,
        server::{ServeError, TlsPort, services},
    },
    config::Tcp,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::support::TestDaemon;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, in PEM.
fn issue(authority: &Authority, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages.push(purpose);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

async fn call(address: SocketAddr, tls: ClientTlsConfig) -> Result<String, String> {
    let endpoint = Channel::from_shared(format!("https://{address}")).unwrap();
    let endpoint = endpoint.tls_config(tls.domain_name("shuntd.test")).unwrap();
    // The server may refuse in the handshake or with the first call.
    let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    let status = SwitchClient::new(channel).get_status(GetStatusRequest {}).await.map_err(|e| e.to_string())?;
    Ok(status.into_inner().node)
}

fn write(dir: &Path, server: &(String, String), client_ca: &str) -> Tcp {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Tcp {
        listen: "127.0.0.1:0".parse().unwrap(),
        cert: file("server.pem", &server.0),
        key: file("server.key", &server.1),
        client_ca: file("clients.pem", client_ca),
    }
}

#[tokio::test]
async fn only_certified_callers_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start(dir.path()).await;
    let (servers, clients, others) = (authority("servers"), authority("clients"), authority("others"));
    let server = issue(&servers, "shuntd.test", ExtendedKeyUsagePurpose::ServerAuth);
    let port = TlsPort::bind(&write(dir.path(), &server, &clients.pem())).await.unwrap();
    let address = port.address().unwrap();
    let (routes, _health) =
        services(SwitchApi::new(daemon.controller.clone(), tokio::sync::watch::channel(None).1)).await.unwrap();
    let serving = tokio::spawn(port.serve(routes, std::future::pending()));

    let trust = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(servers.pem()));
    let with = |authority: &Authority| {
        let (cert, key) = issue(authority, "operator", ExtendedKeyUsagePurpose::ClientAuth);
        trust().identity(Identity::from_pem(cert, key))
    };
    assert_eq!(call(address, with(&clients)).await, Ok("node-a".to_owned()));
    assert!(call(address, trust()).await.is_err(), "no certificate");
    assert!(call(address, with(&others)).await.is_err(), "another authority's");
    let plain = SwitchClient::connect(format!("http://{address}")).await;
    let plain = match plain {
        Ok(mut client) => client.get_status(GetStatusRequest {}).await.map(drop).map_err(drop),
        Err(_) => Err(()),
    };
    assert_eq!(plain, Err(()), "no TLS");

    serving.abort();
    // It is gone, and with it what it held of the controller.
    assert!(serving.await.unwrap_err().is_cancelled());
    daemon.stop().await;
}

#[tokio::test]
async fn files_that_are_missing_or_no_certificates_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let servers = authority("servers");
    let server = issue(&servers, "shuntd.test", ExtendedKeyUsagePurpose::ServerAuth);
    let good = write(dir.path(), &server, &servers.pem());
    let missing = Tcp { cert: dir.path().join("none.pem"), ..good.clone() };
    let message = TlsPort::bind(&missing).await.unwrap_err().to_string();
    assert!(message.contains("none.pem"), "{message}");
    let swapped = Tcp { cert: good.key.clone(), ..good.clone() };
    assert!(matches!(TlsPort::bind(&swapped).await, Err(ServeError::Transport(_))));
    std::fs::write(&good.client_ca, "nothing").unwrap();
    assert!(matches!(TlsPort::bind(&good).await, Err(ServeError::Transport(_))), "nobody could be certified");
}
