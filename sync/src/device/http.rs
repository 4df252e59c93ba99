//! The server over HTTPS: what [`Remote`] asks, as requests of `/api/v1`. A request whose answer was
//! lost is not sent again here: the pass ends, and the next one asks what became of it.
use super::pace::{Held, Pace};
use super::{Ask, Remote, Told};
use crate::api::{
    BatchOp, Changes, ContentHead, LoggedIn, Login, LoginWithCode, NodeInfo, RangesAsk,
    SignatureAsk, UploadBegin, UploadState, pack, unpack,
};
use crate::delta::{Part, Piece, RANGES_MAX, Range};
use crate::error::{Result, SyncError};
use crate::files::PIECE_BYTES;
use crate::tree::NodeId;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};

const CONNECT: Duration = Duration::from_secs(15);
/// A whole answer to a question about names.
const CALL: Duration = Duration::from_secs(90);
/// Silence on a transfer of bytes.
const TRANSFER: Duration = Duration::from_secs(600);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// So many pieces of a body are read before they are needed.
const PIECES_AHEAD: usize = 4;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    token: String,
    pace: Arc<Pace>,
    /// Questions that threads of their own ask, oldest first.
    asked: VecDeque<JoinHandle<Result<Told>>>,
}

fn net(e: &dyn std::fmt::Display) -> SyncError {
    SyncError::Net(e.to_string())
}

impl Client {
    /// For a server at `https://host:port`. `ca`: PEM of the certificates to trust instead of the
    /// public ones.
    ///
    /// # Errors
    /// [`SyncError::Invalid`] for an address without TLS or what is no certificate.
    pub fn new(server: &str, ca: Option<&str>, token: &str) -> Result<Self> {
        if !server.starts_with("https://") {
            let why = format!("{server}: the address begins with https://, always");
            return Err(SyncError::Invalid(why));
        }
        let roots = match ca {
            None => RootCerts::WebPki,
            Some(pem) => {
                let mut certs: Vec<Certificate<'static>> = Vec::new();
                for item in parse_pem(pem.as_bytes()) {
                    match item {
                        Ok(PemItem::Certificate(c)) => certs.push(c),
                        Ok(_) => {}
                        Err(e) => return Err(SyncError::Invalid(format!("certificate: {e}"))),
                    }
                }
                if certs.is_empty() {
                    return Err(SyncError::Invalid("no certificate in the file".into()));
                }
                RootCerts::Specific(Arc::new(certs))
            }
        };
        let agent = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(CALL))
            .timeout_recv_body(Some(TRANSFER))
            .timeout_send_body(Some(TRANSFER))
            .max_redirects(0)
            .build()
            .new_agent();
        let base = format!("{}/api/v1", server.trim_end_matches('/'));
        Ok(Self {
            agent,
            base,
            token: token.to_owned(),
            pace: Arc::default(),
            asked: VecDeque::new(),
        })
    }

    /// How fast bytes travel.
    #[must_use]
    pub fn pace(&self) -> Arc<Pace> {
        self.pace.clone()
    }

    /// Signs in: a token for this device.
    ///
    /// # Errors
    /// As the server says.
    pub fn login(&self, login: &Login) -> Result<LoggedIn> {
        self.json(Method::POST, "/login", Some(login))
    }

    /// Signs in to an account that has two steps.
    ///
    /// # Errors
    /// As the server says.
    pub fn login_with_code(&self, login: &LoginWithCode) -> Result<LoggedIn> {
        self.json(Method::POST, "/login", Some(login))
    }

    /// Ends this device's session.
    ///
    /// # Errors
    /// As the server says.
    pub fn logout(&self) -> Result<()> {
        self.send(Method::POST, "/logout", &[]).map(drop)
    }

    fn request<B: ureq::AsSendBody>(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: B,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(body).map_err(|e| net(&e))?;
        let mut answer = self.agent.run(request).map_err(|e| net(&e))?;
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let text = answer.body_mut().with_config().limit(4_096).read_to_string();
        Err(SyncError::from_status(status, text.unwrap_or_default()))
    }

    fn send(&self, method: Method, path: &str, body: &[u8]) -> Result<Response<Body>> {
        if body.is_empty() && (method == Method::GET || method == Method::DELETE) {
            return self.request(method, path, None, SendBody::none());
        }
        let bytes = Some("application/octet-stream");
        if !self.pace.up.limited() {
            return self.request(method, path, bytes, body);
        }
        let mut held = Held::new(body, self.pace.clone());
        self.request(method, path, bytes, SendBody::from_reader(&mut held))
    }

    fn json<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Q>,
    ) -> Result<A> {
        let mut answer = match body {
            None => self.send(method, path, &[])?,
            Some(q) => {
                let text = serde_json::to_vec(q).map_err(|e| SyncError::Invalid(e.to_string()))?;
                self.request(method, path, Some("application/json"), text.as_slice())?
            }
        };
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        serde_json::from_slice(&text.map_err(|e| net(&e))?).map_err(|e| net(&e))
    }

    /// Another connection with the same session.
    fn another(&self) -> Self {
        Self {
            agent: self.agent.clone(),
            base: self.base.clone(),
            token: self.token.clone(),
            pace: self.pace.clone(),
            asked: VecDeque::new(),
        }
    }

    /// Asks about much at once and waits.
    fn ask_many(&self, ask: &Ask) -> Result<Told> {
        match ask {
            Ask::Run(ops) => self.json(Method::POST, "/batch", Some(ops)).map(Told::Replies),
            Ask::Put(files) => {
                let mut body = Vec::new();
                for (head, bytes) in files {
                    pack(&mut body, head, bytes)?;
                }
                let mut answer = self.send(Method::POST, "/files", &body)?;
                let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
                let replies = serde_json::from_slice(&text.map_err(|e| net(&e))?);
                replies.map(Told::Replies).map_err(|e| net(&e))
            }
            Ask::Get(wanted) => {
                let text =
                    serde_json::to_vec(wanted).map_err(|e| SyncError::Invalid(e.to_string()))?;
                let json = Some("application/json");
                let mut answer = self.request(Method::POST, "/contents", json, text.as_slice())?;
                let mut body = Vec::new();
                drain(&mut answer, &self.pace, &mut |piece| {
                    body.extend_from_slice(piece);
                    if body.len() as u64 > ANSWER_BYTES_MAX {
                        return Err(SyncError::Net("an answer that is too long".into()));
                    }
                    Ok(())
                })?;
                let mut body = Bytes::from(body);
                let mut files = Vec::with_capacity(wanted.len());
                while let Some((head, bytes)) =
                    unpack(&mut body, |h: &ContentHead| h.size).map_err(|e| net(&e))?
                {
                    files.push(match head.status {
                        200 => Ok(bytes.to_vec()),
                        status => Err(SyncError::from_status(status, head.error)),
                    });
                }
                Ok(Told::Files(files))
            }
        }
    }

    /// Any question of the API.
    ///
    /// # Errors
    /// As the server says.
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        self.json(Method::GET, path, None::<&()>)
    }

    /// Waits at the server until something changes after `since`, at most `wait_s` seconds. True: ask
    /// for the changes.
    ///
    /// # Errors
    /// As the server says.
    pub fn wait(&self, epoch: &str, since: i64, wait_s: u64) -> Result<bool> {
        let uri = format!("{}/changes?epoch={epoch}&since={since}&wait={wait_s}", self.base);
        let request = Request::get(uri)
            .header("authorization", format!("Bearer {}", self.token))
            .body(SendBody::none())
            .map_err(|e| net(&e))?;
        let answered = Some(Duration::from_secs(wait_s) + CONNECT * 2);
        let request = self.agent.configure_request(request).timeout_recv_response(answered).build();
        let mut answer = self.agent.run(request).map_err(|e| net(&e))?;
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let (text, status) = (text.map_err(|e| net(&e))?, answer.status().as_u16());
        let told = match status {
            200 => serde_json::from_str::<Changes>(&text).map_err(|e| net(&e)),
            other => Err(SyncError::from_status(other, text)),
        };
        match told {
            Ok(changes) => Ok(changes.next != since || !changes.nodes.is_empty()),
            Err(SyncError::Epoch) => Ok(true),
            Err(e) => Err(e),
        }
    }
}

impl Remote for Client {
    fn submit(&mut self, ask: Ask) {
        let other = self.another();
        self.asked.push_back(std::thread::spawn(move || other.ask_many(&ask)));
    }

    fn collect(&mut self) -> Option<Result<Told>> {
        let ended = || SyncError::Net("a request ended by a panic".into());
        Some(self.asked.pop_front()?.join().unwrap_or_else(|_| Err(ended())))
    }

    fn changes(&mut self, epoch: &str, since: i64) -> Result<Changes> {
        self.get(&format!("/changes?epoch={epoch}&since={since}"))
    }

    fn run(&mut self, op: &BatchOp) -> Result<NodeInfo> {
        self.json(Method::POST, "/op", Some(op))
    }

    fn outcome(&mut self, key: &str) -> Result<Option<NodeInfo>> {
        self.get(&format!("/outcome/{key}"))
    }

    fn upload_begin(&mut self, req: &UploadBegin) -> Result<UploadState> {
        self.json(Method::POST, "/uploads", Some(req))
    }

    fn upload_append(&mut self, id: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        // Held back, a large piece would take longer than a request may.
        let most = if self.pace.up.limited() { PIECE_BYTES } else { bytes.len().max(1) };
        let mut at = offset;
        for piece in bytes.chunks(most) {
            self.send(Method::PUT, &format!("/uploads/{id}?offset={at}"), piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn upload_parts(&mut self, id: &str, offset: u64, parts: &[(Part, Vec<u8>)]) -> Result<()> {
        let mut body = Vec::new();
        for (head, bytes) in parts {
            pack(&mut body, head, bytes)?;
        }
        self.send(Method::POST, &format!("/uploads/{id}/parts?offset={offset}"), &body).map(drop)
    }

    fn signature(
        &mut self,
        node: NodeId,
        rev: i64,
        average: u32,
        ranges: &[Range],
    ) -> Result<Vec<Vec<Piece>>> {
        let ask = SignatureAsk { rev, average, ranges: ranges.to_vec() };
        self.json(Method::POST, &format!("/nodes/{node}/signature"), Some(&ask))
    }

    fn ranges(
        &mut self,
        node: NodeId,
        rev: i64,
        ranges: &[Range],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        for some in ranges.chunks(RANGES_MAX) {
            let ask = RangesAsk { rev, ranges: some.to_vec() };
            let text = serde_json::to_vec(&ask).map_err(|e| SyncError::Invalid(e.to_string()))?;
            let path = format!("/nodes/{node}/ranges");
            let json = Some("application/json");
            let mut answer = self.request(Method::POST, &path, json, text.as_slice())?;
            drain(&mut answer, &self.pace, sink)?;
        }
        Ok(())
    }

    fn upload_commit(&mut self, id: &str) -> Result<NodeInfo> {
        self.json(Method::POST, &format!("/uploads/{id}/commit"), Some(&()))
    }

    fn upload_drop(&mut self, id: &str) -> Result<()> {
        self.send(Method::DELETE, &format!("/uploads/{id}"), &[]).map(drop)
    }

    fn content(
        &mut self,
        node: NodeId,
        rev: i64,
        from: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut request = Request::builder()
            .uri(format!("{}/nodes/{node}/content?rev={rev}", self.base))
            .header("authorization", format!("Bearer {}", self.token));
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request.body(SendBody::none()).map_err(|e| net(&e))?;
        let mut answer = self.agent.run(request).map_err(|e| net(&e))?;
        let status = answer.status().as_u16();
        match (status, from) {
            (200, 0) | (206, _) => {}
            (200, _) => return Err(SyncError::Net("the server knows no ranges".into())),
            _ => {
                let text = answer.body_mut().with_config().limit(4_096).read_to_string();
                return Err(SyncError::from_status(status, text.unwrap_or_default()));
            }
        }
        drain(&mut answer, &self.pace, sink)
    }
}

/// Fills `piece` from a body; less only at its end.
fn fill(body: &mut impl Read, pace: &Pace, piece: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while let Some(room) = piece.get_mut(have..).filter(|room| !room.is_empty()) {
        let n = body.read(room).map_err(|e| net(&e))?;
        if n == 0 {
            break;
        }
        pace.down.pass(n);
        have += n;
    }
    Ok(have)
}

/// Hands a body on as it comes. Of a long one the next pieces are read and decrypted meanwhile, by a thread.
fn drain(
    answer: &mut Response<Body>,
    pace: &Pace,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
    let mut piece = vec![0; PIECE_BYTES];
    let have = fill(&mut body, pace, &mut piece)?;
    if have < PIECE_BYTES {
        return if have > 0 { sink(piece.get(..have).unwrap_or_default()) } else { Ok(()) };
    }
    let (give, taken) = mpsc::sync_channel::<(Vec<u8>, usize)>(PIECES_AHEAD);
    let (give_back, used) = mpsc::channel::<Vec<u8>>();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            loop {
                let mut piece = used.try_recv().unwrap_or_else(|_| vec![0; PIECE_BYTES]);
                let have = fill(&mut body, pace, &mut piece)?;
                // Whoever does not want it has said why.
                if have == 0 || give.send((piece, have)).is_err() || have < PIECE_BYTES {
                    return Ok(());
                }
            }
        });
        sink(&piece)?;
        for (piece, have) in taken {
            sink(piece.get(..have).unwrap_or_default())?;
            let _ = give_back.send(piece);
        }
        reading.join().unwrap_or_else(|_| Err(SyncError::Net("a thread ended".into())))
    })
}
