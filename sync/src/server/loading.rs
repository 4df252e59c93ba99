//! Loading a backup: a user's store as it was then takes the place of the present one, by the steps of
//! [`super::replace`], as the beginning of a new history (another epoch), so that devices unite what they
//! have with it and delete nothing (trap 7). A backup of the present store is made before, if it can be.
//! An account that is not there any more is made again, with the password that it had.
use super::accounts::User;
use super::backups::{Saved, failed, items, read};
use super::copying::{Copier, Item};
use super::exported::Exported;
use super::local::Step;
use super::replace::{Held, aside, make_ready, remove};
use super::users::Users;
use crate::error::{Result, SyncError};
use crate::rng::secret;
use crate::store::held::{begin_anew, live_nodes, open_copy};
use crate::tree::NodeId;
use std::collections::HashMap;
use std::path::Path;

impl Users {
    /// Loads the stores of a backup, or of one user of it.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], [`SyncError::Damaged`], I/O; users before the one that failed are loaded.
    pub fn load_backup(&self, name: &str, only: Option<&str>) -> Result<String> {
        let (dir, manifest) = self.backup(name)?;
        let chosen: Vec<&Saved> =
            manifest.users.iter().filter(|s| only.is_none_or(|o| o == s.name)).collect();
        if chosen.is_empty() {
            let who = only.unwrap_or("anybody");
            return Err(SyncError::NotFound(format!("{who} in backup {name}")));
        }
        let accounts: Vec<Exported> = read(&dir.join("accounts.json"))?;
        let mut users = Vec::new();
        for saved in &chosen {
            let known = accounts.iter().find(|a| a.name == saved.name);
            users.push(match self.accounts.by_name(&saved.name)? {
                Some(user) => user,
                None => match known {
                    Some(account) => self.accounts.import(account, self.now_ms())?,
                    None => return Err(SyncError::NotFound(format!("account {}", saved.name))),
                },
            });
        }
        let present: Vec<User> = users.iter().filter(|u| self.worker(u).is_ok()).cloned().collect();
        let before = if present.is_empty() {
            "there was none before".to_owned()
        } else {
            match self.make_backup(&present, &format!("before {name} was loaded")) {
                Ok(before) => format!("what was there before is in backup {before}"),
                Err(e @ SyncError::Crash) => return Err(e),
                Err(e) => format!("what was there before could not be saved: {e}"),
            }
        };
        for (user, saved) in users.iter().zip(&chosen) {
            self.load_store(user, &dir.join(&saved.name), saved, manifest.at_ms)?;
        }
        Ok(format!("{} stores loaded of backup {name}; {before}", users.len()))
    }

    fn load_store(&self, user: &User, from: &Path, saved: &Saved, at_ms: i64) -> Result<()> {
        let route = self.place(user)?;
        let worker = self.worker(user).ok();
        let held = worker.as_ref().map(|w| Held::new(w, "a backup is being loaded")).transpose()?;
        let mut swap = self.local.begin_swap(user.id, &user.name, route, route)?;
        let done = self.stage(user.id, route, from, saved).and_then(|live| {
            // Links made after the backup name nodes that the loaded store does not know, or will give
            // to other files.
            self.accounts.end_shares_after(user.id, at_ms, &live)?;
            self.local.step_swap(&mut swap, Step::Place)?;
            self.put_in_place(&mut swap)
        });
        drop(held);
        done.map_err(|e| self.undo(&swap, e))
    }

    /// Puts a saved store together beside the present one; the nodes that live in it.
    fn stage(&self, user: i64, route: i64, from: &Path, saved: &Saved) -> Result<Vec<NodeId>> {
        let to = aside(&*self.route(route)?, user, "in");
        remove(&to)?;
        std::fs::create_dir(&to).map_err(failed(&to))?;
        self.point()?;
        let (tick, reuse) = (|bytes| self.tick(bytes), |_: &str| None);
        let mut copier = Copier::new(&tick, &reuse);
        copier.folder(&from.join("tree"), &to.join("tree"), "tree", &[])?;
        copier.folder(&from.join("own"), &to.join("own"), "own", &[])?;
        let have: HashMap<&str, &Item> =
            copier.items.iter().map(|i| (i.path.as_str(), i)).collect();
        for item in items(from)? {
            if have.get(item.path.as_str()) != Some(&&item) {
                let why = format!("{} of {} is not what it was", item.path, saved.name);
                return Err(SyncError::Damaged(format!("the backup: {why}; nothing was changed")));
            }
        }
        self.point()?;
        let table = to.join("own/meta.db");
        std::fs::copy(from.join("meta.db"), &table).map_err(failed(&table))?;
        let db = open_copy(&table)?;
        begin_anew(&db, &secret().map_err(|e| SyncError::io("random bytes", e))?)?;
        let live = live_nodes(&db)?;
        db.close().map_err(|(_, e)| e)?;
        make_ready(&to)?;
        Ok(live)
    }
}
