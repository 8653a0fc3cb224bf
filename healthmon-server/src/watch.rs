//! `healthmon watch`: services from the command line.

use std::num::NonZeroUsize;

use healthmon_core::{
    ports::{ServiceFilter, StoreError},
    runtime::Handle,
    service::{
        FieldErrors, Interval, InvalidInterval, InvalidName, InvalidTarget, Label, Regions, ServiceSettings, Target,
    },
};

use crate::cli::WatchArgs;

/// How many services are looked at at a time.
const PAGE: NonZeroUsize = NonZeroUsize::new(500).unwrap();

/// What is wrong with what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// A URL.
    #[error("{url:?}: {source}")]
    Url {
        /// As it was written.
        url: String,
        /// What is wrong.
        source: InvalidTarget,
    },
    /// No prober takes it.
    #[error("{url:?}: {error}")]
    Refused {
        /// As it was understood.
        url: String,
        /// What is wrong.
        error: FieldErrors,
    },
    /// The URL makes no name.
    #[error("{0}")]
    Name(#[from] InvalidName),
    /// The interval.
    #[error("--interval {0}")]
    Interval(#[from] InvalidInterval),
}

/// Services to be registered unless their URL already is.
#[derive(Debug)]
pub struct Wanted(Vec<ServiceSettings>);

/// What these arguments ask for.
///
/// # Errors
/// When a URL or the interval is wrong.
pub fn wanted(args: &WatchArgs) -> Result<Wanted, WatchError> {
    let interval = Interval::new(args.interval)?;
    let each = args.urls.iter().map(|url| {
        let target: Target = url.parse().map_err(|source| WatchError::Url { url: url.clone(), source })?;
        let address = target.as_str().split_once("://").map_or(target.as_str(), |(_, rest)| rest);
        let name: String = address.trim_end_matches('/').chars().take(200).collect();
        Ok(ServiceSettings::new(Label::new(&name)?, target, interval))
    });
    each.collect::<Result<_, _>>().map(Wanted)
}

impl Wanted {
    /// The same, probed from these regions.
    #[must_use]
    pub fn from_regions(mut self, regions: &Regions) -> Self {
        self.0.iter_mut().for_each(|settings| settings.regions = regions.clone());
        self
    }

    /// Checks that the monitor has what it needs to watch all of them.
    ///
    /// # Errors
    /// The first that cannot be watched.
    pub fn check(&self, handle: &Handle) -> Result<(), WatchError> {
        for settings in &self.0 {
            handle.check(settings).map_err(|error| WatchError::Refused { url: settings.url.to_string(), error })?;
        }
        Ok(())
    }

    /// Registers those whose URL is not registered; what cannot be is logged, and so is that of which
    /// this cannot be found out: it may be there, and is not to be there twice.
    pub async fn register(self, handle: &Handle) {
        for settings in self.0 {
            let registered = match is_registered(handle, &settings.url).await {
                Ok(true) => {
                    tracing::info!(url = %settings.url, "is registered already");
                    continue;
                }
                Ok(false) => handle.register(settings.clone()).await.map(|_| ()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = registered {
                tracing::error!(url = %settings.url, %error, "cannot watch this");
            }
        }
    }
}

/// Whether a service has this URL: among all that have it within theirs.
async fn is_registered(handle: &Handle, url: &Target) -> Result<bool, StoreError> {
    let filter = ServiceFilter { text: Some(url.to_string()), ..ServiceFilter::default() };
    let mut after = None;
    loop {
        let page = handle.services(&filter, after, PAGE).await?;
        if page.iter().any(|view| view.service.settings.url == *url) {
            return Ok(true);
        }
        match page.last() {
            Some(last) if page.len() == PAGE.get() => after = Some(last.service.id),
            _ => return Ok(false),
        }
    }
}
