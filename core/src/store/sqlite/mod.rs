//! The Sqlite store.

use std::sync::Arc;

use super::{Result, Store, StoreConfig, StoreError};

pub struct SqliteStore;

impl SqliteStore {
    pub fn open(_config: StoreConfig) -> Result<Arc<dyn Store>> {
        Err(StoreError::Setup { code: "config_invalid", message: "This build has no Sqlite store.".into() })
    }
}
