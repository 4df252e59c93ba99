//! Where the accounts' tables are: a file beside the stores, or another database ([`super::outside`]).
use crate::error::Result;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

/// The tables, for one at a time.
pub struct Db {
    tables: Mutex<Connection>,
    #[cfg(feature = "mariadb")]
    outside: Option<super::outside::Outside>,
}

impl Db {
    /// In a file, which `tables` is open on.
    #[must_use]
    pub fn file(tables: Connection) -> Self {
        Self {
            tables: Mutex::new(tables),
            #[cfg(feature = "mariadb")]
            outside: None,
        }
    }

    /// In another database; `tables` has them, empty.
    ///
    /// # Errors
    /// As [`super::outside::Outside::connect`].
    #[cfg(feature = "mariadb")]
    pub fn outside(mut tables: Connection, url: &str) -> Result<Self> {
        let outside = super::outside::Outside::connect(&mut tables, url)?;
        Ok(Self { tables: Mutex::new(tables), outside: Some(outside) })
    }

    /// This program was built without.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "mariadb"))]
    pub fn outside(_tables: Connection, _url: &str) -> Result<Self> {
        let why = "this program was built without the feature mariadb";
        Err(crate::error::SyncError::Invalid(why.into()))
    }

    /// The tables, as they are now.
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        #[cfg_attr(not(feature = "mariadb"), allow(unused_mut))]
        let mut held = self.tables.lock();
        #[cfg(feature = "mariadb")]
        if let Some(outside) = &self.outside {
            outside.freshen(&mut held);
        }
        held
    }
}
