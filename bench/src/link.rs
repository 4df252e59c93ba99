//! A connection between coordinator and agent, over which only holders of the key are heard.
//!
//! Both sides prove the key first, as servers and clients of a cluster do ([`ClusterKey`]), under a
//! domain of their own, so that no proof of one protocol serves in the other. Every frame then
//! carries a code over both sides' random numbers, its direction, its place in the sequence and its
//! bytes. Nothing is hidden: results and paths travel in the clear.
//!
//! | bytes | frame |
//! |---|---|
//! | 4 | length of the payload, little endian |
//! | 32 | code |
//! | n | payload: one line of [`crate::job`] |
use crate::job::LINE_BYTES_MAX;
use anyhow::{Context, Result, bail};
use pvfs2_bmi::auth::ClusterKey;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The domain of these proofs, where a cluster's own have its file system's id.
const DOMAIN: u64 = u64::from_le_bytes(*b"p2 bench");
const MAGIC: &[u8; 8] = b"p2bench1";
const NONCE_LEN: usize = 64;
const CODE_LEN: usize = 32;
/// How long the other side may take for its proof.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Coordinator,
    Agent,
}

/// What both directions share.
#[derive(Clone)]
struct Codes {
    key: ClusterKey,
    session: Vec<u8>,
}

impl Codes {
    fn of(&self, from: Side, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let bytes = [&sequence.to_le_bytes()[..], payload].concat();
        match from {
            Side::Coordinator => self.key.client_proof(DOMAIN, &self.session, &bytes),
            Side::Agent => self.key.server_proof(DOMAIN, &self.session, &bytes),
        }
    }

    fn holds(&self, from: Side, sequence: u64, payload: &[u8], code: &[u8]) -> bool {
        let bytes = [&sequence.to_le_bytes()[..], payload].concat();
        match from {
            Side::Coordinator => self.key.is_client_proof(DOMAIN, &self.session, &bytes, code),
            Side::Agent => self.key.is_server_proof(DOMAIN, &self.session, &bytes, code),
        }
    }
}

/// The sending half.
pub struct Sender {
    stream: TcpStream,
    codes: Codes,
    side: Side,
    sequence: u64,
}

/// The receiving half.
pub struct Receiver {
    stream: TcpStream,
    codes: Codes,
    from: Side,
    sequence: u64,
}

/// Proves the key to an agent and has it prove its own.
///
/// # Errors
/// No connection; an agent that has another key.
pub fn connect(address: &str, key: &ClusterKey) -> Result<(Sender, Receiver)> {
    let mut stream = TcpStream::connect(address).with_context(|| {
        format!("no agent at {address}; start one: pvfs2 bench agent --listen ...")
    })?;
    let nonce = random();
    prepare(&stream)?;
    stream.write_all(MAGIC)?;
    stream.write_all(&nonce)?;
    let (challenge, proof): (Vec<u8>, Vec<u8>) =
        (take(&mut stream, NONCE_LEN)?, take(&mut stream, CODE_LEN)?);
    if !key.is_server_proof(DOMAIN, &challenge, &nonce, &proof) {
        bail!("the agent at {address} has another key; give both sides the same --key-file");
    }
    stream.write_all(&key.client_proof(DOMAIN, &nonce, &challenge))?;
    halves(stream, key, [nonce, challenge].concat(), Side::Coordinator)
}

/// An agent's side of [`connect`].
///
/// # Errors
/// A peer that is silent, speaks something else or has another key.
pub fn accept(mut stream: TcpStream, key: &ClusterKey) -> Result<(Sender, Receiver)> {
    prepare(&stream)?;
    if take(&mut stream, MAGIC.len())? != MAGIC {
        bail!("it does not speak the harness's protocol");
    }
    let (nonce, challenge) = (take(&mut stream, NONCE_LEN)?, random());
    stream.write_all(&challenge)?;
    stream.write_all(&key.server_proof(DOMAIN, &challenge, &nonce))?;
    let proof = take(&mut stream, CODE_LEN)?;
    if !key.is_client_proof(DOMAIN, &nonce, &challenge, &proof) {
        bail!("it does not have the key");
    }
    halves(stream, key, [nonce, challenge].concat(), Side::Agent)
}

fn random() -> Vec<u8> {
    ClusterKey::generate().to_hex().into_bytes()
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(())
}

fn take(stream: &mut TcpStream, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).context("no proof of the key came")?;
    Ok(bytes)
}

fn halves(
    stream: TcpStream,
    key: &ClusterKey,
    session: Vec<u8>,
    side: Side,
) -> Result<(Sender, Receiver)> {
    stream.set_read_timeout(None)?;
    let codes = Codes { key: key.clone(), session };
    let from = if side == Side::Agent { Side::Coordinator } else { Side::Agent };
    let receiver =
        Receiver { stream: stream.try_clone()?, codes: codes.clone(), from, sequence: 0 };
    Ok((Sender { stream, codes, side, sequence: 0 }, receiver))
}

impl Sender {
    /// Sends one line.
    ///
    /// # Errors
    /// A connection that breaks.
    pub fn send(&mut self, line: &[u8]) -> Result<()> {
        let code = self.codes.of(self.side, self.sequence, line);
        self.sequence += 1;
        let frame = [&(line.len() as u32).to_le_bytes()[..], &code, line].concat();
        self.stream.write_all(&frame).context("the connection to the other host broke")
    }

    /// Ends the connection, both ways.
    pub fn close(&self) {
        // A connection that is gone already needs no end.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Receiver {
    /// The next line; none at the end.
    ///
    /// # Errors
    /// A connection that breaks inside a frame, a frame that is too long or not from the other side.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let mut len = [0; 4];
        match self.stream.read_exact(&mut len) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.context("the connection to the other host broke")?,
        }
        let len = u64::from(u32::from_le_bytes(len));
        if len > LINE_BYTES_MAX {
            bail!("a frame of {len} bytes; the most is {LINE_BYTES_MAX}");
        }
        let mut bytes = vec![0; CODE_LEN + len as usize];
        self.stream.read_exact(&mut bytes).context("a frame was cut short")?;
        let (code, line) = bytes.split_at(CODE_LEN);
        if !self.codes.holds(self.from, self.sequence, line, code) {
            bail!("a frame that the other side did not send");
        }
        self.sequence += 1;
        Ok(Some(line.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    type Ends = Result<(Sender, Receiver)>;

    fn pair(ours: &ClusterKey, theirs: &ClusterKey) -> (Ends, Ends) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let theirs = theirs.clone();
        let agent = std::thread::spawn(move || accept(listener.accept().unwrap().0, &theirs));
        let here = connect(&address, ours);
        (here, agent.join().unwrap())
    }

    #[test]
    fn holders_of_the_key_talk() {
        let key = ClusterKey::generate();
        let (here, there) = pair(&key, &key);
        let ((mut to, mut from), (mut back, mut inbox)) = (here.unwrap(), there.unwrap());
        to.send(b"one").unwrap();
        to.send(b"").unwrap();
        back.send(b"answer").unwrap();
        assert_eq!(inbox.receive().unwrap().unwrap(), b"one");
        assert_eq!(inbox.receive().unwrap().unwrap(), b"");
        assert_eq!(from.receive().unwrap().unwrap(), b"answer");
        to.close();
        assert!(inbox.receive().unwrap().is_none());
    }

    #[test]
    fn others_are_refused() {
        let (here, there) = pair(&ClusterKey::generate(), &ClusterKey::generate());
        assert!(here.err().unwrap().to_string().contains("another key"));
        assert!(there.is_err());
        // Somebody who does not even try.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.write_all(&[b'G'; 200]).unwrap();
        let e = accept(listener.accept().unwrap().0, &ClusterKey::generate()).err().unwrap();
        assert!(e.to_string().contains("protocol"), "{e}");
    }

    #[test]
    fn frames_that_were_changed_or_repeated_are_refused() {
        let key = ClusterKey::generate();
        let (here, there) = pair(&key, &key);
        let ((mut to, _from), (_back, mut inbox)) = (here.unwrap(), there.unwrap());
        to.send(b"one").unwrap();
        to.sequence = 0;
        to.send(b"one").unwrap();
        assert_eq!(inbox.receive().unwrap().unwrap(), b"one");
        assert!(inbox.receive().unwrap_err().to_string().contains("did not send"));
        let (here, there) = pair(&key, &key);
        let ((mut to, _from), (_back, mut inbox)) = (here.unwrap(), there.unwrap());
        to.stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(inbox.receive().unwrap_err().to_string().contains("the most is"));
        let _ = to.send(b"x");
    }
}
