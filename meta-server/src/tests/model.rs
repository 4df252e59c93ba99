//! Random operations of one client against a simple model, over one metadata server and over three,
//! with repeats and kills in between.
use super::fsck::faults_of;
use super::harness::*;
use pvfs2_proto::ErrorCode::{self, *};
use pvfs2_proto::op::*;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, Debug)]
enum Node {
    Dir { parent: usize, names: BTreeMap<String, usize> },
    File { bytes: Vec<u8>, nlink: u32 },
}

/// The tree as it should be; nodes by their number, root 0.
struct Model {
    nodes: Vec<Node>,
    handles: Vec<u64>,
}

impl Model {
    fn names(&self, dir: usize) -> &BTreeMap<String, usize> {
        match &self.nodes[dir] {
            Node::Dir { names, .. } => names,
            Node::File { .. } => panic!("no directory"),
        }
    }
    fn names_mut(&mut self, dir: usize) -> &mut BTreeMap<String, usize> {
        match &mut self.nodes[dir] {
            Node::Dir { names, .. } => names,
            Node::File { .. } => panic!("no directory"),
        }
    }
    fn is_dir(&self, n: usize) -> bool {
        matches!(self.nodes[n], Node::Dir { .. })
    }
    fn is_below(&self, mut at: usize, top: usize) -> bool {
        loop {
            if at == top {
                return true;
            }
            match self.nodes[at] {
                Node::Dir { parent, .. } if at != 0 => at = parent,
                _ => return false,
            }
        }
    }
    fn set_parent(&mut self, n: usize, to: usize) {
        if let Node::Dir { parent, .. } = &mut self.nodes[n] {
            *parent = to;
        }
    }
    fn drop_name(&mut self, n: usize) {
        if let Node::File { nlink, .. } = &mut self.nodes[n] {
            *nlink -= 1;
        }
    }
    /// What rename should say; on success it is done.
    fn rename(
        &mut self,
        d: usize,
        a: &str,
        e: usize,
        b: &str,
        no_replace: bool,
        exchange: bool,
    ) -> Result<(), ErrorCode> {
        let moved = *self.names(d).get(a).ok_or(NotFound)?;
        let other = self.names(e).get(b).copied();
        if no_replace && other.is_some() {
            return Err(Exists);
        }
        if exchange && other.is_none() {
            return Err(NotFound);
        }
        if d != e && self.is_dir(moved) && self.is_below(e, moved) {
            return Err(Invalid);
        }
        if let Some(other) = other {
            if exchange && d != e && self.is_dir(other) && self.is_below(d, other) {
                return Err(Invalid);
            }
            if other == moved {
                return Ok(());
            }
            if !exchange {
                match (self.is_dir(moved), self.is_dir(other)) {
                    (true, false) => return Err(NotDirectory),
                    (false, true) => return Err(IsDirectory),
                    (true, true) if !self.names(other).is_empty() => return Err(NotEmpty),
                    _ => self.drop_name(other),
                }
            }
        }
        self.names_mut(d).remove(a);
        self.names_mut(e).insert(b.to_owned(), moved);
        self.set_parent(moved, e);
        if let (true, Some(other)) = (exchange, other) {
            self.names_mut(d).insert(a.to_owned(), other);
            self.set_parent(other, d);
        }
        Ok(())
    }
}

struct Run {
    c: Rc<Cluster>,
    u: User,
    m: Model,
    seed: u64,
}

impl Run {
    fn rand(&mut self, n: usize) -> usize {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) % n as u64) as usize
    }
    fn a_dir(&mut self) -> usize {
        let dirs: Vec<usize> = self.reachable().into_iter().filter(|n| self.m.is_dir(*n)).collect();
        dirs[self.rand(dirs.len())]
    }
    fn reachable(&self) -> Vec<usize> {
        let (mut all, mut at) = (vec![0], 0);
        while at < all.len() {
            if self.m.is_dir(all[at]) {
                for n in self.m.names(all[at]).values() {
                    if !all.contains(n) {
                        all.push(*n);
                    }
                }
            }
            at += 1;
        }
        all
    }
    fn a_name(&mut self) -> String {
        format!("n{}", self.rand(5))
    }

    /// Sends it, sometimes with a lost reply or a kill and a repeat.
    async fn send(
        &mut self,
        server: u32,
        op: OpRequest,
        body: &[u8],
    ) -> Result<OpResponse, ErrorCode> {
        let seq = self.u.next_ticket();
        let sent = self.u.send(server, Some(seq), op.clone(), body);
        let sent = tokio::time::timeout(std::time::Duration::from_secs(500), sent).await;
        let mut result = sent.unwrap_or_else(|_| panic!("no answer to {op:?}")).result;
        let chance = self.rand(12);
        if chance == 0 {
            self.c.restart(server);
        }
        // The reply to an error is kept in memory only: done again after a kill, it is an error again.
        if chance < 3 {
            let again = self.u.send(server, Some(seq), op.clone(), body).await.result;
            assert_eq!(again, result, "{op:?}");
            result = again;
        }
        result.map_err(|e| e.code)
    }

    async fn step(&mut self) {
        let (d, name) = (self.a_dir(), self.a_name());
        let dir = self.m.handles[d];
        let server = self.c.owner(dir);
        let there = self.m.names(d).get(&name).copied();
        let bytes = bytes::Bytes::copy_from_slice(name.as_bytes());
        match self.rand(9) {
            0 | 1 => {
                let op =
                    CreateRequest { exclusive: true, no_open: true, ..self.u.creating(dir, &name) };
                let result = self.send(server, op.into_request(), b"").await;
                let made = result.map(|r| match r {
                    OpResponse::Create(r) => r.attr.unwrap().handle,
                    _ => panic!(),
                });
                let node = Node::File { bytes: Vec::new(), nlink: 1 };
                self.made(d, name, made, there, node);
            }
            2 => {
                let op = MkdirRequest { dir, name: bytes, mode: 0o755, umask: 0 };
                let result = self.send(server, op.into_request(), b"").await;
                let made = result.map(|r| match r {
                    OpResponse::Mkdir(r) => r.attr.unwrap().handle,
                    _ => panic!(),
                });
                self.made(d, name, made, there, Node::Dir { parent: d, names: BTreeMap::new() });
            }
            3 => {
                let op = UnlinkRequest { dir, name: bytes };
                let result = self.send(server, op.into_request(), b"").await.map(|_| ());
                let want = match there {
                    None => Err(NotFound),
                    Some(n) if self.m.is_dir(n) => Err(IsDirectory),
                    Some(n) => {
                        self.m.names_mut(d).remove(&name);
                        self.m.drop_name(n);
                        Ok(())
                    }
                };
                assert_eq!(result, want);
            }
            4 => {
                let op = RmdirRequest { dir, name: bytes };
                let result = self.send(server, op.into_request(), b"").await.map(|_| ());
                let want = match there {
                    None => Err(NotFound),
                    Some(n) if !self.m.is_dir(n) => Err(NotDirectory),
                    Some(n) if !self.m.names(n).is_empty() => Err(NotEmpty),
                    Some(_) => self.m.names_mut(d).remove(&name).map(|_| ()).ok_or(NotFound),
                };
                assert_eq!(result, want);
            }
            5 => {
                let all = self.reachable();
                let target = all[self.rand(all.len())];
                let op = LinkRequest { handle: self.m.handles[target], dir, name: bytes };
                let result = self.send(server, op.into_request(), b"").await.map(|_| ());
                let want = match there {
                    Some(_) => Err(Exists),
                    None if self.m.is_dir(target) => Err(NotPermitted),
                    None => {
                        self.m.names_mut(d).insert(name, target);
                        if let Node::File { nlink, .. } = &mut self.m.nodes[target] {
                            *nlink += 1;
                        }
                        Ok(())
                    }
                };
                assert_eq!(result, want);
            }
            6 | 7 => self.rename(d, name).await,
            _ => self.append(there).await,
        }
    }

    fn made(
        &mut self,
        d: usize,
        name: String,
        result: Result<u64, ErrorCode>,
        there: Option<usize>,
        node: Node,
    ) {
        match (result, there) {
            (Ok(handle), None) => {
                self.m.nodes.push(node);
                self.m.handles.push(handle);
                let n = self.m.nodes.len() - 1;
                self.m.names_mut(d).insert(name, n);
            }
            (Err(Exists), Some(_)) => {}
            (result, there) => panic!("{result:?}, but {there:?}"),
        }
    }

    async fn rename(&mut self, d: usize, a: String) {
        let (e, b) = (self.a_dir(), self.a_name());
        let (no_replace, exchange) =
            [(false, false), (false, false), (true, false), (false, true)][self.rand(4)];
        let op = RenameRequest {
            dir: self.m.handles[d],
            name: a.clone().into(),
            new_dir: self.m.handles[e],
            new_name: b.clone().into(),
            no_replace,
            exchange,
        };
        let server = self.c.owner(op.new_dir);
        let result = self.send(server, op.into_request(), b"").await.map(|_| ());
        assert_eq!(result, self.m.rename(d, &a, e, &b, no_replace, exchange), "{a} -> {b}");
    }

    async fn append(&mut self, there: Option<usize>) {
        let Some(n) = there.filter(|n| !self.m.is_dir(*n)) else { return };
        let handle = self.m.handles[n];
        let more = vec![self.rand(256) as u8; self.rand(60)];
        let op = AppendRequest { handle, known_end: 0, kill_suidgid: false };
        self.send(self.c.owner(handle), op.into_request(), &more).await.unwrap();
        if let Node::File { bytes, .. } = &mut self.m.nodes[n] {
            bytes.extend_from_slice(&more);
        }
    }

    async fn compare(&mut self) {
        for n in self.reachable() {
            let attr = self.u.getattr(self.m.handles[n]).await.unwrap();
            match self.m.nodes[n].clone() {
                Node::Dir { parent, names } => {
                    let want: Vec<&String> = names.keys().collect();
                    assert_eq!(
                        self.u.names(attr.handle).await,
                        want.into_iter().cloned().collect::<Vec<_>>()
                    );
                    for (name, child) in names {
                        let found = self.u.lookup(attr.handle, &name).await.unwrap();
                        assert_eq!(found, self.m.handles[child]);
                    }
                    let r = ReaddirRequest { dir: attr.handle, max: 1, ..Default::default() };
                    let r = self.u.ask(self.c.owner(attr.handle), r).await.unwrap();
                    assert_eq!(r.parent, self.m.handles[parent]);
                }
                Node::File { bytes, nlink } => {
                    assert_eq!((attr.nlink, attr.size), (nlink, bytes.len() as u64));
                    let got = match &attr.layout {
                        None => self.u.read_small(attr.handle).await.body.to_vec(),
                        Some(_) => self.c.io.borrow().contents(&attr, attr.size),
                    };
                    assert_eq!(got, bytes);
                }
            }
        }
    }
}

fn run(metas: u32, seed: u64, steps: usize) {
    with_cluster(metas, |c| async move {
        let m = Model {
            nodes: vec![Node::Dir { parent: 0, names: BTreeMap::new() }],
            handles: vec![1],
        };
        let mut run = Run { u: c.root(), c: c.clone(), m, seed };
        for step in 0..steps {
            run.step().await;
            if step % 50 == 49 {
                run.compare().await;
            }
        }
        run.compare().await;
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new(), "seed {seed}");
        let striped = run.reachable().iter().any(
            |n| matches!(&run.m.nodes[*n], Node::File { bytes, .. } if bytes.len() as u64 > SMALL),
        );
        assert!(striped || steps < 1_000, "the run reached striped files");
    });
}

#[test]
fn one_server_behaves_like_the_model() {
    for seed in 1..=6 {
        println!("seed {seed}");
        run(1, seed, 600);
    }
}

#[test]
fn three_servers_behave_like_the_model() {
    for seed in 101..=106 {
        println!("seed {seed}");
        run(3, seed, 600);
    }
}
