//! The lock table alone: exclusion, order, deadlocks, cancelling, sessions, grace; and random
//! histories against one cell per byte.
use super::*;
use pvfs2_proto::LOCK_END;

const F: Handle = Handle(9);
const G: Handle = Handle(10);

fn at(session: u64, owner: u64) -> Owner {
    Owner { session, owner }
}

/// A table after its grace time, and the ids that it wakes.
struct Rig {
    table: LockTable,
    woken: Vec<(u64, u64)>,
    next_id: u64,
}

impl Rig {
    fn new() -> Rig {
        let mut table = LockTable::new(100);
        table.step(Event::GraceEnded);
        Rig { table, woken: Vec::new(), next_id: 0 }
    }
    fn step(&mut self, event: Event) -> Verdict {
        let step = self.table.step(event);
        self.woken.extend(step.wakes);
        step.verdict
    }
    fn ask(&mut self, (first, last): (u64, u64), write: bool, wait: bool) -> Ask {
        self.next_id += 1;
        let range = LockRange { first, last };
        Ask { id: self.next_id, range, write, pid: 7, wait, seen: 0 }
    }
    /// F_SETLK.
    fn set(&mut self, o: Owner, h: Handle, range: (u64, u64), write: bool) -> Verdict {
        let ask = self.ask(range, write, false);
        self.step(Event::Lock(o, h, ask))
    }
    /// F_SETLKW; the request, to ask after it.
    fn wait(&mut self, o: Owner, h: Handle, range: (u64, u64), write: bool) -> (Verdict, Ask) {
        let ask = self.ask(range, write, true);
        (self.step(Event::Lock(o, h, ask)), ask)
    }
    fn unlock(&mut self, o: Owner, h: Handle, (first, last): (u64, u64)) {
        let done = self.step(Event::Unlock(o, h, LockRange { first, last }));
        assert!(matches!(done, Verdict::Done { .. }));
    }
    fn woken(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.woken).into_iter().map(|(_, id)| id).collect()
    }
}

fn done(v: Verdict) -> bool {
    matches!(v, Verdict::Done { .. })
}

#[test]
fn readers_share_writers_exclude() {
    let mut r = Rig::new();
    let (a, b, c) = (at(1, 1), at(1, 2), at(2, 1));
    assert!(done(r.set(a, F, (0, 9), false)) && done(r.set(b, F, (5, 14), false)));
    assert!(matches!(r.set(c, F, (9, 9), true), Verdict::Refused(h) if !h.write && h.pid == 7));
    assert!(done(r.set(c, F, (15, 20), true)), "no byte in common");
    assert!(matches!(r.set(a, F, (0, 5), true), Verdict::Refused(_)), "upgrade against a reader");
    assert!(done(r.set(a, F, (0, 4), true)), "upgrade of the part that is its own");
    assert!(matches!(r.set(b, F, (4, 4), false), Verdict::Refused(h) if h.range.last == 4));
    r.unlock(a, F, (2, 30));
    assert!(done(r.set(b, F, (2, 4), true)), "the middle was given back");
    assert_eq!(
        r.table.conflict(c, F, LockRange::ALL, true).map(|(o, h)| (o, h.range.first)),
        Some((a, 0))
    );
    assert!(done(r.set(a, F, (0, 1), false)), "downgrade");
    assert!(done(r.set(c, F, (1, 1), false)));
    for o in [a, b, c] {
        r.unlock(o, F, (0, LOCK_END));
    }
    assert!(r.table.is_empty() && r.table.holding.is_empty() && r.table.counts.is_empty());
}

#[test]
fn waiters_come_in_the_order_of_asking() {
    let mut r = Rig::new();
    let all = (0, LOCK_END);
    assert!(done(r.set(at(1, 1), F, all, false)));
    let (v, writer) = r.wait(at(2, 1), F, all, true);
    assert_eq!(v, Verdict::Queued);
    let (v, reader) = r.wait(at(2, 2), F, all, false);
    assert_eq!(v, Verdict::Queued, "a later reader does not starve the writer");
    let (v, second) = r.wait(at(2, 3), F, all, false);
    assert_eq!(v, Verdict::Queued);
    assert!(done(r.set(at(3, 1), F, all, false)), "who does not wait takes what is free");
    r.unlock(at(3, 1), F, all);
    assert_eq!(r.step(Event::Lock(at(2, 1), F, writer)), Verdict::Queued, "asked after");
    r.unlock(at(1, 1), F, all);
    assert_eq!(r.woken(), [writer.id]);
    assert!(done(r.step(Event::Lock(at(2, 1), F, writer))));
    r.unlock(at(2, 1), F, all);
    assert_eq!(r.woken(), [reader.id, second.id], "both readers");
    assert!(done(r.step(Event::Lock(at(2, 3), F, second))));
}

#[test]
fn a_downgrade_lets_readers_in() {
    let mut r = Rig::new();
    assert!(done(r.set(at(1, 1), F, (0, 9), true)));
    let (_, reader) = r.wait(at(2, 1), F, (3, 4), false);
    assert!(done(r.set(at(1, 1), F, (0, 9), false)));
    assert_eq!(r.woken(), [reader.id]);
}

#[test]
fn fairness_makes_no_deadlock() {
    let mut r = Rig::new();
    let (a, b) = (at(1, 1), at(2, 1));
    assert!(done(r.set(a, F, (0, 9), false)));
    assert_eq!(r.wait(b, F, (0, 19), true).0, Verdict::Queued);
    assert!(done(r.wait(a, F, (10, 19), false).0), "b waits for a: a must not wait behind b");
    // One that waits for its turn only gets a lock elsewhere: from then on others can wait for it.
    let (v, turn) = r.wait(at(3, 1), F, (5, 5), false);
    assert_eq!(v, Verdict::Queued);
    assert!(done(r.set(at(3, 1), G, (0, 0), true)));
    assert_eq!(r.woken(), [turn.id]);
}

#[test]
fn deadlocks_are_found_across_files() {
    let mut r = Rig::new();
    let (a, b, c) = (at(1, 1), at(2, 1), at(3, 1));
    assert!(done(r.set(a, F, (0, 0), true)) && done(r.set(b, G, (0, 0), true)));
    assert!(done(r.set(c, F, (5, 5), false)));
    assert_eq!(r.wait(a, G, (0, 0), false).0, Verdict::Queued);
    assert_eq!(r.wait(b, F, (5, 5), true).0, Verdict::Queued);
    assert_eq!(r.wait(c, F, (0, 0), false).0, Verdict::Deadlock, "c -> a -> b -> c");
    // Two readers that both want to write.
    let (d, e, h) = (at(4, 1), at(5, 1), Handle(11));
    assert!(done(r.set(d, h, (0, 9), false)) && done(r.set(e, h, (0, 9), false)));
    assert_eq!(r.wait(d, h, (0, 9), true).0, Verdict::Queued);
    assert_eq!(r.wait(e, h, (0, 9), true).0, Verdict::Deadlock);
    r.unlock(e, h, (0, 9));
    assert_eq!(r.woken().len(), 1);
}

#[test]
fn a_ring_closed_by_another_thread_of_a_waiter_is_broken() {
    let mut r = Rig::new();
    let (a, b) = (at(1, 1), at(2, 1));
    assert!(done(r.set(b, F, (0, 0), true)));
    let (_, first) = r.wait(a, F, (0, 0), true);
    let (v, second) = r.wait(b, G, (0, 0), true);
    assert!(done(v), "nobody has it");
    r.unlock(b, G, (0, 0));
    // b waits for a file that nobody has, behind one that holds nothing; a's other thread takes it.
    assert!(done(r.set(at(3, 1), G, (0, 0), true)));
    let (v, third) = r.wait(b, G, (0, 0), true);
    assert_eq!(v, Verdict::Queued);
    assert!(done(r.set(a, G, (5, 5), true)), "a second thread of a");
    assert_eq!(r.wait(b, G, (5, 5), true).0, Verdict::Deadlock);
    r.unlock(at(3, 1), G, (0, 0));
    assert_eq!(r.woken(), [third.id]);
    assert_ne!(second.id, first.id);
}

#[test]
fn a_grant_that_closes_a_ring_refuses_who_waits() {
    let mut r = Rig::new();
    let (a, b) = (at(1, 1), at(2, 1));
    assert!(done(r.set(b, F, (0, 0), true)));
    assert!(done(r.set(at(3, 1), G, (0, 0), true)));
    let (_, of_a) = r.wait(a, F, (0, 0), true);
    let (v, _) = r.wait(b, G, (0, 0), true);
    assert_eq!(v, Verdict::Queued);
    // Another thread of a stands in front of b in G: it is free, and a gets it at once.
    r.unlock(b, G, (0, 0));
    let (v, _) = r.wait(a, G, (0, 0), true);
    assert_eq!(v, Verdict::Queued);
    assert_eq!(r.woken(), []);
    r.unlock(at(3, 1), G, (0, 0));
    let first = r.woken();
    assert_eq!(first.len(), 1, "b's turn: {first:?}");
    r.unlock(b, G, (0, 0));
    // Now a holds G; b wants it while a waits for F of b: the last to ask hears of it.
    assert_eq!(r.woken().len(), 1);
    assert_eq!(r.wait(b, G, (0, 0), true).0, Verdict::Deadlock);
    // The same, closed by a grant that does not wait.
    r.unlock(a, G, (0, 0));
    assert!(done(r.set(at(3, 1), G, (0, 0), false)));
    assert_eq!(r.wait(b, G, (0, 0), true).0, Verdict::Queued);
    assert!(done(r.set(a, G, (0, 0), false)), "shared with the reader");
    assert_eq!(r.woken(), [of_a.id], "a waits for b, b for a now: a's request is taken out");
    assert_eq!(r.step(Event::Lock(a, F, of_a)), Verdict::Deadlock);
}

#[test]
fn what_is_cancelled_is_never_granted() {
    let mut r = Rig::new();
    let (a, b, c) = (at(1, 1), at(2, 1), at(3, 1));
    assert!(done(r.set(a, F, (0, 9), false)));
    let (_, writer) = r.wait(b, F, (0, 9), true);
    let (_, reader) = r.wait(c, F, (0, 9), false);
    assert_eq!(r.step(Event::Cancel(b, F, writer)), Verdict::Cancelled);
    assert_eq!(r.woken(), [reader.id], "it waited for its turn only");
    assert_eq!(r.step(Event::Cancel(b, F, writer)), Verdict::Cancelled, "told again");
    r.unlock(a, F, (0, 9));
    r.unlock(c, F, (0, 9));
    assert_eq!(r.step(Event::Lock(b, F, writer)), Verdict::Cancelled, "a late copy of it");
    // A cancel that comes after the grant says so.
    let (v, late) = r.wait(b, F, (0, 9), true);
    assert!(done(v) && done(r.step(Event::Cancel(b, F, late))));
    // Of a request that never came, what its owner has otherwise is none of its business.
    let never = r.ask((0, 9), true, true);
    assert_eq!(r.step(Event::Cancel(b, F, never)), Verdict::Cancelled);
    // One that overtakes its request.
    let early = r.ask((0, 9), true, true);
    assert_eq!(r.step(Event::Cancel(a, F, early)), Verdict::Cancelled);
    assert_eq!(r.step(Event::Lock(a, F, early)), Verdict::Cancelled);
    for _ in 0..2 * REMEMBERED_MAX {
        let ask = r.ask((0, 9), true, true);
        r.step(Event::Cancel(a, F, ask));
    }
    assert_eq!(r.table.cancelled[&1].0.len(), REMEMBERED_MAX);
}

#[test]
fn a_session_that_ends_gives_everything_back() {
    let mut r = Rig::new();
    for owner in 0..3 {
        assert!(done(r.set(at(1, owner), F, (owner, owner), true)));
    }
    assert!(done(r.set(at(2, 9), G, (0, 9), true)));
    r.wait(at(1, 0), G, (0, 9), true);
    let (_, waits) = r.wait(at(2, 1), F, (0, 9), true);
    r.step(Event::EndSession(1));
    assert_eq!(r.woken(), [waits.id]);
    r.step(Event::EndSession(2));
    assert!(r.table.is_empty() && r.table.waiting.is_empty() && r.table.counts.is_empty());
    assert!(r.table.holding.is_empty() && r.table.cancelled.is_empty());
}

#[test]
fn the_grace_time_is_for_reclaims() {
    let mut table = LockTable::new(100);
    let (a, b) = (at(1, 1), at(2, 1));
    let held =
        |first, last, write| Held { range: LockRange { first, last }, write, pid: 7, mark: 0 };
    let mut step = |e| table.step(e).verdict;
    assert!(done(step(Event::Reclaim(a, F, held(0, 9, true), true))));
    assert!(done(step(Event::Reclaim(a, F, held(0, 9, true), false))), "told again, late");
    assert_eq!(step(Event::Reclaim(b, F, held(9, 9, false), true)), Verdict::Lost);
    assert_eq!(step(Event::Reclaim(b, F, held(20, 20, false), false)), Verdict::Lost);
    let ask = |id, first, last, write, wait| Ask {
        id,
        range: LockRange { first, last },
        write,
        pid: 7,
        wait,
        seen: 0,
    };
    assert_eq!(step(Event::Lock(b, F, ask(1, 50, 50, true, false))), Verdict::Grace);
    assert_eq!(step(Event::Lock(b, F, ask(2, 50, 50, true, true))), Verdict::Queued);
    assert!(done(step(Event::Lock(a, F, ask(3, 2, 3, false, false)))), "a downgrade");
    assert!(done(step(Event::Unlock(a, F, LockRange { first: 0, last: 9 }))));
    let ended = table.step(Event::GraceEnded);
    assert_eq!(ended.wakes, [(2, 2)]);
}

#[test]
fn caches_are_good_until_another_session_wrote_under_a_lock() {
    let mut r = Rig::new();
    let fresh = |r: &mut Rig, o: Owner, seen: u64, write: bool| {
        let ask = Ask { seen, ..r.ask((0, 9), write, false) };
        let v = r.step(Event::Lock(o, F, ask));
        r.unlock(o, F, (0, 9));
        match v {
            Verdict::Done { stamp, fresh } => (stamp, fresh),
            other => panic!("{other:?}"),
        }
    };
    let (a, b) = (at(1, 1), at(2, 1));
    let (s, f) = fresh(&mut r, a, 0, true);
    assert!(!f, "it has seen nothing");
    let (s, f) = fresh(&mut r, a, s, true);
    assert!(f, "only its own session wrote");
    let (s2, _) = fresh(&mut r, b, 0, false);
    let (s, f) = fresh(&mut r, a, s, false);
    assert!(f, "the other only read");
    assert!(fresh(&mut r, b, s2, true).1, "nobody wrote after its first look");
    assert!(!fresh(&mut r, a, s, false).1);
    let now = r.table.stamp;
    assert!(fresh(&mut r, b, now, false).1);
    // While another holds a write lock elsewhere in the file.
    assert!(done(r.set(b, F, (50, 50), true)));
    let now = r.table.stamp;
    assert!(!fresh(&mut r, a, now, false).1);
    r.step(Event::EndSession(2));
    assert!(!fresh(&mut r, a, now, false).1, "what the ended session wrote");
    let now = r.table.stamp;
    assert!(fresh(&mut r, a, now, false).1);
    r.table.forgot = r.table.stamp;
    assert!(!fresh(&mut r, a, now, false).1, "forgotten means not known");
}

#[test]
fn a_session_has_a_bound() {
    let mut r = Rig::new();
    for n in 0..LOCKS_PER_SESSION_MAX as u64 {
        assert!(done(r.set(at(1, 1), F, (2 * n, 2 * n), true)));
    }
    assert_eq!(r.set(at(1, 1), F, (1, 1), true), Verdict::TooMany);
    assert!(done(r.set(at(1, 1), F, (2, 2), false)), "what it has it may change");
    assert!(done(r.set(at(2, 1), F, (1, 1), true)), "another session");
}

mod histories {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 8;
    const OWNERS: u64 = 5;

    #[derive(Clone, Debug)]
    enum Do {
        Set(u64, u64, u64, u64, bool, bool),
        Unlock(u64, u64, u64, u64),
        Cancel(usize),
        End(u64),
    }

    fn one() -> impl Strategy<Value = Do> {
        let place = (0..OWNERS, 0..2u64, 0..BYTES, 0..BYTES);
        prop_oneof![
            6 => (place.clone(), any::<bool>(), any::<bool>())
                .prop_map(|((o, f, a, b), w, wait)| Do::Set(o, f, a, b, w, wait)),
            4 => place.prop_map(|(o, f, a, b)| Do::Unlock(o, f, a, b)),
            1 => (0..8usize).prop_map(Do::Cancel),
            1 => (1..3u64).prop_map(Do::End),
        ]
    }

    /// Owner number -> owner: two sessions.
    fn owner(n: u64) -> Owner {
        at(1 + n % 2, n)
    }

    #[derive(Default)]
    struct Model {
        /// (file, byte, owner) -> for writing.
        cells: BTreeMap<(u64, u64, Owner), bool>,
        waiting: Vec<(Owner, Handle, Ask)>,
    }

    impl Model {
        fn conflicts(&self, o: Owner, file: u64, range: LockRange, write: bool) -> bool {
            self.cells.iter().any(|((f, byte, other), w)| {
                *f == file
                    && *other != o
                    && (range.first..=range.last).contains(byte)
                    && (*w || write)
            })
        }
        fn set(&mut self, o: Owner, file: u64, range: LockRange, write: bool) {
            for byte in range.first..=range.last {
                self.cells.insert((file, byte, o), write);
            }
        }
        fn clear(&mut self, o: Owner, file: u64, range: LockRange) {
            self.cells.retain(|(f, b, other), _| {
                !(*f == file && *other == o && (range.first..=range.last).contains(b))
            });
        }
    }

    struct Both {
        table: LockTable,
        model: Model,
    }

    impl Both {
        fn step(&mut self, event: Event) -> Verdict {
            let mut step = self.table.step(event);
            // Wakes are applied before anything else happens; asking again may wake more.
            match event {
                Event::Lock(o, h, ask) if done(step.verdict) => {
                    assert!(
                        !self.model.conflicts(o, h.0, ask.range, ask.write),
                        "granted against a lock: {ask:?}"
                    );
                    self.model.set(o, h.0, ask.range, ask.write);
                }
                Event::Unlock(o, h, range) => self.model.clear(o, h.0, range),
                Event::EndSession(s) => {
                    self.model.cells.retain(|(_, _, o), _| o.session != s);
                    self.model.waiting.retain(|(o, _, _)| o.session != s);
                }
                _ => {}
            }
            let wakes = std::mem::take(&mut step.wakes);
            for (session, id) in wakes {
                let at = self
                    .model
                    .waiting
                    .iter()
                    .position(|(o, _, a)| (o.session, a.id) == (session, id))
                    .expect("only who waits is woken");
                let (o, h, ask) = self.model.waiting.remove(at);
                match self.step(Event::Lock(o, h, ask)) {
                    Verdict::Done { .. } | Verdict::Deadlock => {}
                    Verdict::Queued => self.model.waiting.push((o, h, ask)),
                    other => panic!("a woken request: {other:?}"),
                }
            }
            step.verdict
        }

        fn check(&self) {
            for (h, file) in &self.table.files {
                for (o, list) in &file.held {
                    for held in list.iter() {
                        for byte in held.range.first..=held.range.last {
                            assert_eq!(self.model.cells.get(&(h.0, byte, *o)), Some(&held.write));
                        }
                    }
                }
            }
            let (held, waiting) = self.table.len();
            let cells: u64 = self
                .table
                .files
                .values()
                .flat_map(|f| f.held.values())
                .flat_map(|l| l.iter())
                .map(|h| h.range.last - h.range.first + 1)
                .sum();
            assert_eq!(cells as usize, self.model.cells.len());
            assert_eq!(waiting, self.model.waiting.len());
            assert_eq!(self.table.counts.values().sum::<usize>(), held + waiting);
            // Who waits either meets a lock of another, or waits for its turn and holds nothing.
            for (o, h, ask) in &self.model.waiting {
                let blocked = self.model.conflicts(*o, h.0, ask.range, ask.write);
                let holds = self.model.cells.keys().any(|(_, _, other)| other == o);
                assert!(blocked || !holds, "{o:?} waits for nothing");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]
        #[test]
        fn exclusion_and_an_end_to_every_wait(steps in prop::collection::vec(one(), 1..80)) {
            let mut table = LockTable::new(1);
            table.step(Event::GraceEnded);
            let mut both = Both { table, model: Model::default() };
            for (id, step) in (1u64..).zip(steps) {
                match step {
                    Do::Set(o, f, a, b, write, wait) => {
                        let range = LockRange { first: a.min(b), last: a.max(b) };
                        let (o, h) = (owner(o), Handle(f));
                        let ask = Ask { id, range, write, pid: 1, wait, seen: 0 };
                        let conflicts = both.model.conflicts(o, f, range, write);
                        match both.step(Event::Lock(o, h, ask)) {
                            Verdict::Done { .. } => prop_assert!(!conflicts),
                            Verdict::Refused(_) => prop_assert!(conflicts && !wait),
                            Verdict::Deadlock => prop_assert!(conflicts && wait),
                            Verdict::Queued => {
                                prop_assert!(wait);
                                both.model.waiting.push((o, h, ask));
                            }
                            other => prop_assert!(false, "{other:?}"),
                        }
                    }
                    Do::Unlock(o, f, a, b) => {
                        let range = LockRange { first: a.min(b), last: a.max(b) };
                        both.step(Event::Unlock(owner(o), Handle(f), range));
                    }
                    Do::Cancel(n) => {
                        if n < both.model.waiting.len() {
                            let (o, h, ask) = both.model.waiting.remove(n);
                            prop_assert_eq!(both.step(Event::Cancel(o, h, ask)), Verdict::Cancelled);
                        }
                    }
                    Do::End(session) => {
                        both.step(Event::EndSession(session));
                    }
                }
                both.check();
            }
            // Whoever does not wait goes home: everybody gets what it waits for.
            for _ in 0..=OWNERS {
                for n in 0..OWNERS {
                    if both.model.waiting.iter().all(|(o, _, _)| *o != owner(n)) {
                        for f in 0..2 {
                            both.step(Event::Unlock(owner(n), Handle(f), LockRange::ALL));
                            both.check();
                        }
                    }
                }
            }
            prop_assert!(both.model.waiting.is_empty(), "stuck: {:?}", both.model.waiting);
        }
    }
}
