//! A look, at the start, at how services' secrets are kept.

use std::num::NonZeroUsize;

use healthmon_adapters::secrets::SealingKeys;
use healthmon_core::{
    ports::{ServiceFilter, StoreError},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

use crate::http::secrets::{Kept, kept};

/// How many services are read at a time.
const PAGE: NonZeroUsize = NonZeroUsize::new(500).unwrap();

/// Warns of secrets that are not kept as they should be.
pub(crate) async fn warn(handle: Handle, keys: Option<SealingKeys>, closing: CancellationToken) {
    let counted = tokio::select! {
        () = closing.cancelled() => return,
        counted = count(&handle, keys.as_ref()) => counted,
    };
    match (counted, keys) {
        (Err(error), _) => tracing::warn!(%error, "could not look at how secrets are kept"),
        (Ok(Counts { plainly: 0, by_an_older_key: 0 }), _) => {}
        (Ok(Counts { plainly, .. }), None) if plainly > 0 => tracing::warn!(
            services = plainly,
            "services' secrets are kept in plain text; set HEALTHMON_SECRET_KEY, and PATCH them with {{}} to seal them"
        ),
        (Ok(Counts { plainly, by_an_older_key }), Some(_)) => tracing::warn!(
            plainly,
            by_an_older_key,
            "services' secrets are kept in plain text or sealed by an older key; PATCH them with {{}} to seal them anew"
        ),
        (Ok(_), None) => {}
    }
}

#[derive(Default)]
struct Counts {
    plainly: usize,
    by_an_older_key: usize,
}

async fn count(handle: &Handle, keys: Option<&SealingKeys>) -> Result<Counts, StoreError> {
    let (mut counts, mut after) = (Counts::default(), None);
    loop {
        let page = handle.services(&ServiceFilter::default(), after, PAGE).await?;
        for view in &page {
            match kept(handle, keys, &view.service.settings) {
                Kept::Well => {}
                Kept::ByAnOlderKey => counts.by_an_older_key += 1,
                Kept::Plainly => counts.plainly += 1,
            }
        }
        match page.last().filter(|_| page.len() == PAGE.get()) {
            Some(last) => after = Some(last.service.id),
            None => return Ok(counts),
        }
    }
}
