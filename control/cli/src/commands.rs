//! The commands: one call or a few, and what comes of them.

use std::{io::Write, path::Path};

use shunt_control_api::v1::{self, switch_client::SwitchClient};
use tonic::transport::{Channel, Endpoint};

use crate::{
    args::{self, Args, Command, FlowFilter, Flows, IpProtocol, Kind, Output, Packet, Place, ServiceCommand, What},
    cluster::Cluster,
    failure::Failure,
    show::{self, Show},
};

/// Largest answer that is taken, in bytes: a page of services with many endpoints each.
const MAX_ANSWER: usize = 256 << 20;

/// Runs any command but those that need no daemon.
pub async fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    // Before a connection is made: a wrong file is wrong whether or not the daemon runs.
    let request = match &args.command {
        Command::Apply { file, replace, expect_version } => {
            let request = v1::ApplyRequest::from(Cluster::read(file)?);
            Some(v1::ApplyRequest { replace: *replace, expected_version: *expect_version, ..request })
        }
        _ => None,
    };
    let mut client = connect(&args.socket).await?;
    let mut show = Show { out, output: args.output };
    match &args.command {
        Command::Apply { file, .. } => {
            let answer = client.apply(request.unwrap_or_default()).await;
            let refused = |status| Failure::RefusedFile { file: file.display().to_string(), status };
            let answer = answer.map_err(refused)?.into_inner();
            show.applied(&answer)
        }
        Command::Delete { kind, name } => {
            let request = v1::ApplyRequest { deletes: vec![key(*kind, name)], ..Default::default() };
            let answer = client.apply(request).await?.into_inner();
            if answer.deleted == 0 {
                return Err(Failure::NothingToDelete(format!("{} {name}", kind_name(*kind))));
            }
            show.applied(&answer)
        }
        Command::Get { kind, name } => {
            let request = v1::GetRequest { key: Some(key(*kind, name)) };
            let answer = client.get(request).await?.into_inner();
            let cluster: Cluster = answer.resource.into_iter().collect();
            let status = status_for(&mut client, *kind, args.output).await?;
            show.resources(*kind, &cluster, &status)
        }
        Command::List { what } => list(&mut client, &mut show, what).await,
        Command::Service { what } => {
            let services = service_status(&mut client, what).await?;
            show.service_status(&services, matches!(what, ServiceCommand::Get { .. }))
        }
        Command::Flow { what: Flows::List { filter, limit } } => {
            let request = v1::ListFlowsRequest { limit: *limit, filter: Some(filter.into()) };
            show.flows(&client.list_flows(request).await?.into_inner())
        }
        Command::Flow { what: Flows::Flush { filter, all } } => {
            let request = v1::FlushFlowsRequest { filter: Some(filter.into()), all: *all };
            show.flushed(&client.flush_flows(request).await?.into_inner())
        }
        Command::Explain(packet) => {
            show.explained(&client.explain(v1::ExplainRequest::from(packet)).await?.into_inner())
        }
        Command::Counters => show.counters(&client.get_counters(v1::GetCountersRequest {}).await?.into_inner()),
        Command::Drops => show.drops(&client.get_counters(v1::GetCountersRequest {}).await?.into_inner()),
        Command::Status => show.status(&client.get_status(v1::GetStatusRequest {}).await?.into_inner()),
        Command::Conservation => {
            let counters = client.get_counters(v1::GetCountersRequest {}).await?.into_inner();
            show.conservation(&counters)?;
            match counters.imbalances.len() {
                0 => Ok(()),
                n => Err(Failure::Imbalance(n)),
            }
        }
        Command::Watch { after } => {
            let mut stream = client.watch(v1::WatchRequest { after_version: *after }).await?.into_inner();
            while let Some(message) = stream.message().await? {
                show.change(message)?;
            }
            Ok(())
        }
        Command::Completion { .. } | Command::Doctor { .. } | Command::Flannel { .. } => Ok(()),
    }
}

async fn connect(socket: &Path) -> Result<SwitchClient<Channel>, Failure> {
    let unreachable = |problem: String| Failure::Unreachable { socket: socket.to_owned(), problem };
    // Relative paths would be taken for a host's name.
    let path = std::path::absolute(socket).map_err(|e| unreachable(e.to_string()))?;
    let endpoint =
        Endpoint::from_shared(format!("unix://{}", path.display())).map_err(|e| unreachable(e.to_string()))?;
    let channel = endpoint.connect().await.map_err(|e| {
        // The transport's own text says only that there was an error.
        let mut cause: &dyn std::error::Error = &e;
        while let Some(source) = cause.source() {
            cause = source;
        }
        unreachable(cause.to_string())
    })?;
    Ok(SwitchClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

async fn list(client: &mut SwitchClient<Channel>, show: &mut Show<'_>, what: &What) -> Result<(), Failure> {
    let kind = match what {
        What::Vteps => Kind::Vtep,
        What::Ports => Kind::Port,
        What::Routes => Kind::Route,
        What::Services => Kind::Service,
        What::EndpointSlices => Kind::EndpointSlice,
    };
    let mut resources = Vec::new();
    let mut after = String::new();
    loop {
        let request = v1::ListRequest { kind: api_kind(kind).into(), limit: 0, after };
        let page = client.list(request).await?.into_inner();
        resources.extend(page.resources);
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    let status = status_for(client, kind, show.output).await?;
    show.resources(kind, &resources.into_iter().collect(), &status)
}

/// One service's status, or all.
async fn service_status(
    client: &mut SwitchClient<Channel>,
    what: &ServiceCommand,
) -> Result<Vec<v1::ServiceStatus>, Failure> {
    let name = match what {
        ServiceCommand::List => String::new(),
        ServiceCommand::Get { name } => name.clone(),
    };
    let (mut services, mut after) = (Vec::new(), String::new());
    loop {
        let request = v1::ListServiceStatusRequest { name: name.clone(), limit: 0, after };
        let page = client.list_service_status(request).await?.into_inner();
        services.extend(page.services);
        after = page.next;
        if after.is_empty() {
            return Ok(services);
        }
    }
}

/// The status, where a table has a column of it.
async fn status_for(
    client: &mut SwitchClient<Channel>,
    kind: Kind,
    output: Output,
) -> Result<v1::GetStatusResponse, Failure> {
    if output == Output::Json || matches!(kind, Kind::Service | Kind::EndpointSlice) {
        return Ok(v1::GetStatusResponse::default());
    }
    Ok(client.get_status(v1::GetStatusRequest {}).await?.into_inner())
}

impl From<&FlowFilter> for v1::FlowFilter {
    fn from(filter: &FlowFilter) -> Self {
        let address = |place: Option<Place>| place.map(|place| place.address.to_string()).unwrap_or_default();
        let port = |place: Option<Place>| place.and_then(|place| place.port).unwrap_or_default().into();
        v1::FlowFilter {
            protocol: filter.protocol.map_or(v1::Protocol::Unspecified, v1::Protocol::from).into(),
            client: address(filter.client),
            vip: address(filter.vip),
            backend: address(filter.backend),
            client_port: port(filter.client),
            vip_port: port(filter.vip),
            backend_port: port(filter.backend),
            state: filter.state.clone().unwrap_or_default(),
        }
    }
}

/// The port that a packet comes from unless it is said.
const SOURCE_PORT: u16 = 40_000;

impl From<&Packet> for v1::ExplainRequest {
    fn from(packet: &Packet) -> Self {
        let protocol = match packet.protocol {
            IpProtocol::Number(number) => number,
            IpProtocol::Icmp if packet.source.address.is_ipv6() => args::ICMPV6,
            IpProtocol::Icmp => args::ICMP,
        };
        let has_ports = matches!(protocol, args::TCP | args::UDP | args::SCTP);
        let source_port = packet.source.port.or(has_ports.then_some(SOURCE_PORT));
        let flags = packet.flags.iter().fold(0, |flags, flag| flags | *flag as u32);
        v1::ExplainRequest {
            source: packet.source.address.to_string(),
            destination: packet.destination.address.to_string(),
            protocol: protocol.into(),
            source_port: source_port.unwrap_or_default().into(),
            destination_port: packet.destination.port.unwrap_or_default().into(),
            tcp_flags: (!packet.flags.is_empty()).then_some(flags),
            port: packet.port.clone().unwrap_or_default(),
            vtep: packet.vtep.map(|vtep| vtep.to_string()).unwrap_or_default(),
            length: packet.length,
            ttl: Some(packet.ttl.into()),
            dont_fragment: Some(!packet.may_fragment),
        }
    }
}

fn key(kind: Kind, name: &str) -> v1::Key {
    v1::Key { kind: api_kind(kind).into(), name: name.to_owned() }
}

fn api_kind(kind: Kind) -> v1::Kind {
    match kind {
        Kind::Vtep => v1::Kind::Vtep,
        Kind::Port => v1::Kind::Port,
        Kind::Route => v1::Kind::Route,
        Kind::Service => v1::Kind::Service,
        Kind::EndpointSlice => v1::Kind::EndpointSlice,
    }
}

fn kind_name(kind: Kind) -> &'static str {
    show::kind_name(api_kind(kind))
}
