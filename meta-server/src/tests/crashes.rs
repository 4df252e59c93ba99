//! Every operation that spans servers, with every server involved killed at every step: before each
//! request between servers is delivered, and after it was carried out but not answered. The killed
//! server comes back a moment later, the client repeats its request: the operation is done, once;
//! fsck finds nothing; and whoever stats a name that is there before and after finds it all the time.
use super::across::{dir_in, dir_on};
use super::fsck::faults_of;
use super::harness::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, Result};
use std::rc::Rc;
use std::time::Duration;

/// Whom a fault point kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The server that asks.
    Caller,
    /// The server that is asked.
    Callee,
    /// All of them.
    All,
}

/// A kill to come.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Fault points to pass before.
    pub left: u32,
    /// Whom it takes.
    pub victim: Victim,
}

/// How long a killed server stays away.
const DOWN: Duration = Duration::from_millis(300);

/// A fault point between `caller` and `callee`; kills if it is the one. `true`: it was.
pub fn point(c: &Rc<Cluster>, caller: u32, callee: u32) -> bool {
    let Some(kill) = c.kill.get() else { return false };
    if kill.left > 0 {
        c.kill.set(Some(Kill { left: kill.left - 1, ..kill }));
        return false;
    }
    c.kill.set(None);
    let victims = match kill.victim {
        Victim::Caller => vec![caller],
        Victim::Callee => vec![callee],
        Victim::All => (0..c.backings.len() as u32).collect(),
    };
    victims.iter().for_each(|v| c.kill(*v));
    let c = c.clone();
    tokio::task::spawn_local(async move {
        tokio::time::sleep(DOWN).await;
        victims.iter().for_each(|v| c.start(*v));
    });
    true
}

/// A tree over three servers.
struct Tree {
    u: User,
    dirs: [u64; 3],
    fresh: String,
    far: String,
}

/// d0 on server 0 has the file f, the directory e (on server 1), g's second name; d1 on server 1
/// the file g and the directory sub (on server 2); d2 on server 2 a second name of f, and the
/// empty directory t (on server 0).
async fn tree(c: &Rc<Cluster>) -> Tree {
    let u = c.root();
    let mut dirs = [0; 3];
    for (on, dir) in dirs.iter_mut().enumerate() {
        *dir = dir_on(&u, on as u32, &format!("d{on}-")).await.0;
    }
    let f = u.create(dirs[0], "f").await.unwrap();
    u.create(dirs[1], "g").await.unwrap();
    u.link(f, dirs[2], "far").await.unwrap();
    for (dir, on, name) in [(0, 1, "e"), (1, 2, "sub"), (2, 0, "t")] {
        let (_, drawn) = dir_in(&u, dirs[dir], on, name).await;
        u.rename(dirs[dir], &drawn, dirs[dir], name).await.unwrap();
    }
    // Names whose directories come to lie elsewhere.
    let (_, fresh) = dir_in(&u, dirs[0], 1, "fresh").await;
    u.rmdir(dirs[0], &fresh).await.unwrap();
    let (_, far) = dir_in(&u, dirs[2], 1, "other").await;
    u.rmdir(dirs[2], &far).await.unwrap();
    Tree { u, dirs, fresh, far }
}

type Names = Vec<(usize, String, u64)>;

impl Tree {
    async fn names(&self, u: &User) -> Names {
        let mut all = Vec::new();
        for (i, dir) in self.dirs.iter().enumerate() {
            for name in u.names(*dir).await {
                let handle = u.lookup(*dir, &name).await.unwrap();
                all.push((i, name, handle));
            }
        }
        all
    }

    fn rename(&self, from: (usize, &str), to: (usize, &str), flags: &str) -> (u32, OpRequest) {
        let r = RenameRequest {
            dir: self.dirs[from.0],
            name: from.1.to_owned().into(),
            new_dir: self.dirs[to.0],
            new_name: to.1.to_owned().into(),
            no_replace: flags == "noreplace",
            exchange: flags == "exchange",
        };
        (to.0 as u32, r.into_request())
    }

    /// The operations: server and request.
    fn operation(&self, n: usize, f: u64) -> Option<(u32, OpRequest)> {
        let d = self.dirs;
        Some(match n {
            0 => {
                let name = self.fresh.clone().into();
                (0, MkdirRequest { dir: d[0], name, mode: 0o755, umask: 0 }.into_request())
            }
            1 => (1, LinkRequest { handle: f, dir: d[1], name: "more".into() }.into_request()),
            2 => (2, UnlinkRequest { dir: d[2], name: "far".into() }.into_request()),
            3 => (0, RmdirRequest { dir: d[0], name: "e".into() }.into_request()),
            4 => self.rename((0, "f"), (1, "g"), ""),
            5 => self.rename((2, "far"), (2, "x"), ""),
            6 => self.rename((0, "f"), (1, "g"), "exchange"),
            7 => self.rename((0, "f"), (2, "new"), "noreplace"),
            8 => self.rename((0, "e"), (2, "e2"), ""),
            9 => self.rename((0, "e"), (2, "t"), ""),
            10 => self.rename((0, "e"), (1, "sub"), "exchange"),
            11 => self.rename((0, "f"), (1, "sub"), "exchange"),
            12 => self.rename((0, "e"), (0, "e9"), "noreplace"),
            13 => self.rename((2, "far"), (1, "g"), ""),
            14 => self.rename((1, "g"), (2, "far"), ""),
            15 => self.rename((1, "sub"), (0, "e"), ""),
            16 => {
                let name = self.far.clone().into();
                (2, MkdirRequest { dir: d[2], name, mode: 0o755, umask: 0 }.into_request())
            }
            _ => return None,
        })
    }
}

/// Sends until it is answered: the same request again when no answer came, a new one when it was
/// answered that another server cannot be reached.
async fn insist(u: &Rc<User>, to: u32, op: &OpRequest) -> Result<()> {
    let mut seq = u.next_ticket();
    for _ in 0..100 {
        // A task of its own: a client that gives up does not end what the server has begun.
        let (me, op) = (u.clone(), op.clone());
        let sent =
            tokio::task::spawn_local(async move { me.send(to, Some(seq), op, b"").await.result });
        match tokio::time::timeout(Duration::from_secs(2), sent).await {
            Err(_) => {}
            Ok(Err(e)) => std::panic::resume_unwind(e.into_panic()),
            Ok(Ok(result)) => match result {
                Ok(_) => return Ok(()),
                Err(e) if e.detail == "the test says it is down" && u.cluster.is_down(to) => {}
                Err(e) if matches!(e.code, ErrorCode::Unreachable | ErrorCode::Busy) => {
                    seq = u.next_ticket();
                }
                Err(e) => return Err(e),
            },
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never answered");
}

/// Stats names for ever; a name that is not found is a verdict.
async fn watch(c: Rc<Cluster>, dirs: [u64; 3], names: Vec<(usize, String)>) {
    let u = c.root();
    loop {
        for (dir, name) in &names {
            let look = async {
                let handle = u.lookup(dirs[*dir], name).await?;
                u.getattr(handle).await
            };
            // A reader of a held name waits, of a killed server for ever: it would ask again.
            match tokio::time::timeout(Duration::from_secs(2), look).await {
                Ok(Err(e)) if e.code == ErrorCode::NotFound => {
                    panic!("{name} was not there for a moment")
                }
                // Replaced between the two: the kernel would look up again.
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One operation with one kill (or none); gives the names before and after, and whether it killed.
async fn play(
    c: Rc<Cluster>,
    n: usize,
    kill: Option<Kill>,
    expected: &Option<(Names, Names)>,
) -> Option<(Names, Names, bool)> {
    let t = tree(&c).await;
    let f = t.u.lookup(t.dirs[0], "f").await.unwrap();
    let (to, op) = t.operation(n, f)?;
    long_rest().await;
    let u = Rc::new(c.root());
    let before = t.names(&u).await;
    let watched = expected.iter().flat_map(|(before, after)| {
        let stays = |b: &&(usize, String, u64)| after.iter().any(|a| (a.0, &a.1) == (b.0, &b.1));
        before.iter().filter(stays).map(|b| (b.0, b.1.clone()))
    });
    let mut watcher = tokio::task::spawn_local(watch(c.clone(), t.dirs, watched.collect()));
    c.travel_ms_max.set(2);
    c.kill.set(kill);
    let label = format!("operation {n}, {kill:?}");
    tokio::select! {
        result = insist(&u, to, &op) => result.unwrap_or_else(|e| panic!("{label}: {e}")),
        verdict = &mut watcher => panic!("{label}: {verdict:?}"),
    }
    let killed = kill.is_some() && c.kill.get().is_none();
    c.kill.set(None);
    watcher.abort();
    if let Err(e) = watcher.await
        && e.is_panic()
    {
        panic!("{label}: a name was not there for a moment");
    }
    c.travel_ms_max.set(0);
    long_rest().await;
    assert_eq!(faults_of(&c).await, Vec::<String>::new(), "{label}");
    let after = t.names(&c.root()).await;
    if let Some((_, right)) = expected {
        // A new directory has another handle each time.
        let strip = |names: &Names| -> Names {
            let known = |h: u64| before.iter().any(|b| b.2 == h);
            names.iter().map(|(d, n, h)| (*d, n.clone(), if known(*h) { *h } else { 0 })).collect()
        };
        assert_eq!(strip(&after), strip(right), "{label}");
    }
    Some((before, after, killed))
}

#[test]
fn every_server_dies_at_every_step() {
    let mut kills = 0;
    for n in 0.. {
        let Some((before, after, _)) = with_cluster(3, |c| play(c, n, None, &None)) else { break };
        let expected = Some((before, after));
        for victim in [Victim::Caller, Victim::Callee, Victim::All] {
            let mut points = 0;
            for left in 0..60 {
                let kill = Some(Kill { left, victim });
                let played = with_cluster(3, |c| play(c, n, kill, &expected)).unwrap();
                if !played.2 {
                    break;
                }
                points += 1;
            }
            assert!((2..60).contains(&points), "operation {n}: {points} fault points");
            kills += points;
        }
    }
    assert!(kills > 300, "{kills} kills");
}
