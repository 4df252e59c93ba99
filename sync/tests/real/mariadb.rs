//! Accounts in a real MariaDB (Debian's), started here on a socket and a port of its own; skipped, and
//! said to be, where there is none.

use pvfs2_sync::error::SyncError;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::users::{Users, now_ms};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

struct Maria {
    dir: PathBuf,
    port: u16,
    child: Child,
}

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|d| Path::new(d).join(name))
        .find(|p| p.exists())
}

impl Maria {
    fn start(dir: &Path) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Self::start_at(dir, port)
    }

    fn start_at(dir: &Path, port: u16) -> Option<Self> {
        let (server, install) = (program("mariadbd")?, program("mariadb-install-db")?);
        if !dir.join("data").exists() {
            let made = Command::new(install)
                .args(["--no-defaults", "--auth-root-authentication-method=normal"])
                .arg(format!("--datadir={}", dir.join("data").display()))
                .arg(format!("--user={}", user()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(made.success(), "mariadb-install-db");
        }
        let child = Command::new(server)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--socket={}", dir.join("s").display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--port={port}"))
            .args(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=16M"])
            .arg(format!("--user={}", user()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let maria = Self { dir: dir.to_owned(), port, child };
        let end = Instant::now() + Duration::from_secs(60);
        while maria.try_ask("SELECT 1").is_none() {
            assert!(Instant::now() < end, "mariadbd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(maria)
    }

    fn try_ask(&self, sql: &str) -> Option<String> {
        let out = Command::new(program("mariadb")?)
            .args(["--no-defaults", "-uroot", "-N", "-e", sql])
            .arg(format!("--socket={}", self.dir.join("s").display()))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|| panic!("{sql}"))
    }

    fn url(&self) -> String {
        format!("mysql://sync:geheim@127.0.0.1:{}/accounts", self.port)
    }
}

impl Drop for Maria {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn open(root: &Path, url: &str) -> Result<Users, SyncError> {
    Users::open_with(root, Begin::IfEmpty, None, Arc::new(now_ms), Some(url))
}

#[test]
fn accounts_last_in_mariadb_and_nothing_counts_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let Some(maria) = Maria::start(dir.path()) else {
        eprintln!("skipped: no mariadbd here");
        return;
    };
    maria.ask(
        "CREATE DATABASE accounts; CREATE USER sync@'127.0.0.1' IDENTIFIED BY 'geheim'; \
               GRANT ALL ON accounts.* TO sync@'127.0.0.1'",
    );
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    assert!(open(&root, "nonsense").is_err());
    let users = open(&root, &maria.url()).unwrap();
    let ann = users.accounts.create("ann", PASSWORD, false, Some(5), 1).unwrap();
    let bob = users.accounts.create("bob", PASSWORD, true, None, 1).unwrap();
    let (token, _) = users.accounts.begin_session(ann.id, "lap\u{fc}", now_ms()).unwrap();
    let app = users.accounts.make_app_password(ann.id, "x", 1).unwrap();
    let link = users.accounts.share(ann.id, 1, "open sesame", Some(i64::MAX), 1).unwrap();
    users.accounts.audit("ann", "did \u{201e}this\u{201c}", 7).unwrap();
    users.accounts.set_keep_days([1, 2, 3, 4]).unwrap();
    users.accounts.begin_totp(&bob).unwrap();
    users.accounts.new_recovery(bob.id).unwrap();
    assert!(matches!(
        users.accounts.create("ann", PASSWORD, false, None, 1),
        Err(SyncError::Taken(_))
    ));
    assert_eq!(
        maria.ask("SELECT name, quota FROM accounts.pvfs2_user ORDER BY id"),
        "ann\t5\nbob\tNULL"
    );
    assert_eq!(maria.ask("SELECT count(*) FROM accounts.pvfs2_recovery"), "10");
    assert!(!root.join(".sync/accounts.db").exists(), "nothing of them beside the stores");

    // One server per database.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    assert!(matches!(open(&other, &maria.url()), Err(SyncError::Taken(_))));

    // All of it is there after a restart, also what the administrator of the database changed.
    drop(users);
    maria.ask("UPDATE accounts.pvfs2_user SET quota = 9 WHERE name = 'ann'");
    let users = open(&root, &maria.url()).unwrap();
    assert_eq!(users.accounts.users().unwrap()[0].quota, Some(9));
    assert_eq!(users.accounts.users().unwrap()[1], bob);
    let ann = users.accounts.check("ann", PASSWORD, "1", now_ms()).unwrap();
    assert_eq!(users.accounts.session(&token, now_ms()).unwrap().device, "lap\u{fc}");
    users.accounts.check_basic("ann", &app, "2", now_ms()).unwrap();
    assert_eq!(users.accounts.shared(&link, 5).unwrap().ends_ms, Some(i64::MAX));
    assert_eq!(users.accounts.audited("ann", 0, 9).unwrap()[0].what, "did \u{201e}this\u{201c}");
    assert_eq!(users.accounts.keep_days().unwrap(), [1, 2, 3, 4]);
    assert_eq!(users.accounts.recovery_left(bob.id).unwrap(), 10);
    users.accounts.end_session(ann.id, &users.accounts.sessions(ann.id).unwrap()[0].id).unwrap();
    assert_eq!(maria.ask("SELECT count(*) FROM accounts.pvfs2_session"), "0");
    users.accounts.turn_totp_off(bob.id).unwrap();
    assert_eq!(maria.ask("SELECT count(*) FROM accounts.pvfs2_recovery"), "0");

    // A lost connection is made again.
    maria.ask(
        "SELECT CONCAT('KILL ', id) INTO @k FROM information_schema.processlist \
               WHERE user = 'sync'; PREPARE k FROM @k; EXECUTE k",
    );
    users.accounts.create("cleo", PASSWORD, false, None, 1).unwrap();

    // The database goes: nothing changes, and what is known is answered. Then it comes back.
    let port = maria.port;
    drop(maria);
    assert!(users.accounts.create("dora", PASSWORD, false, None, 1).is_err());
    assert!(users.accounts.set_password(&ann, "another password").is_err());
    let names = |users: &Users| -> Vec<String> {
        users.accounts.users().unwrap().into_iter().map(|u| u.name).collect()
    };
    assert_eq!(names(&users), ["ann", "bob", "cleo"]);
    users.accounts.check("ann", PASSWORD, "3", now_ms()).unwrap();
    let maria = Maria::start_at(dir.path(), port).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while users.accounts.create("dora", PASSWORD, false, None, 1).is_err() {
        assert!(Instant::now() < end, "it is there again, and is not seen");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(names(&users), ["ann", "bob", "cleo", "dora"]);
    assert_eq!(maria.ask("SELECT count(*) FROM accounts.pvfs2_user"), "4");
}
