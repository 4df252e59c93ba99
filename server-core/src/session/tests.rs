//! The session table, driven without clock or socket.
use super::*;
use pvfs2_proto::env::Env;

const KEYS: SessionKeys = SessionKeys { session: b's', reply: b'r' };

fn hello(client_id: u64, session: u64) -> HelloRequest {
    HelloRequest { client_id, session, client_name: format!("c{client_id}"), ..Default::default() }
}

fn volatile() -> SessionTable {
    SessionTable::open(None, 1_000, 0).unwrap()
}

fn executes(a: Admission) -> bool {
    matches!(a, Admission::Execute)
}

#[test]
fn a_repeat_gets_the_kept_reply_and_a_late_duplicate_nothing() {
    let mut t = volatile();
    let s = t.hello(&hello(7, 0), 99, 0).unwrap();
    assert_eq!(s, Joined { session: 99, is_new: true });
    assert!(executes(t.admit(99, 3, 1, 0)));
    let Admission::Wait(mut waits) = t.admit(99, 3, 1, 0) else { panic!("it is under way") };
    assert!(waits.try_recv().is_err());
    t.complete(99, 3, 1, Bytes::from_static(b"one"));
    assert_eq!(waits.try_recv().unwrap(), "one");
    assert!(matches!(t.admit(99, 3, 1, 0), Admission::Kept(r) if r == "one"));
    assert!(executes(t.admit(99, 3, 5, 0)), "numbers may leave gaps");
    assert!(matches!(t.admit(99, 3, 4, 0), Admission::Drop));
    assert!(executes(t.admit(99, 4, 4, 0)), "slots are independent");
    assert!(matches!(t.admit(99, SESSION_SLOTS, 1, 0), Admission::BadSlot));
    assert!(matches!(t.admit(99, 0, 0, 0), Admission::BadSlot));
    assert!(matches!(t.admit(98, 0, 1, 0), Admission::Unknown));
}

#[test]
fn a_reply_for_a_slot_that_went_on_is_not_kept() {
    let mut t = volatile();
    t.hello(&hello(7, 0), 99, 0).unwrap();
    assert!(executes(t.admit(99, 0, 1, 0)));
    assert!(executes(t.admit(99, 0, 2, 0)), "the client gave up on the first");
    t.complete(99, 0, 1, Bytes::from_static(b"late"));
    t.complete(99, 0, 2, Bytes::from_static(b"two"));
    assert!(matches!(t.admit(99, 0, 2, 0), Admission::Kept(r) if r == "two"));
}

#[test]
fn a_client_has_one_session() {
    let mut t = volatile();
    let a = t.hello(&hello(7, 0), 1, 0).unwrap();
    let b = t.hello(&hello(7, 0), 2, 0).unwrap();
    assert_eq!((a.session, b), (1, Joined { session: 1, is_new: false }));
    let other = t.hello(&hello(8, 1), 2, 0).unwrap();
    assert_eq!(other, Joined { session: 2, is_new: true }, "another client's session is not mine");
    assert_eq!(t.hello(&hello(9, 0), 2, 0).unwrap().session, 3, "an id that is taken");
}

#[test]
fn leases_run_out_unless_touched_or_the_server_stood_still() {
    let mut t = volatile();
    t.hello(&hello(1, 0), 1, 0).unwrap();
    t.hello(&hello(2, 0), 2, 0).unwrap();
    assert!(t.touch(2, 600));
    assert_eq!(t.tick(900), (vec![], false));
    assert_eq!(t.tick(1_100), (vec![1], false));
    assert!(t.end(1).unwrap() && !t.end(1).unwrap() && !t.touch(1, 1_100));
    // The process was stopped for an hour: nobody could have renewed.
    assert_eq!(t.tick(3_600_000), (vec![], false));
    assert_eq!(t.tick(3_600_500), (vec![], false));
    assert_eq!(t.tick(3_601_200), (vec![2], false));
}

#[test]
fn sessions_and_recorded_replies_outlive_a_restart() {
    let collection = Arc::new(Collection::memory(Env::real()));
    let durable = DurableSessions { collection: collection.clone(), keys: KEYS };
    let mut t = SessionTable::open(Some(durable.clone()), 1_000, 0).unwrap();
    assert!(!t.in_grace());
    t.hello(&hello(7, 0), 99, 0).unwrap();
    t.hello(&hello(8, 0), 98, 0).unwrap();
    let mut txn = Txn::default();
    let value = [&5u64.to_le_bytes()[..], b"reply"].concat();
    txn.put(KEYS.reply_key(99, 2).to_vec(), value);
    collection.commit(txn).unwrap();
    t.end(98).unwrap();

    let mut t = SessionTable::open(Some(durable.clone()), 1_000, 0).unwrap();
    assert!(t.in_grace() && t.len() == 1);
    assert_eq!(t.hello(&hello(7, 99), 1, 0).unwrap(), Joined { session: 99, is_new: false });
    assert!(matches!(t.admit(99, 2, 5, 0), Admission::Stored(r) if r == "reply"));
    assert!(matches!(t.admit(99, 2, 5, 0), Admission::Kept(r) if r == "reply"), "told once");
    assert!(executes(t.admit(99, 2, 6, 0)));
    assert!(t.reclaimed(99) && !t.in_grace(), "all have reclaimed");
    t.end(99).unwrap();
    assert!(collection.scan(b"", None, 10).unwrap().is_empty(), "no record is left");
}

#[test]
fn grace_ends_with_time() {
    let collection = Arc::new(Collection::memory(Env::real()));
    let durable = DurableSessions { collection, keys: KEYS };
    let mut t = SessionTable::open(Some(durable.clone()), 1_000, 0).unwrap();
    t.hello(&hello(7, 0), 99, 0).unwrap();
    let mut t = SessionTable::open(Some(durable), 1_000, 0).unwrap();
    assert_eq!(t.tick(500), (vec![], false));
    assert_eq!(t.tick(1_001), (vec![99], true));
}

#[test]
fn a_refusal_that_asks_to_come_again_is_not_kept() {
    let mut t = volatile();
    t.hello(&hello(7, 0), 99, 0).unwrap();
    assert!(executes(t.admit(99, 0, 1, 0)));
    let Admission::Wait(mut waits) = t.admit(99, 0, 1, 0) else { panic!("it is under way") };
    t.complete(99, 0, 1, Bytes::from_static(b"busy"));
    t.reopen(99, 0, 1);
    assert_eq!(waits.try_recv().unwrap(), "busy", "who waited hears it, and asks again");
    assert!(executes(t.admit(99, 0, 1, 0)));
    t.reopen(99, 0, 1);
    t.complete(99, 0, 1, Bytes::from_static(b"done"));
    t.reopen(99, 0, 2);
    assert!(matches!(t.admit(99, 0, 1, 0), Admission::Kept(r) if r == "done"));
}
