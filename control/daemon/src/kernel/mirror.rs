//! Follows the kernel's links, addresses, routes and neighbours by rtnetlink.
//!
//! The switch sends past the kernel, so the kernel would forget the stations it sends to. Each is entered with
//! `NTF_EXT_MANAGED`: the kernel then resolves it at once and keeps it fresh by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    sync::{Arc, mpsc as blocking},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::Stream};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::SocketAddr,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Kernel, KernelView, NextHop,
    requests::{Way, await_answer, look_up, read_addresses, read_table, set_managed},
    table::{Effect, Table},
};

/// How long news is gathered before it is passed on.
const GATHER: Duration = Duration::from_millis(5);
/// How often everything is read again, should the kernel have had to drop a message.
const RESYNC: Duration = Duration::from_secs(30);
/// Longest the controller waits for a station to be looked up.
const PATIENCE: Duration = Duration::from_secs(2);

/// rtnetlink does not work.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// A request was refused.
    #[error("cannot read the kernel's links, addresses, routes and neighbours: {0}")]
    Request(#[from] rtnetlink::Error),
}

/// A running mirror.
#[derive(Debug, Clone)]
pub struct Mirror {
    requests: mpsc::UnboundedSender<Request>,
    view: watch::Receiver<Arc<KernelView>>,
}

#[derive(Debug)]
enum Request {
    Follow(BTreeSet<Ipv4Addr>, blocking::SyncSender<()>),
    Stop,
}

impl Mirror {
    /// Reads everything once and follows it from then on, in a task that ends after [`Mirror::stop`].
    pub async fn start(uplink: String) -> Result<(Mirror, JoinHandle<()>), MirrorError> {
        let groups =
            [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, handle, news) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let (requests, receiver) = mpsc::unbounded_channel();
        let (sender, view) = watch::channel(Arc::default());
        let mut follower = Follower {
            handle,
            uplink,
            table: Table::default(),
            addresses: Vec::new(),
            stations: BTreeSet::new(),
            ways: BTreeMap::new(),
            managed: BTreeSet::new(),
            view: sender,
        };
        follower.read_again(true, &Stale { addresses: true, ..Stale::default() }).await?;
        Ok((Mirror { requests, view }, tokio::spawn(follower.run(news, receiver))))
    }

    /// The view, and a way to wait for the next one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<KernelView>> {
        self.view.clone()
    }

    /// Leaves the kernel's neighbours to themselves and ends the task.
    pub fn stop(&self) {
        // If it has ended already there is nothing to stop.
        let _ = self.requests.send(Request::Stop);
    }
}

impl Kernel for Mirror {
    fn follow(&self, stations: BTreeSet<Ipv4Addr>) -> Arc<KernelView> {
        let (done, wait) = blocking::sync_channel(1);
        // Without an answer in time the view is what it was: the stations are unresolved, and news of them follows.
        if self.requests.send(Request::Follow(stations, done)).is_err() || wait.recv_timeout(PATIENCE).is_err() {
            tracing::warn!("no answer from the kernel about the ways to other nodes yet");
        }
        self.view()
    }

    fn view(&self) -> Arc<KernelView> {
        self.view.borrow().clone()
    }
}

type News = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// What has to be read again, and since when.
#[derive(Debug, Default)]
struct Stale {
    since: Option<Instant>,
    addresses: bool,
    routes: bool,
    /// The kernel had to drop news for us.
    everything: bool,
}

impl Stale {
    fn mark(&mut self, effect: Effect) {
        if effect != Effect::None {
            self.since.get_or_insert_with(Instant::now);
        }
        self.addresses |= effect == Effect::Addresses;
        self.routes |= effect == Effect::Routes;
    }
}

struct Follower {
    handle: Handle,
    uplink: String,
    table: Table,
    /// The node's own, with their links.
    addresses: Vec<(u32, Ipv4Addr)>,
    stations: BTreeSet<Ipv4Addr>,
    ways: BTreeMap<Ipv4Addr, Way>,
    /// Neighbours that the kernel resolves for us.
    managed: BTreeSet<Way>,
    view: watch::Sender<Arc<KernelView>>,
}

impl Follower {
    async fn run(mut self, mut news: impl Stream<Item = News> + Unpin, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut resync_at = Instant::now() + RESYNC;
        let mut stale = Stale::default();
        loop {
            if stale.everything {
                resync_at = Instant::now();
            }
            let due = stale.since.map_or(resync_at, |since| resync_at.min(since + GATHER));
            let outcome = tokio::select! {
                Some((message, _)) = news.next() => {
                    self.take(message, &mut stale);
                    Ok(())
                }
                request = requests.recv() => match request {
                    Some(Request::Follow(stations, done)) => {
                        self.stations = stations;
                        let outcome = self.catch_up(&mut news, &mut stale).await;
                        // The controller may have lost patience.
                        let _ = done.try_send(());
                        outcome
                    }
                    Some(Request::Stop) | None => break,
                },
                () = sleep_until(due) => {
                    let now = Instant::now();
                    let mut stale = std::mem::take(&mut stale);
                    let whole = now >= resync_at;
                    if whole {
                        resync_at = now + RESYNC;
                        stale = Stale { addresses: true, routes: true, ..stale };
                    }
                    self.read_again(whole, &stale).await
                }
            };
            if let Err(e) = outcome {
                tracing::error!("{}", MirrorError::from(e));
            }
        }
        for way in std::mem::take(&mut self.managed) {
            if let Err(e) = set_managed(&self.handle, way, false).await {
                tracing::warn!(station = %way.neighbour, "the kernel keeps resolving this neighbour: {e}");
            }
        }
    }

    fn take(&mut self, message: NetlinkMessage<RouteNetlinkMessage>, stale: &mut Stale) {
        match message.payload {
            NetlinkPayload::InnerMessage(message) => stale.mark(self.table.take(&message)),
            NetlinkPayload::Overrun(_) => stale.everything = true,
            _ => {}
        }
    }

    /// Takes in all that the kernel has said until now, and publishes it: who made an interface and then asks for it
    /// to be attached must find it.
    async fn catch_up(
        &mut self,
        news: &mut (impl Stream<Item = News> + Unpin),
        stale: &mut Stale,
    ) -> Result<(), rtnetlink::Error> {
        // Answers and news come by one socket in their order: with this answer, all earlier news are here.
        await_answer(&self.handle).await?;
        while let Some(Some((message, _))) = news.next().now_or_never() {
            self.take(message, stale);
        }
        let now = Stale { routes: true, ..std::mem::take(stale) };
        self.read_again(now.everything, &now).await
    }

    /// Reads what is stale, all of the table if `whole`, and publishes the outcome.
    async fn read_again(&mut self, whole: bool, stale: &Stale) -> Result<(), rtnetlink::Error> {
        if whole {
            self.table = read_table(&self.handle).await?;
        }
        if stale.addresses || stale.routes {
            self.addresses = read_addresses(&self.handle).await?;
            self.look_up_ways().await?;
        }
        self.publish();
        Ok(())
    }

    /// Asks the kernel for the way to each station, and makes it resolve the neighbours on the uplink.
    async fn look_up_ways(&mut self) -> Result<(), rtnetlink::Error> {
        let mut ways = BTreeMap::new();
        for &station in &self.stations {
            if let Some(way) = look_up(&self.handle, station).await? {
                ways.insert(station, way);
            }
        }
        self.ways = ways;
        let uplink = self.table.link_number(&self.uplink);
        let wanted: BTreeSet<Way> = self.ways.values().copied().filter(|way| Some(way.link) == uplink).collect();
        for &way in self.managed.clone().difference(&wanted) {
            self.managed.remove(&way);
            // It may have gone with its link.
            if let Err(e) = set_managed(&self.handle, way, false).await {
                tracing::debug!(station = %way.neighbour, "cannot let go of the neighbour: {e}");
            }
        }
        for way in wanted {
            let entry = self.table.neighbour(way.link, way.neighbour);
            // One that is managed and has no address is asked for at once, and not when it is next its turn.
            if !entry.is_static && (!entry.is_managed || entry.mac.is_none()) {
                set_managed(&self.handle, way, true).await?;
                self.managed.insert(way);
            }
        }
        Ok(())
    }

    /// Makes the view what is known now, and tells of it if it changed.
    fn publish(&self) {
        let uplink = self.table.link_number(&self.uplink);
        let next_hop = |station: &Ipv4Addr| {
            let way = self.ways.get(station).filter(|way| Some(way.link) == uplink);
            let mac = way.and_then(|way| self.table.neighbour(way.link, way.neighbour).mac);
            (*station, NextHop { station: way.map(|way| way.neighbour), mac })
        };
        let view = KernelView {
            links: self.table.links(),
            underlay: self.addresses.iter().find(|(link, _)| Some(*link) == uplink).map(|(_, address)| *address),
            addresses: self.addresses.iter().map(|(_, address)| *address).collect(),
            next_hops: self.stations.iter().map(next_hop).collect(),
        };
        self.view.send_if_modified(|current| {
            let changed = **current != view;
            if changed {
                *current = Arc::new(view);
            }
            changed
        });
    }
}
