//! A cluster in one thread: servers that can crash and come back, the network between them, and the
//! chaos that draws from the seed who suffers next.
//!
//! Each server runs in a `LocalSet` of its own; a crash drops it, so that every task of the server
//! ends where it stands, and then its Trove's open instances are dead.
use pvfs2_bmi::client::AsyncNet;
use pvfs2_bmi::mem::{FaultPlan, MemNetwork};
use pvfs2_bmi::server::{ServerOptions, serve};
use pvfs2_client::background::{Worker, orders};
use pvfs2_client::{Client, ClientConfig};
use pvfs2_io::server::{IoConfig, IoServer};
use pvfs2_meta::server::{MetaConfig, MetaServer, PeerConfig};
use pvfs2_proto::env::{Clock, Env};
use pvfs2_proto::{ClusterMap, Dist, HandleRange, ServerEntry, ServerId};
use pvfs2_server_core::metrics::Metrics;
use pvfs2_server_core::service::{OpHandler, ServiceConfig, SessionService};
use pvfs2_trove::bstreams::memory::MemDisk;
use pvfs2_trove::collection::MemCollection;
use pvfs2_trove::{Bstreams, Collection};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

/// What cluster a run wants.
#[derive(Clone)]
pub struct WorldSpec {
    pub meta: usize,
    pub io: usize,
    pub strip_size_bytes: u64,
    pub small_file_bytes: u64,
    /// Names with which a directory splits; 0: none does.
    pub dir_split_entries: u64,
}

/// How often and how long servers suffer.
#[derive(Clone, Copy)]
pub struct Chaos {
    pub pause_ms_max: u64,
    pub down_ms_max: u64,
}

/// Wall time that follows the paused clock.
struct SimClock(Instant);
impl Clock for SimClock {
    fn now_ns(&self) -> i64 {
        1_700_000_000_000_000_000 + self.0.elapsed().as_nanos() as i64
    }
}

/// What of a server survives its crash, and its running instance.
struct Place {
    collection: MemCollection,
    disk: MemDisk,
    running: Option<JoinHandle<()>>,
    /// The metadata server of the last start.
    meta: Rc<RefCell<Weak<MetaServer>>>,
}

/// The cluster.
pub struct World {
    pub net: Arc<MemNetwork>,
    env: Env,
    map: Arc<ClusterMap>,
    places: RefCell<Vec<Place>>,
    begin: Instant,
}

impl World {
    pub fn start(seed: u64, spec: WorldSpec) -> Rc<World> {
        let begin = Instant::now();
        let env = Env::seeded(seed, Arc::new(SimClock(begin)));
        let net = MemNetwork::new(env.clone(), FaultPlan::default());
        let map = Arc::new(cluster_map(&spec));
        let place = |_| Place {
            collection: MemCollection::default(),
            disk: MemDisk::default(),
            running: None,
            meta: Rc::default(),
        };
        let places = RefCell::new((0..map.servers.len()).map(place).collect());
        let world = Rc::new(World { net, env, map, places, begin });
        (0..world.map.servers.len()).for_each(|i| world.boot(i));
        world
    }

    pub fn elapsed_ns(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// A client of its own, which waits for servers for ever.
    pub fn client(&self, caches: bool) -> crate::hand::Hand {
        let mut config = ClientConfig::new(self.map.clone(), self.env.clone());
        config.hard = true;
        config.mem = Some(self.net.clone());
        config.name = "sim".into();
        config.name_rights = true;
        config.join = true;
        if !caches {
            (config.acache_ms, config.ncache_ms) = (0, 0);
        }
        let client = Client::new(config);
        let net = AsyncNet::new(client.shared().clone());
        let keepalive = tokio::task::spawn_local(net.clone().keepalive());
        let (outbox, inbox) = orders();
        let worker = Worker::new(client.clone(), net.clone());
        tokio::task::spawn_local(worker.serve(inbox));
        crate::hand::Hand::new(client, net, keepalive, outbox)
    }

    fn alias(&self, i: usize) -> &str {
        self.map.alias(i as ServerId)
    }

    /// Starts server `i` on what its last run left.
    fn boot(&self, i: usize) {
        let mut places = self.places.borrow_mut();
        let place = &mut places[i];
        assert!(place.running.is_none(), "started twice");
        crate::trace(|| format!("start {}", self.alias(i)));
        let (map, env) = (self.map.clone(), self.env.clone());
        let (backing, disk, net) = (place.collection.clone(), place.disk.clone(), self.net.clone());
        let listener = net.listen(self.alias(i));
        let seen = place.meta.clone();
        let id = i as ServerId;
        let own = LocalSet::new();
        own.spawn_local(async move {
            let (_keep, shutdown) = watch::channel(false);
            let metrics = Arc::new(Metrics::new());
            let options =
                Arc::new(ServerOptions { fs_id: map.fs_id, ..ServerOptions::new(env.clone()) });
            let config = |durable| ServiceConfig {
                server: id,
                map: map.clone(),
                env: env.clone(),
                metrics: metrics.clone(),
                durable,
            };
            if map.servers[i].meta_range.is_some() {
                let meta = MetaConfig {
                    server: id,
                    map: map.clone(),
                    collection: Arc::new(Collection::open_memory(&backing, env.clone())),
                    bstreams: None,
                    clean_stop: false,
                    sync_meta: false,
                    env: env.clone(),
                };
                let server = MetaServer::open(meta, PeerConfig { key: None, mem: Some(net) })
                    .expect("meta server");
                *seen.borrow_mut() = Arc::downgrade(&server);
                let durable = server.durable_sessions();
                let service = Arc::new(
                    SessionService::new(server.clone(), config(Some(durable))).expect("sessions"),
                );
                server.spawn_background();
                service.spawn_background();
                serve(listener, service, options, shutdown).await;
            } else {
                let bstreams =
                    Arc::new(Bstreams::open_memory(&disk, env.clone()).expect("datafiles"));
                let io = IoConfig {
                    inline: true,
                    scrub_bytes_per_s: 0,
                    ..IoConfig::new(id, map.clone(), bstreams, env.clone(), metrics.clone())
                };
                let server = IoServer::open(io).expect("I/O server");
                let service =
                    Arc::new(SessionService::new(server.clone(), config(None)).expect("sessions"));
                service.spawn_background();
                let background = shutdown.clone();
                tokio::task::spawn_local(async move { server.background(background).await });
                serve(listener, service, options, shutdown).await;
            }
        });
        place.running = Some(tokio::task::spawn_local(own));
    }

    /// kill -9: nothing of the server goes on.
    async fn crash(&self, i: usize) {
        crate::trace(|| format!("kill {}", self.alias(i)));
        let running = self.places.borrow_mut()[i].running.take();
        let Some(running) = running else { return };
        self.net.kill(self.alias(i));
        {
            let places = self.places.borrow();
            places[i].collection.crash();
            places[i].disk.crash();
        }
        running.abort();
        match running.await {
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            _ => {}
        }
    }

    fn rand(&self, below: u64) -> u64 {
        self.env.rand_u64() % below.max(1)
    }

    async fn sleep_ms(&self, max: u64) {
        tokio::time::sleep(Duration::from_millis(self.rand(max + 1))).await;
    }

    /// Hurts one server after the other, until dropped.
    pub async fn rage(&self, chaos: Chaos) {
        let servers = self.map.servers.len();
        loop {
            self.sleep_ms(chaos.pause_ms_max).await;
            let i = self.rand(servers as u64) as usize;
            match self.rand(6) {
                0 => {
                    crate::trace(|| format!("cut {}", self.alias(i)));
                    self.net.cut(self.alias(i));
                }
                1 => {
                    crate::trace(|| format!("part {}", self.alias(i)));
                    self.net.partition(self.alias(i), true);
                    self.sleep_ms(chaos.down_ms_max).await;
                    self.net.partition(self.alias(i), false);
                }
                2 => {
                    for i in 0..servers {
                        self.crash(i).await;
                    }
                    self.sleep_ms(chaos.down_ms_max).await;
                    (0..servers).for_each(|i| self.boot(i));
                }
                _ => {
                    self.crash(i).await;
                    self.sleep_ms(chaos.down_ms_max).await;
                    self.boot(i);
                }
            }
        }
    }

    /// Everybody is up and can be reached.
    pub fn heal(&self) {
        for i in 0..self.map.servers.len() {
            self.net.partition(self.alias(i), false);
            let up = self.places.borrow()[i].running.is_some();
            if !up {
                self.boot(i);
            }
        }
    }

    /// Waits until the metadata servers hold so many objects together, besides parts of directories.
    pub async fn assert_objects(&self, want: u64) {
        let count = || -> u64 {
            let places = self.places.borrow();
            let metas = places.iter().filter_map(|p| p.meta.borrow().upgrade());
            let gauges: Vec<_> = metas.flat_map(|m| m.gauges()).collect();
            let sum = |of: &str| gauges.iter().filter(|g| g.0 == of).map(|g| g.1).sum::<u64>();
            sum("objects") - sum("dir_parts")
        };
        for _ in 0..600 {
            if count() == want {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("{} objects on the metadata servers, {want} have names", count());
    }

    /// Waits until the reapers have removed every datafile.
    pub async fn assert_no_datafile_is_left(&self) {
        let left = || -> usize {
            let places = self.places.borrow();
            let count = |p: &Place| {
                let look = Bstreams::open_memory(&p.disk, self.env.clone()).expect("datafiles");
                look.list(pvfs2_proto::Handle(0), 10_000).map_or(0, |(handles, _)| handles.len())
            };
            places.iter().map(count).sum()
        };
        for _ in 0..600 {
            if left() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("{} datafiles are left although every file is gone", left());
    }
}

fn cluster_map(spec: &WorldSpec) -> ClusterMap {
    let meta = (0..spec.meta).map(|k| {
        let range = pvfs2_config::generate::meta_range(k as u64);
        ("meta", k, Some(range), None)
    });
    let io = (0..spec.io).map(|k| {
        let range = pvfs2_config::generate::io_range(k as u64);
        ("io", k, None, Some(range))
    });
    type One = (&'static str, usize, Option<HandleRange>, Option<HandleRange>);
    let entry = |(role, k, meta_range, io_range): One| {
        let alias = format!("{role}{k}");
        ServerEntry {
            addresses: vec![format!("mem://{alias}")],
            alias,
            meta_range,
            io_range,
            management: String::new(),
        }
    };
    ClusterMap {
        fs_name: "sim".into(),
        fs_id: 77,
        servers: meta.chain(io).map(entry).collect(),
        default_dist: Some(Dist::simple_stripe(spec.strip_size_bytes)),
        default_num_datafiles: 0,
        default_layout: "round_robin".into(),
        small_file_bytes: spec.small_file_bytes,
        retry_limit: 5,
        retry_delay_ms: 100,
        lease_ms: 30_000,
        dir_servers_max: if spec.dir_split_entries > 0 { 4 } else { 1 },
        dir_split_entries: spec.dir_split_entries,
    }
}
