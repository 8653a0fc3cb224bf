//! Services on their way through the queue, as JSON.

use std::sync::Arc;

use healthmon_core::{id::ServiceId, ports::StoreError, service::Service};

use super::super::{error::bad_row, rows};
use crate::services::Services;

/// The text of each.
pub(super) fn write<'a>(
    kept: &Services<Arc<str>>,
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> Result<Vec<Arc<str>>, StoreError> {
    let mut kept = kept.kept();
    services.map(|service| kept.text(service, |service| rows::json(service).map(Into::into)).cloned()).collect()
}

/// The service that a text says.
pub(super) fn read(kept: &Services<Arc<str>>, id: ServiceId, text: &str) -> Result<Arc<Service>, StoreError> {
    kept.kept().service(id, text.as_bytes(), || {
        let service: Service = serde_json::from_str(text).map_err(bad_row)?;
        if service.id != id {
            return Err(bad_row(format_args!("a probe of service {id} with the settings of {}", service.id)));
        }
        Ok((service, text.into()))
    })
}
