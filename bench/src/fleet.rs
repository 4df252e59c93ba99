//! The coordinator's workers: started here or through agents, led from barrier to barrier.
//!
//! Each worker has a thread that reads its messages, so that one that is slow to speak delays nobody.
//! Ranks go to hosts in blocks, as an MPI launcher places them.
use crate::job::{FromWorker, Outcome, Phase, Setup, ToWorker, read_line, to_line};
use crate::link;
use crate::progress::Progress;
use anyhow::{Context, Result, anyhow, bail};
use pvfs2_bmi::auth::ClusterKey;
use std::io::{BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long workers may take to end by themselves.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// Agents and the key to prove to them.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// Their addresses; none: all workers run here.
    pub agents: Vec<String>,
    /// The key.
    pub key: Option<ClusterKey>,
}

impl Hosts {
    /// How many ranks each host has, at most.
    pub fn clients_per_host(&self, clients: u32) -> u32 {
        clients.div_ceil(self.agents.len().max(1) as u32)
    }
}

/// The program that is running, as a worker.
///
/// # Errors
/// When it cannot be found.
pub fn worker_command() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
    command.args(["bench", "worker"]);
    Ok(command)
}

enum Way {
    Here { child: Child, input: Option<ChildStdin> },
    Agent(link::Sender),
}

struct Member {
    way: Way,
    host: usize,
    ended: bool,
}

type Heard = (usize, Result<FromWorker>);

/// Workers that are ready for phases. Dropping it ends them.
pub struct Fleet {
    members: Vec<Member>,
    heard: mpsc::Receiver<Heard>,
}

/// What a phase did, over all workers.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// From the first beginning to the last end.
    pub total_s: f64,
    /// All workers'.
    pub whole: Outcome,
    /// Operations of each worker.
    pub ops: Vec<u64>,
}

impl Fleet {
    /// Starts a worker for each setup and waits until all are ready.
    ///
    /// # Errors
    /// A worker that cannot start, with what it said.
    pub fn start(setups: Vec<Setup>, hosts: &Hosts) -> Result<Fleet> {
        let (tell, heard) = mpsc::channel();
        let per_host = hosts.clients_per_host(setups.len() as u32) as usize;
        let mut fleet = Fleet { members: Vec::new(), heard };
        for (rank, setup) in setups.into_iter().enumerate() {
            let host = rank / per_host.max(1);
            let way = match hosts.agents.get(host) {
                Some(agent) => at_agent(agent, hosts, rank, tell.clone())?,
                None => here(rank, tell.clone())?,
            };
            fleet.members.push(Member { way, host, ended: false });
            fleet.send(rank, &ToWorker::Setup(Box::new(setup)))?;
        }
        let mut ready = 0;
        while ready < fleet.members.len() {
            match fleet.hear()? {
                (_, FromWorker::Ready) => ready += 1,
                (rank, other) => bail!("client {rank} said {other:?} before it was ready"),
            }
        }
        Ok(fleet)
    }

    /// Workers.
    pub fn len(&self) -> usize {
        self.members.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn send(&mut self, rank: usize, message: &ToWorker) -> Result<()> {
        let line = to_line(message)?;
        let sent = match &mut self.members[rank].way {
            Way::Here { input: Some(input), .. } => {
                input.write_all(&line).and_then(|()| input.flush()).map_err(Into::into)
            }
            Way::Here { input: None, .. } => Err(anyhow!("it was ended")),
            Way::Agent(sender) => sender.send(&line),
        };
        // One that is gone has said why, perhaps.
        sent.or_else(|e| match self.heard.try_iter().find(|(r, _)| *r == rank) {
            Some((_, Ok(FromWorker::Failed(why)))) => bail!("client {rank}: {why}"),
            _ => Err(e).with_context(|| format!("client {rank} does not take orders")),
        })
    }

    fn hear(&mut self) -> Result<(usize, FromWorker)> {
        let Ok((rank, message)) = self.heard.recv() else { bail!("all clients are gone") };
        match message {
            Ok(FromWorker::Failed(why)) => bail!("client {rank}: {why}"),
            Ok(message) => Ok((rank, message)),
            Err(e) => Err(e.context(format!("client {rank}"))),
        }
    }

    /// One phase on all workers at once. `total`: what it amounts to, for the progress line.
    ///
    /// # Errors
    /// The first worker's that fails.
    pub fn phase(
        &mut self,
        phase: &Phase,
        label: &str,
        total: u64,
        progress: &mut Progress,
    ) -> Result<Sum> {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.phase_on(&all, phase, label, total, progress)
    }

    /// As [`Fleet::phase`] on the first worker alone.
    ///
    /// # Errors
    /// As [`Fleet::phase`].
    pub fn phase_on_first(&mut self, phase: &Phase) -> Result<Sum> {
        self.phase_on(&[0], phase, "", 0, &mut Progress::new(true))
    }

    /// As [`Fleet::phase`] on the first worker of every host.
    ///
    /// # Errors
    /// As [`Fleet::phase`].
    pub fn phase_on_hosts(&mut self, phase: &Phase) -> Result<Sum> {
        let mut firsts: Vec<usize> = Vec::new();
        for (rank, member) in self.members.iter().enumerate() {
            if !firsts.iter().any(|&r| self.members[r].host == member.host) {
                firsts.push(rank);
            }
        }
        self.phase_on(&firsts, phase, "", 0, &mut Progress::new(true))
    }

    fn phase_on(
        &mut self,
        ranks: &[usize],
        phase: &Phase,
        label: &str,
        total: u64,
        progress: &mut Progress,
    ) -> Result<Sum> {
        let began = Instant::now();
        let message = ToWorker::Phase(phase.clone());
        for &rank in ranks {
            self.send(rank, &message)?;
        }
        let mut so_far = vec![(0, 0); self.members.len()];
        let mut outcomes: Vec<(usize, Outcome)> = Vec::new();
        while outcomes.len() < ranks.len() {
            let heard = self.hear().inspect_err(|_| progress.clear())?;
            match heard {
                (rank, FromWorker::Progress { ops, bytes }) => so_far[rank] = (ops, bytes),
                (rank, FromWorker::Done(outcome)) => {
                    so_far[rank] = (outcome.ops, outcome.bytes);
                    outcomes.push((rank, *outcome));
                }
                (rank, other) => bail!("client {rank} said {other:?} during a phase"),
            }
            let sum = so_far.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            progress.show(label, began, sum.0, sum.1, total);
        }
        progress.clear();
        outcomes.sort_by_key(|(rank, _)| *rank);
        Ok(self.sum(&outcomes))
    }

    fn sum(&self, outcomes: &[(usize, Outcome)]) -> Sum {
        let mut sum = Sum { ops: vec![0; self.members.len()], ..Sum::default() };
        let whole = &mut sum.whole;
        for (rank, one) in outcomes {
            sum.ops[*rank] = one.ops;
            whole.open_s = whole.open_s.max(one.open_s);
            whole.access_s = whole.access_s.max(one.access_s);
            whole.close_s = whole.close_s.max(one.close_s);
            whole.ops += one.ops;
            whole.bytes += one.bytes;
            whole.hist.merge(&one.hist);
            whole.damaged += one.damaged;
            whole.damage = whole.damage.take().or_else(|| one.damage.clone());
        }
        // Hosts have clocks of their own: the span of each, and the longest of them.
        let hosts = self.members.iter().map(|m| m.host).max().unwrap_or(0);
        for host in 0..=hosts {
            let those = || outcomes.iter().filter(|(r, _)| self.members[*r].host == host);
            let begin = those().map(|(_, o)| o.begin_ns).min().unwrap_or(0);
            let end = those().map(|(_, o)| o.end_ns).max().unwrap_or(0);
            sum.total_s = sum.total_s.max(end.saturating_sub(begin) as f64 / 1e9);
        }
        sum
    }

    /// Ends the workers and waits for them.
    pub fn end(&mut self) {
        for rank in 0..self.members.len() {
            if !std::mem::replace(&mut self.members[rank].ended, true) {
                // One that is gone has ended.
                let _ = self.send(rank, &ToWorker::End);
                if let Way::Here { input, .. } = &mut self.members[rank].way {
                    *input = None;
                }
            }
        }
        // Readers end with their workers: then nobody can be heard any more.
        let until = Instant::now() + END_PATIENCE;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if let Err(mpsc::RecvTimeoutError::Disconnected) = self.heard.recv_timeout(left) {
                break;
            }
        }
        for member in &mut self.members {
            match &mut member.way {
                Way::Here { child, .. } => {
                    if !matches!(child.try_wait(), Ok(Some(_))) && Instant::now() >= until {
                        let _ = child.kill();
                    }
                    let _ = child.wait();
                }
                Way::Agent(sender) => sender.close(),
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.members.iter().any(|m| !m.ended) {
            // Not at its natural end: what a worker is doing is of no use any more.
            for member in &mut self.members {
                match &mut member.way {
                    Way::Here { child, .. } => {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                    Way::Agent(sender) => sender.close(),
                }
            }
        }
    }
}

fn here(rank: usize, tell: mpsc::Sender<Heard>) -> Result<Way> {
    let mut child = worker_command()?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a client process")?;
    let input = child.stdin.take();
    let Some(output) = child.stdout.take() else { bail!("a client process without output") };
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        loop {
            let message = match read_line(&mut output) {
                Ok(Some(message)) => Ok(message),
                Ok(None) => Err(anyhow!("it ended before it was told to")),
                Err(e) => Err(e),
            };
            let at_end = message.is_err();
            if tell.send((rank, message)).is_err() || at_end {
                return;
            }
        }
    });
    Ok(Way::Here { child, input })
}

fn at_agent(agent: &str, hosts: &Hosts, rank: usize, tell: mpsc::Sender<Heard>) -> Result<Way> {
    let Some(key) = &hosts.key else {
        bail!("clients on other hosts need the agents' key; name its file with --key-file");
    };
    let (sender, mut receiver) = link::connect(agent, key)?;
    let agent = agent.to_owned();
    std::thread::spawn(move || {
        loop {
            let message = match receiver.receive() {
                Ok(Some(line)) => serde_json::from_slice(&line).map_err(Into::into),
                Ok(None) => Err(anyhow!("the agent {agent} has closed its connection")),
                Err(e) => Err(e),
            };
            let at_end = message.is_err();
            if tell.send((rank, message)).is_err() || at_end {
                return;
            }
        }
    });
    Ok(Way::Agent(sender))
}
