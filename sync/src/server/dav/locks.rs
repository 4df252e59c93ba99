//! Locks of WebDAV clients, of one user: in memory, so a restart ends them, and with an end, so that a
//! client that died does not keep a file. They hold other WebDAV clients off. Devices and pages are not
//! held: what they change is told by ETag, as among devices.
use dav_server::davpath::DavPath;
use dav_server::ls::{DavLock, DavLockSystem, LsFuture};
use parking_lot::Mutex;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use xmltree::Element;

/// A user has at most so many.
const LOCKS_MAX: usize = 1_000;
/// A lock that names no end has one all the same.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The locks of one user.
#[derive(Clone, Debug, Default)]
pub struct Locks(Arc<Mutex<Vec<DavLock>>>);

fn name(path: &DavPath) -> Vec<u8> {
    let mut name = path.as_bytes().to_vec();
    while name.last() == Some(&b'/') {
        name.pop();
    }
    name
}

/// Whether `path` lies beneath `top`, or is it.
fn within(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Whether a lock is about `path`: it is on it, or deep and on something above.
fn covers(lock: &DavLock, path: &[u8]) -> bool {
    let on = name(&lock.path);
    on == path || (lock.deep && within(path, &on))
}

impl Locks {
    /// The locks that have not ended, as a list to work on.
    fn live<T>(&self, f: impl FnOnce(&mut Vec<DavLock>) -> T) -> T {
        let now = SystemTime::now();
        let mut all = self.0.lock();
        all.retain(|l| l.timeout_at.is_none_or(|end| end > now));
        f(&mut all)
    }
}

fn until(lock: &mut DavLock, timeout: Option<Duration>) {
    let timeout = timeout.unwrap_or(TIMEOUT);
    lock.timeout = Some(timeout);
    lock.timeout_at = SystemTime::now().checked_add(timeout);
}

impl DavLockSystem for Locks {
    fn lock(
        &'_ self,
        path: &DavPath,
        principal: Option<&str>,
        owner: Option<&Element>,
        timeout: Option<Duration>,
        shared: bool,
        deep: bool,
    ) -> LsFuture<'_, Result<DavLock, DavLock>> {
        let at = name(path);
        let token = crate::rng::secret::<16>().unwrap_or_default();
        let mut lock = DavLock {
            token: format!("opaquelocktoken:{}", crate::rng::hex(&token)),
            path: Box::new(path.clone()),
            principal: principal.map(str::to_owned),
            owner: owner.map(|o| Box::new(o.clone())),
            timeout_at: None,
            timeout: None,
            shared,
            deep,
        };
        until(&mut lock, timeout);
        let result = self.live(|all| {
            let other = all.iter().find(|l| {
                let meets = covers(l, &at) || (deep && within(&name(&l.path), &at));
                meets && !(shared && l.shared)
            });
            let other = other.or_else(|| all.first().filter(|_| all.len() >= LOCKS_MAX));
            match other {
                Some(other) => Err(other.clone()),
                None => {
                    all.push(lock.clone());
                    Ok(lock)
                }
            }
        });
        Box::pin(ready(result))
    }

    fn unlock(&'_ self, path: &DavPath, token: &str) -> LsFuture<'_, Result<(), ()>> {
        let at = name(path);
        let result = self.live(|all| {
            let before = all.len();
            all.retain(|l| l.token != token || !covers(l, &at));
            if all.len() < before { Ok(()) } else { Err(()) }
        });
        Box::pin(ready(result))
    }

    fn refresh(
        &'_ self,
        path: &DavPath,
        token: &str,
        timeout: Option<Duration>,
    ) -> LsFuture<'_, Result<DavLock, ()>> {
        let at = name(path);
        let result = self.live(|all| {
            let found = all.iter_mut().find(|l| l.token == token && covers(l, &at)).ok_or(())?;
            until(found, timeout);
            Ok(found.clone())
        });
        Box::pin(ready(result))
    }

    /// With `ignore_principal` it is a condition of an If header that is weighed: then the token must be
    /// that of a lock on the path.
    fn check(
        &'_ self,
        path: &DavPath,
        principal: Option<&str>,
        ignore_principal: bool,
        deep: bool,
        submitted_tokens: &[String],
    ) -> LsFuture<'_, Result<(), DavLock>> {
        let at = name(path);
        let result = self.live(|all| {
            let (mut held, mut shared) = (false, None);
            for l in all.iter() {
                if !(covers(l, &at) || (deep && within(&name(&l.path), &at))) {
                    continue;
                }
                let ours = ignore_principal || principal == l.principal.as_deref();
                if ours && submitted_tokens.contains(&l.token) {
                    held = true;
                } else if !l.shared {
                    return Err(l.clone());
                } else {
                    shared.get_or_insert_with(|| l.clone());
                }
            }
            match shared {
                Some(other) if !held => Err(other),
                _ if ignore_principal && !held => Err(nobody(path)),
                _ => Ok(()),
            }
        });
        Box::pin(ready(result))
    }

    fn discover(&'_ self, path: &DavPath) -> LsFuture<'_, Vec<DavLock>> {
        let at = name(path);
        Box::pin(ready(self.live(|all| all.iter().filter(|l| covers(l, &at)).cloned().collect())))
    }

    fn delete(&'_ self, path: &DavPath) -> LsFuture<'_, Result<(), ()>> {
        let at = name(path);
        self.live(|all| all.retain(|l| !within(&name(&l.path), &at)));
        Box::pin(ready(Ok(())))
    }
}

/// What stands for a lock that is not there.
fn nobody(path: &DavPath) -> DavLock {
    DavLock {
        token: String::new(),
        path: Box::new(path.clone()),
        principal: None,
        owner: None,
        timeout_at: None,
        timeout: None,
        shared: true,
        deep: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn now<T>(f: LsFuture<'_, T>) -> T {
        f.now_or_never().unwrap()
    }

    #[test]
    fn locks_hold_others_off_until_their_end() {
        let (all, path) = (Locks::default(), |p: &str| DavPath::new(p).unwrap());
        let (dir, file) = (path("/d/"), path("/d/f"));
        let lock = |p: &DavPath, shared, deep, secs| {
            now(all.lock(p, Some("ann"), None, Some(Duration::from_secs(secs)), shared, deep))
        };
        let check = |p: &DavPath, deep, tokens: &[String]| {
            now(all.check(p, Some("ann"), false, deep, tokens)).is_ok()
        };
        let one = lock(&file, false, false, 60).unwrap().token;
        assert!(lock(&file, true, false, 60).is_err() && lock(&dir, false, true, 60).is_err());
        assert!(
            lock(&dir, false, false, 60).is_ok_and(|l| now(all.unlock(&dir, &l.token)).is_ok())
        );
        assert!(!check(&file, false, &[]) && check(&file, false, std::slice::from_ref(&one)));
        assert!(check(&dir, false, &[]) && !check(&dir, true, &[]), "beneath it, if it goes deep");
        assert!(check(&path("/d/f2"), false, &[]), "a name that begins alike is another");
        // A condition wants a lock that is there.
        let held = |t: &str| now(all.check(&file, None, true, false, &[t.to_owned()])).is_ok();
        assert!(held(&one) && !held("bogus"));
        assert!(now(all.unlock(&file, "bogus")).is_err());
        now(all.unlock(&file, &one)).unwrap();
        assert!(check(&file, false, &[]) && !held(&one));
        // Deep ones hold for what is made later; shared ones for each other; all of them end.
        let deep = lock(&dir, true, true, 60).unwrap().token;
        let two = lock(&file, true, false, 60).unwrap().token;
        assert!(!check(&path("/d/new/x"), false, &[]) && check(&file, false, &[two]));
        now(all.delete(&dir)).unwrap();
        assert!(now(all.refresh(&dir, &deep, None)).is_err());
        lock(&file, false, false, 0).unwrap();
        assert!(check(&file, false, &[]), "ended");
    }
}
