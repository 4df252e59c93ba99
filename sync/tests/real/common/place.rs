//! A server with one user, and devices of hers.
use super::browser::server;
use pvfs2_sync::api::Login;
use pvfs2_sync::device::config::Config;
use pvfs2_sync::device::daemon;
use pvfs2_sync::device::engine::Report;
use pvfs2_sync::server::running::Running;
use pvfs2_sync::server::users::now_ms;
use std::path::PathBuf;

pub const PASSWORD: &str = "correct horse battery";

pub struct Place {
    pub dir: tempfile::TempDir,
    pub server: Running,
}

pub struct Device {
    pub state: PathBuf,
    pub folder: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("user")).unwrap();
        let server = server(&dir.path().join("user"));
        server.app.accounts.create("ann", PASSWORD, false, None, now_ms()).unwrap();
        Self { dir, server }
    }

    pub fn device(&self, name: &str) -> Device {
        let at = |what: String| self.dir.path().join(what);
        let d = Device { state: at(format!("{name}.state")), folder: at(name.into()) };
        let ca = std::fs::read_to_string(&self.server.cert).unwrap();
        let login = Login { user: "ann".into(), password: PASSWORD.into(), device: name.into() };
        let url = format!("https://{}", self.server.addr);
        Config::set_up(&d.state, &url, Some(ca), &login, &d.folder).unwrap();
        d
    }
}

impl Device {
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn pass(&self) -> Report {
        let report = daemon::once(&self.state, false).unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
        report
    }
}
