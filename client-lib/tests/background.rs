//! The background thread itself, with servers that are out of reach: nothing waits for ever, and
//! every caller is answered.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers are not #[test] functions"
)]
use pvfs2_bmi::client::BlockingNet;
use pvfs2_client::sys::Getattr;
use pvfs2_client::{Background, Client, ClientConfig, OpState};
use pvfs2_proto::env::Env;
use pvfs2_proto::{ClusterMap, ErrorCode, Handle, HandleRange, ServerEntry};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

fn client(dir: &std::path::Path) -> Arc<Client> {
    let server = ServerEntry {
        alias: "gone".into(),
        addresses: vec![format!("unix://{}", dir.join("nobody").display())],
        meta_range: Some(HandleRange { first: 1, last: 1 << 40 }),
        ..Default::default()
    };
    let map = Arc::new(ClusterMap { servers: vec![server], ..Default::default() });
    let mut config = ClientConfig::new(map, Env::real());
    (config.retry_limit, config.retry_delay_ms) = (Some(2), Some(5));
    Client::new(config)
}

#[test]
fn a_stalled_operation_moves_over_and_is_answered() {
    let dir = std::env::temp_dir();
    let client = client(&dir);
    let background = Background::start(client.clone()).unwrap();
    let net = BlockingNet::new(client.shared().clone());
    let (tx, rx) = mpsc::channel();
    let answer = tx.clone();
    background.run_or_move(&net, Getattr::new(Handle::ROOT), OpState::own(&client), move |r| {
        answer.send((std::thread::current().name().map(str::to_owned), r)).unwrap();
    });
    let (thread, result) = rx.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(result.unwrap_err().code, ErrorCode::Unreachable);
    assert_eq!(thread.as_deref(), Some("pvfs2-bg"));
    let all = client.metrics().snapshot();
    assert_eq!((all[0].name, all[0].count, all[0].errors), ("getattr", 1, 1));

    let sum = background.wait(|worker| async move { Ok(worker.client().map().servers.len()) });
    assert_eq!(sum, Ok(1));
    let since = Instant::now();
    background.shutdown();
    background.shutdown();
    assert!(since.elapsed() < Duration::from_secs(8));
    background.spawn_op(Getattr::new(Handle::ROOT), OpState::own(&client), move |r| {
        tx.send((None, r)).unwrap();
    });
    let (_, late) = rx.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(late.unwrap_err().code, ErrorCode::Interrupted);
    assert!(background.run_op(Getattr::new(Handle::ROOT), OpState::own(&client)).is_err());
}
