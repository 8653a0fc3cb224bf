//! Services on their way through the queue: each is written and read once for as long as it is the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use healthmon_core::{id::ServiceId, ports::StoreError, service::Service};

use super::super::{error::bad_row, rows};

/// How many bytes of services are kept, as text and made of it.
const KEPT: usize = 32 << 20;

/// Services and their texts, up to a number of bytes.
#[derive(Default)]
pub(super) struct Services(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    by_id: HashMap<ServiceId, (Arc<Service>, Arc<str>)>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, service: &Arc<Service>, text: &Arc<str>) {
        // All at once, and rarely: what is needed comes back with its next probe.
        if self.bytes + text.len() > KEPT {
            self.by_id.clear();
            self.bytes = 0;
        }
        // One that is replaced is counted twice until then.
        self.bytes += text.len();
        self.by_id.insert(service.id, (Arc::clone(service), Arc::clone(text)));
    }
}

impl Services {
    /// The text of each.
    pub(super) fn write<'a>(
        &self,
        services: impl Iterator<Item = &'a Arc<Service>>,
    ) -> Result<Vec<Arc<str>>, StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |service: &'a Arc<Service>| match kept.by_id.get(&service.id) {
            Some((known, text)) if Arc::ptr_eq(known, service) || known == service => Ok(Arc::clone(text)),
            _ => {
                let text: Arc<str> = rows::json(&**service)?.into();
                kept.keep(service, &text);
                Ok(text)
            }
        };
        services.map(write).collect()
    }

    /// The service that a text says.
    pub(super) fn read(&self, id: ServiceId, text: &str) -> Result<Arc<Service>, StoreError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((service, known)) = kept.by_id.get(&id)
            && **known == *text
        {
            return Ok(Arc::clone(service));
        }
        let service: Arc<Service> = Arc::new(serde_json::from_str(text).map_err(bad_row)?);
        if service.id != id {
            return Err(bad_row(format_args!("a probe of service {id} with the settings of {}", service.id)));
        }
        kept.keep(&service, &text.into());
        Ok(service)
    }
}
