//! One probe under way.

use std::sync::LazyLock;

use healthmon_core::probe::{FailReason, Held};
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName},
};
use tokio::time::Instant;
use url::Url;

use super::{
    HttpProber,
    auth::{Client, Grant, Source},
    body,
    expect::Redact,
    link::{self, Link},
    pool::Pool,
    redirect::{self, Hop},
    request::Sent,
    route::Whose,
    settings::{Reuse, Settings},
};
use crate::{
    net::{Progress, Stage, attempt::Fault},
    secrets::Redactor,
};
use healthmon_core::probe::Probe;

/// From the first request to the last answer's body.
pub(super) struct Exchange<'a> {
    prober: &'a HttpProber,
    probe: &'a Probe,
    settings: &'a Settings,
    /// The target, if it has been taken apart before.
    url: Option<&'a Url>,
    sent: Sent<'a>,
    deadline: Instant,
}

impl<'a> Exchange<'a> {
    /// With the secrets that the settings refer to.
    pub(super) fn new(
        prober: &'a HttpProber,
        probe: &'a Probe,
        settings: &'a Settings,
        url: Option<&'a Url>,
        deadline: Instant,
    ) -> Result<Self, Fault> {
        let sent = Sent::by(settings, &prober.connector.secrets)?;
        Ok(Self { prober, probe, settings, url, sent, deadline })
    }

    pub(super) async fn run(mut self, progress: &mut Progress) -> Result<(), Fault> {
        self.hide_in(progress);
        let ended = self.go(progress).await;
        ended.map_err(|fault| fault.redacted(&self.redactor()))
    }

    /// From now on facts are noted without the secrets that there are so far.
    fn hide_in(&self, progress: &mut Progress) {
        if progress.is_inspected() {
            progress.redactor = Some(self.redactor().into());
        }
    }

    /// What takes our secrets out of what is told of the answer: some targets repeat them.
    fn redactor(&self) -> Redactor {
        let mut redactor = Redactor::default();
        self.sent.hide(self.settings, &mut redactor);
        let secrets = &self.prober.connector.secrets;
        // One that cannot be had was not sent.
        if let Some(Ok(revealed)) = self.settings.auth.as_ref().map(|auth| secrets.reveal(auth.secret())) {
            redactor.hide(revealed.expose());
        }
        if let Some(Ok(Some(value))) = self.settings.route.proxy().map(|proxy| proxy.authorization(secrets)) {
            redactor.hide_authorization(&String::from_utf8_lossy(value.as_bytes()));
        }
        if let Some(host) = self.probe.service.settings.url.url().host() {
            redactor.spare(host);
        }
        redactor
    }

    async fn go(&mut self, progress: &mut Progress) -> Result<(), Fault> {
        let url = self.url.cloned().unwrap_or_else(|| self.probe.service.settings.url.url());
        let mut hop = Hop::first(url, self.settings.method.clone(), self.sent.body.clone());
        let client = self.settings.auth.as_ref().and_then(|auth| auth.client());
        let mut grant = match client {
            Some(client) => Some(Box::pin(self.authorize(client, None, progress)).await?),
            None => None,
        };
        loop {
            let answered = self.exchange(&hop, progress).await;
            let (link, response) = answered.map_err(|fault| hop.while_redirected(fault))?;
            let status = response.status();
            progress.code = Some(status.as_u16());
            if self.settings.expect.status.contains(status.as_u16()) {
                return self.judge(&hop, link, response, progress).await;
            }
            if redirect::is_redirect(status) && self.settings.redirects > 0 {
                hop.follow(&response, self.settings)?;
                continue;
            }
            if status == StatusCode::UNAUTHORIZED
                && hop.whose() == Whose::Own
                && let Some(client) = client
                && let Some(old) = grant.take_if(|grant| grant.source == Source::Kept)
            {
                // It may have been withdrawn: once more, with another one.
                drop(link);
                grant = Some(Box::pin(self.authorize(client, Some(&old), progress)).await?);
                continue;
            }
            return self.judge(&hop, link, response, progress).await;
        }
    }

    /// Gets a token to show from now on.
    async fn authorize(
        &mut self,
        client: &Client,
        refused: Option<&Grant>,
        progress: &mut Progress,
    ) -> Result<Grant, Fault> {
        let HttpProber { connector, tokens, .. } = self.prober;
        let route = &self.settings.route;
        let mut grant = tokens.grant(client, refused, connector, route, self.deadline, progress).await?;
        let source = match grant.source {
            Source::Kept => "kept from an earlier probe",
            Source::Fetched => "fetched",
        };
        progress.learn("token", source);
        self.sent.former = self.sent.headers.to_mut().insert(header::AUTHORIZATION, grant.header.clone());
        self.hide_in(progress);
        if refused.is_some() {
            // One that others fetched meanwhile is as good as one of our own; it is not tried again.
            grant.source = Source::Fetched;
        }
        Ok(grant)
    }

    async fn exchange(&self, hop: &Hop, progress: &mut Progress) -> Result<(Box<Link>, Response<Incoming>), Fault> {
        let request = hop.request(self.settings, &self.sent)?;
        if let Some(mut link) = self.pooled(hop) {
            let earlier = progress.certificate_expires;
            progress.certificate(link.certificate_expires);
            match link.exchange(request.clone(), hop.url(), progress).await {
                Ok(response) => return Ok((link, response)),
                // It was closed while it lay idle: once more, over a fresh one, whose certificate counts.
                Err(error) if error.is_stale(hop.method()) => progress.certificate_expires = earlier,
                Err(error) => return Err(error.into()),
            }
        }
        let connector = &self.prober.connector;
        let mut link = connector.open(hop.url(), &self.settings.route, hop.whose(), self.deadline, progress).await?;
        let response = link.exchange(request, hop.url(), progress).await?;
        Ok((link, response))
    }

    fn pooled(&self, hop: &Hop) -> Option<Box<Link>> {
        let pool = self.pool_for(hop)?;
        pool.take(self.probe.service.id, hop.url(), &self.settings.route)
    }

    /// Only connections to the target itself are kept.
    fn pool_for(&self, hop: &Hop) -> Option<&Pool> {
        match self.settings.reuse {
            Reuse::KeepAlive if hop.is_first() => self.prober.pool.as_ref(),
            _ => None,
        }
    }

    /// Judges an answer that is the last one, whatever its status.
    async fn judge(
        &self,
        hop: &Hop,
        mut link: Box<Link>,
        response: Response<Incoming>,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        let expect = &self.settings.expect;
        // Made only if there is something to tell: most answers are as expected.
        let redactor = LazyLock::new(|| self.redactor());
        let redact = |text: &str| redactor.redact(text);
        if progress.is_inspected() {
            learn(hop, &response, &redact, progress);
        }
        expect.judge_status(response.status(), self.reason_of(response.status(), hop), progress);
        expect.judge_head(response.version(), response.headers(), hop.url(), &redact, progress);
        if progress.assertions.have_failed() && expect.of_a_body().next().is_none() {
            // Nothing that stands in the body would change what comes of it.
            return Ok(());
        }
        progress.stage = Stage::Body;
        let seen = match body::read(&mut link, response, expect.wanted()).await {
            Ok(seen) => seen,
            // What failed before says more, and this is told with it.
            Err(fault) if progress.assertions.have_failed() => {
                let texts = || ("to be read".to_owned(), redact(&fault.detail));
                progress.assertions.note("body", Held::Failed, FailReason::Protocol, texts);
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        if progress.is_inspected() {
            let more = if seen.end == body::End::Capped { "more than " } else { "" };
            progress.learn("body", format_args!("{more}{} bytes", seen.size));
        }
        expect.judge_body(&seen, &redact, progress);
        if let (body::End::Reached, Some(pool)) = (seen.end, self.pool_for(hop)) {
            pool.put(self.probe.service.id, hop.url(), &self.settings.route, link);
        }
        Ok(())
    }

    /// What a status means that was not expected.
    fn reason_of(&self, status: StatusCode, hop: &Hop) -> FailReason {
        match status {
            StatusCode::UNAUTHORIZED if self.settings.auth.is_some() && hop.whose() == Whose::Own => {
                FailReason::Authentication
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if self.settings.route.proxy().is_some() => FailReason::Proxy,
            _ => FailReason::Status,
        }
    }
}

/// What a person wants to know of an answer's head.
fn learn(hop: &Hop, response: &Response<Incoming>, redact: Redact<'_>, progress: &mut Progress) {
    progress.learn("http version", link::version(response.version()));
    progress.learn("final url", redact(redirect::place(hop.url())));
    progress.learn("redirects", hop.redirects());
    let text = |name: HeaderName| {
        let value = response.headers().get(name)?;
        // Taken out before it is cut, so that no piece of a secret is left at the end.
        Some(redact(&String::from_utf8_lossy(value.as_bytes())).chars().take(128).collect::<String>())
    };
    for (what, name) in [("content type", header::CONTENT_TYPE), ("server", header::SERVER)] {
        if let Some(value) = text(name) {
            progress.learn(what, value);
        }
    }
}
