//! From hop to hop, by hand.

use bytes::Bytes;
use healthmon_core::probe::FailReason;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{self, HeaderValue},
};
use url::{Position, Url};

use super::{
    request::{self, Sent},
    route::Whose,
    settings::{Reuse, Settings},
};
use crate::net::attempt::Fault;

/// Whether a status sends the client elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// One request of a chain of redirects. Not `Debug`: a body may be a secret.
pub(super) struct Hop {
    url: Url,
    method: Method,
    body: Bytes,
    /// Whether the chain has ever left the target's own scheme, host and port.
    whose: Whose,
    /// What was asked before.
    visited: Vec<(Method, Url)>,
}

impl Hop {
    pub(super) fn first(mut url: Url, method: Method, body: Bytes) -> Self {
        url.set_fragment(None);
        Self { url, method, body, whose: Whose::Own, visited: Vec::new() }
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    pub(super) const fn method(&self) -> &Method {
        &self.method
    }

    pub(super) const fn is_first(&self) -> bool {
        self.visited.is_empty()
    }

    /// How many redirects led here.
    pub(super) const fn redirects(&self) -> usize {
        self.visited.len()
    }

    pub(super) const fn whose(&self) -> Whose {
        self.whose
    }

    pub(super) fn request(&self, settings: &Settings, sent: &Sent<'_>) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = request::plain(self.method.clone(), &self.url, self.body.clone())?;
        let headers = request.headers_mut();
        headers.reserve(3 + sent.headers.len());
        if settings.reuse == Reuse::Fresh || !self.is_first() {
            headers.insert(header::CONNECTION, request::CLOSE);
        }
        if settings.expect.wanted().may_be_encoded() {
            headers.insert(header::ACCEPT_ENCODING, request::DECODABLE);
        }
        if self.whose == Whose::Own {
            for (name, value) in &*sent.headers {
                headers.insert(name, value.clone());
            }
        }
        Ok(request)
    }

    /// Goes where `response` sends us.
    pub(super) fn follow<B>(&mut self, response: &Response<B>, settings: &Settings) -> Result<(), Fault> {
        let fault = |detail: String| Err(Fault::fail(FailReason::Redirect, detail));
        let location = match response.headers().get(header::LOCATION).map(HeaderValue::to_str) {
            Some(Ok(location)) => location,
            Some(Err(_)) => return fault("redirect to a location that is not text".to_owned()),
            None => return fault(format!("status {} without a location", response.status().as_u16())),
        };
        let Ok(mut next) = self.url.join(location) else {
            return fault("redirect to a location that is not a url".to_owned());
        };
        if !matches!(next.scheme(), "http" | "https") || next.host().is_none() {
            return fault(format!("redirect to a {:?} url, which is not followed", next.scheme()));
        }
        next.set_fragment(None);
        // Credentials in a location would be the target's own; they are not sent.
        if next.set_username("").is_err() || next.set_password(None).is_err() {
            return fault("redirect to a location that is not a url".to_owned());
        }
        if self.visited.len() >= usize::from(settings.redirects) {
            return fault(format!("more than {} redirects", settings.redirects));
        }
        let method = self.next_method(response.status());
        let body = if method == self.method { self.body.clone() } else { Bytes::new() };
        let foreign = next.origin() != self.url.origin();
        if foreign && !body.is_empty() {
            return fault(format!("redirect to {}, where the body is not sent on to", place(&next)));
        }
        self.visited.push((std::mem::replace(&mut self.method, method), std::mem::replace(&mut self.url, next)));
        self.body = body;
        if foreign {
            self.whose = Whose::Foreign;
        }
        if self.visited.iter().any(|(method, url)| *method == self.method && *url == self.url) {
            return fault(format!("redirects go in circles at {}", place(&self.url)));
        }
        Ok(())
    }

    fn next_method(&self, status: StatusCode) -> Method {
        match status.as_u16() {
            303 if self.method != Method::HEAD => Method::GET,
            301 | 302 if self.method == Method::POST => Method::GET,
            _ => self.method.clone(),
        }
    }

    /// Says of a fault at a later hop where the redirect had led.
    pub(super) fn while_redirected(&self, mut fault: Fault) -> Fault {
        if !self.is_first() {
            fault.detail = format!("redirected to {}: {}", place(&self.url), fault.detail);
        }
        fault
    }
}

/// A URL as far as it may be shown: its path and query may hold secrets of the target's making.
pub(super) fn place(url: &Url) -> &str {
    &url[..Position::AfterPort]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(method: Method, url: &str) -> Hop {
        Hop::first(url.parse().expect("a url"), method, Bytes::new())
    }

    fn response(status: u16, location: &str) -> Response<()> {
        let builder = Response::builder().status(status).header(header::LOCATION, location);
        builder.body(()).expect("a response")
    }

    #[test]
    fn post_becomes_get_at_301_302_and_303_and_stays_at_307_and_308() {
        let cases =
            [(301, Method::GET), (302, Method::GET), (303, Method::GET), (307, Method::POST), (308, Method::POST)];
        for (status, expected) in cases {
            let mut hop = hop(Method::POST, "http://a.test/");
            hop.follow(&response(status, "/next"), &Settings::default()).expect("followed");
            assert_eq!(*hop.method(), expected, "{status}");
        }
    }

    #[test]
    fn put_and_head_stay_what_they_are_but_put_becomes_get_at_303() {
        let cases =
            [(Method::PUT, 302, Method::PUT), (Method::PUT, 303, Method::GET), (Method::HEAD, 303, Method::HEAD)];
        for (method, status, expected) in cases {
            let mut hop = hop(method, "http://a.test/");
            hop.follow(&response(status, "/next"), &Settings::default()).expect("followed");
            assert_eq!(*hop.method(), expected, "{status}");
        }
    }

    #[test]
    fn the_fragment_and_credentials_of_a_location_are_not_sent() {
        let mut hop = hop(Method::GET, "http://a.test/#top");
        hop.follow(&response(302, "http://user:secret@b.test/x?y#z"), &Settings::default()).expect("followed");
        assert_eq!(hop.url().as_str(), "http://b.test/x?y");
    }
}
