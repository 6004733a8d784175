//! The Postgres store.

use std::sync::Arc;

use super::{Result, Store, StoreConfig, StoreError};

pub struct PostgresStore;

impl PostgresStore {
    pub fn open(_config: StoreConfig) -> Result<Arc<dyn Store>> {
        Err(StoreError::Setup { code: "config_invalid", message: "This build has no Postgres store.".into() })
    }
}
pub fn migration_sql(_s: &str) -> Result<String> {
    Ok(String::new())
}
