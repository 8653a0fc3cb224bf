//! Happy Eyeballs (RFC 8305): the addresses of one name race each other.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use healthmon_core::probe::Outcome;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{DialError, Dialer, Family, connect};

/// How long an attempt has the field to itself before the next address is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// At most [`Dialer::ADDRESSES`] of them, the families taking turns in the order in which they came.
pub(super) fn interleaved(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut other) = (Vec::new(), Vec::new());
    for address in found {
        let same = first.first().is_none_or(|known: &SocketAddr| known.is_ipv4() == address.is_ipv4());
        let family = if same { &mut first } else { &mut other };
        if family.len() < Dialer::ADDRESSES {
            family.push(address);
        }
    }
    if other.is_empty() {
        return first;
    }
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut mixed = Vec::with_capacity(Dialer::ADDRESSES);
    while mixed.len() < Dialer::ADDRESSES {
        let turn = [first.next(), other.next()];
        if turn == [None, None] {
            break;
        }
        mixed.extend(turn.into_iter().flatten());
    }
    mixed.truncate(Dialer::ADDRESSES);
    mixed
}

/// The first connection that any of `addresses` takes, which are not none. An address is tried when
/// the one before it has failed, or has not answered for a while; with little time left until
/// `deadline`, that while is shorter, so that each address gets its turn.
pub(super) async fn connect_first(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
    if let [only] = addresses {
        return connect(*only).await;
    }
    let parts = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let stagger = STAGGER.min(deadline.saturating_duration_since(Instant::now()) / parts);
    let mut waiting = addresses.iter().copied();
    // Dropped with what is still in it: the losers' sockets are closed when there is a winner.
    let mut attempts = FuturesUnordered::new();
    let mut seen: Option<DialError> = None;
    loop {
        attempts.extend(waiting.next().map(connect));
        let ended = if waiting.len() == 0 {
            attempts.next().await
        } else {
            match timeout_at(Instant::now() + stagger, attempts.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            // One address failed by its own fault: that says more than a trouble of ours with the next.
            Some(Err(error)) if seen.is_none() || matches!(error.outcome(), Outcome::Fail(_)) => seen = Some(error),
            Some(Err(_)) | None => {}
        }
        if attempts.is_empty() && waiting.len() == 0 {
            return Err(seen.unwrap_or_else(|| super::no_address_of(Family::Any, "the name")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect("an address"), 80)
    }

    fn mixed(found: &[&str]) -> Vec<String> {
        interleaved(found.iter().map(|text| at(text))).iter().map(|address| address.ip().to_string()).collect()
    }

    #[test]
    fn families_take_turns_in_the_order_in_which_they_came() {
        assert_eq!(mixed(&["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"]), ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]);
        assert_eq!(mixed(&["1.1.1.1", "::1", "1.1.1.2"]), ["1.1.1.1", "::1", "1.1.1.2"]);
        assert_eq!(mixed(&["1.1.1.1", "1.1.1.2"]), ["1.1.1.1", "1.1.1.2"]);
        assert!(mixed(&[]).is_empty());
    }

    #[test]
    fn of_a_thousand_addresses_eight_are_tried_and_no_family_crowds_the_other_out() {
        let many = (0..1_000).map(|n| SocketAddr::new(std::net::Ipv6Addr::from(n + 1).into(), 80));
        let all = interleaved(many.chain([at("1.1.1.1")]));
        assert_eq!((all.len(), all[1]), (Dialer::ADDRESSES, at("1.1.1.1")));
    }
}
