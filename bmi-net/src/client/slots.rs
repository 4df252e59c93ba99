//! The slots of one session, without I/O or waiting: tickets out, tickets back.
//!
//! Invariants: a (slot, seq) is given out once; a slot is out at most once; a ticket of an earlier
//! session is either translated to its successor or good for nothing.
use crate::call::Ticket;
use pvfs2_proto::ServerId;
use std::collections::{HashMap, HashSet};

/// Slots of the running session with one server.
#[derive(Default)]
pub(super) struct Slots {
    session: u64,
    seqs: Vec<u64>,
    sent: Vec<bool>,
    free: Vec<u32>,
    /// Tickets of the session before this one that were out but whose request was never sent.
    unsent: HashSet<(u64, u32, u64)>,
    /// Tickets of earlier sessions whose request goes on in this one.
    successors: HashMap<(u64, u32, u64), Ticket>,
}

impl Slots {
    /// Starts with a new session; tickets of the old one are void.
    pub(super) fn reset(&mut self, session: u64, slots: u32) {
        self.unsent = (0u32..)
            .zip(self.seqs.iter().zip(&self.sent))
            .filter(|(slot, (_, sent))| !**sent && !self.free.contains(slot))
            .map(|(slot, (seq, _))| (self.session, slot, *seq))
            .collect();
        self.session = session;
        self.seqs = vec![0; slots as usize];
        self.sent = vec![false; slots as usize];
        // Low slots first: servers keep one reply per slot that was ever used.
        self.free = (0..slots).rev().collect();
        self.successors.clear();
    }

    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// A ticket; `None` while all slots are out.
    pub(super) fn take(&mut self, server: ServerId) -> Option<Ticket> {
        let slot = self.free.pop()?;
        let seq = self.seqs.get_mut(slot as usize)?;
        *seq += 1;
        self.sent[slot as usize] = false;
        Some(Ticket { server, session: self.session, slot, seq: *seq })
    }

    /// The ticket under which `ticket`'s request goes on now.
    pub(super) fn resolve(&self, ticket: Ticket) -> Ticket {
        self.successors.get(&(ticket.session, ticket.slot, ticket.seq)).copied().unwrap_or(ticket)
    }

    /// Notes that the request is about to be sent; whether it may have been sent before.
    pub(super) fn mark_sent(&mut self, ticket: Ticket) -> bool {
        match self.is_out(ticket) {
            true => std::mem::replace(&mut self.sent[ticket.slot as usize], true),
            // Of an earlier session: it was sent unless we know better.
            false => !self.unsent.remove(&(ticket.session, ticket.slot, ticket.seq)),
        }
    }

    fn is_out(&self, t: Ticket) -> bool {
        t.session == self.session && self.seqs.get(t.slot as usize) == Some(&t.seq)
    }

    /// A new ticket in place of one of an ended session.
    pub(super) fn replace(&mut self, old: Ticket) -> Option<Ticket> {
        let new = self.take(old.server)?;
        self.successors.insert((old.session, old.slot, old.seq), new);
        Some(new)
    }

    /// Takes a ticket back; whether a slot became free.
    pub(super) fn done(&mut self, ticket: Ticket) -> bool {
        let key = (ticket.session, ticket.slot, ticket.seq);
        let ticket = self.successors.remove(&key).unwrap_or(ticket);
        if !self.is_out(ticket) || self.free.contains(&ticket.slot) {
            return false;
        }
        self.successors.retain(|_, t| *t != ticket);
        self.free.push(ticket.slot);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_given_once_and_come_back_once() {
        let mut s = Slots::default();
        s.reset(7, 2);
        let a = s.take(0).unwrap();
        let b = s.take(0).unwrap();
        assert_eq!((a.slot, a.seq, b.slot, b.seq), (0, 1, 1, 1));
        assert!(s.take(0).is_none());
        assert!(!s.mark_sent(a) && s.mark_sent(a));
        assert!(s.done(a) && !s.done(a));
        let c = s.take(0).unwrap();
        assert_eq!((c.slot, c.seq), (0, 2));
        assert!(!s.done(a), "a late return must not free the slot's next user");
        assert!(!s.mark_sent(c));
    }

    #[test]
    fn a_new_session_replaces_tickets() {
        let mut s = Slots::default();
        s.reset(7, 1);
        let old = s.take(0).unwrap();
        s.reset(8, 1);
        assert!(!s.mark_sent(old), "never sent so far");
        assert!(s.mark_sent(old), "an old session's ticket counts as sent");
        let new = s.replace(old).unwrap();
        assert_eq!((new.session, s.resolve(old)), (8, new));
        assert!(s.take(0).is_none());
        assert!(s.done(old), "the old copy of the ticket frees its successor");
        assert!(!s.done(new));
        assert!(s.take(0).is_some());
    }
}
