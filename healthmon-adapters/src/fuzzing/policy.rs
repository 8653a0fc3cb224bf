//! The address policy against one that looks at bits alone, and against a dialer whose resolver
//! answers anything.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use tokio::time::{Duration, Instant};
use url::Host;

use super::{Names, run};
use crate::net::{AddressPolicy, DialError, Dialer, Loopback, Progress};

/// What an input says: whether loopback is allowed, some networks, and addresses.
struct Input {
    loopback: Loopback,
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    addresses: Vec<IpAddr>,
}

impl Input {
    fn read(data: &[u8]) -> Option<Self> {
        let (head, mut rest) = data.split_first_chunk::<3>()?;
        let loopback = if head[0] & 1 == 0 { Loopback::Refused } else { Loopback::Allowed };
        let mut network = || {
            let (prefix, behind) = rest.split_first()?;
            rest = behind;
            let address = address(&mut rest)?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, prefix % (longest + 1)).ok()
        };
        let allowed = std::iter::from_fn(&mut network).take(usize::from(head[1] % 4)).collect();
        let denied = std::iter::from_fn(&mut network).take(usize::from(head[2] % 4)).collect();
        let addresses: Vec<_> = std::iter::from_fn(|| address(&mut rest)).take(40).collect();
        Some(Self { loopback, allowed, denied, addresses })
    }

    fn policy(&self) -> AddressPolicy {
        let policy = self.allowed.iter().fold(AddressPolicy::new(self.loopback), |all, net| all.allow(*net));
        self.denied.iter().fold(policy, |all, net| all.deny(*net))
    }

    /// Whether an address may be dialled, and so all IPv4 addresses within it.
    fn allows(&self, address: IpAddr) -> bool {
        let within = match address {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(address) => within(address.octets()),
        };
        within.into_iter().map(IpAddr::V4).chain([address]).all(|one| self.allows_as_written(one))
    }

    fn allows_as_written(&self, address: IpAddr) -> bool {
        let holds = |net: &&IpNet| holds(**net, address);
        let most = |nets: &[IpNet]| nets.iter().filter(holds).map(IpNet::prefix_len).max();
        // The narrowest decides; of equals the denied one, then the allowed one.
        let special = special(address, self.loopback).map(|prefix| (prefix, 0));
        let allowed = most(&self.allowed).map(|prefix| (prefix, 1));
        let denied = most(&self.denied).map(|prefix| (prefix, 2));
        special.max(allowed).max(denied).is_none_or(|(_, rank)| rank == 1)
    }
}

/// Takes four bytes or sixteen for an address.
fn address(rest: &mut &[u8]) -> Option<IpAddr> {
    let (kind, behind) = rest.split_first()?;
    let (address, behind) = if kind & 1 == 0 {
        let (octets, behind) = behind.split_first_chunk::<4>()?;
        (IpAddr::from(*octets), behind)
    } else {
        let (octets, behind) = behind.split_first_chunk::<16>()?;
        (IpAddr::from(*octets), behind)
    };
    *rest = behind;
    Some(address)
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn holds(net: IpNet, address: IpAddr) -> bool {
    let ((net_bits, width), (bits, of)) = (bits(net.addr()), bits(address));
    let shift = width - u32::from(net.prefix_len());
    width == of && net_bits.checked_shr(shift).unwrap_or(0) == bits.checked_shr(shift).unwrap_or(0)
}

/// The IPv4 addresses in an IPv6 one, by where they stand in it.
fn within(octets: [u8; 16]) -> Vec<Ipv4Addr> {
    let at = |from: usize| Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3]);
    let begins = |with: &[u8]| octets.starts_with(with);
    if Ipv6Addr::from(octets).is_unspecified() || Ipv6Addr::from(octets).is_loopback() {
        return Vec::new();
    }
    if begins(&[0x20, 0x02]) {
        return vec![at(2)];
    }
    if begins(&[0x20, 0x01, 0, 0]) {
        return vec![at(4), Ipv4Addr::from(at(12).octets().map(|octet| !octet))];
    }
    let translated = begins(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mapped = begins(&[0; 10]) && matches!(octets[10..12], [0, 0] | [0xff, 0xff]);
    let siit = begins(&[0; 8]) && octets[8..12] == [0xff, 0xff, 0, 0];
    let isatap = matches!(octets[8], 0 | 2) && octets[9..12] == [0, 0x5e, 0xfe];
    if translated || mapped || siit || isatap { vec![at(12)] } else { Vec::new() }
}

/// How narrow the network is for whose sake an address is special.
fn special(address: IpAddr, loopback: Loopback) -> Option<u8> {
    let refused = loopback == Loopback::Refused;
    match address {
        IpAddr::V4(address) => match address.octets() {
            [169, 254, 169, 254] | [169, 254, 170, 2 | 23] | [100, 100, 100, 200] => Some(32),
            [168, 63, 129, 16] | [192, 0, 0, 192] => Some(32),
            _ if address.is_broadcast() => Some(32),
            _ if address.is_link_local() => Some(16),
            _ if address.is_loopback() => refused.then_some(8),
            [0, ..] => Some(8),
            [224..=255, ..] => Some(4),
            _ => None,
        },
        IpAddr::V6(address) => match address.octets() {
            _ if address.is_unspecified() => Some(128),
            _ if address.is_loopback() => refused.then_some(128),
            [0xfd, 0x20, 0, 0xce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54] => Some(128),
            [0xfd, 0, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42] => Some(128),
            [0xfd, 0, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0, 0, 0xa9, 0xfe, 0xa9, 0xfe] => Some(128),
            [0xfd, 0, 0xa9, 0xfe, 0xa9, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] => Some(128),
            [0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0] => Some(128),
            [0xfd, 0, 0x0e, 0xc2, ..] => Some(32),
            [0, 0x64, 0xff, 0x9b, 0, 1, ..] => Some(48),
            _ if address.is_unicast_link_local() => Some(10),
            _ if address.is_multicast() => Some(8),
            _ => None,
        },
    }
}

pub(super) fn target(data: &[u8]) {
    let Some(input) = Input::read(data) else { return };
    let policy = input.policy();
    for address in &input.addresses {
        let judged = policy.judge(*address);
        assert_eq!(judged.is_ok(), input.allows(*address), "{address}: {judged:?} by {policy:?}");
        if let Err(refusal) = judged {
            assert_eq!(refusal.address, *address);
            assert!(!input.allows_as_written(refusal.judged_as), "{refusal:?}");
        }
    }
    run(to_ask(&input));
    run(to_dial(&input));
}

/// Of a name's addresses those may be asked, in their order, that the policy allows.
async fn to_ask(input: &Input) {
    let names = Names::default();
    *names.answer.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Ok(input.addresses.clone()));
    let dialer = Dialer::new(input.policy()).with_resolver(Arc::new(names));
    let found = dialer.addresses(Host::Domain("name.test"), 53, &mut Progress::default()).await;
    let allowed = input.addresses.iter().filter(|address| input.allows(**address));
    let expected: Vec<SocketAddr> =
        allowed.map(|address| SocketAddr::new(address.to_canonical(), 53)).take(Dialer::ADDRESSES).collect();
    match found {
        Ok(found) => assert_eq!(found, expected),
        Err(DialError::Refused(refusal)) => {
            assert!(expected.is_empty() && input.addresses.contains(&refusal.address), "{refusal:?}");
        }
        Err(error) => assert!(input.addresses.is_empty(), "{error}"),
    }
}

/// The same of connections, with a policy that lets nothing but loopback be dialled.
async fn to_dial(input: &Input) {
    let net = |text: &str| -> IpNet { text.parse().unwrap_or_else(|_| unreachable!("a network")) };
    let is_inside =
        |net: &&IpNet| net.addr().is_loopback() && net.prefix_len() > if net.addr().is_ipv4() { 8 } else { 127 };
    let allowed: Vec<IpNet> = input.allowed.iter().filter(is_inside).copied().collect();
    let denied = input.denied.iter().copied().chain([net("0.0.0.0/0"), net("::/0")]).collect();
    let input = Input { loopback: Loopback::Refused, allowed, denied, addresses: input.addresses.clone() };
    let names = Names::default();
    *names.answer.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Ok(input.addresses.clone()));
    let dialer = Dialer::new(input.policy()).with_resolver(Arc::new(names));
    let deadline = Instant::now() + Duration::from_secs(1);
    // The port of nobody, these days.
    let dialled = dialer.dial(Host::Domain("name.test"), 9, deadline, &mut Progress::default()).await;
    let peer = match dialled {
        Ok(stream) => stream.peer_addr().ok(),
        Err(DialError::Connect { address, .. }) => Some(address),
        Err(DialError::Refused(_)) => {
            assert!(!input.addresses.iter().any(|address| input.allows(*address)), "refused for nothing");
            None
        }
        Err(error) => {
            assert!(input.addresses.is_empty(), "{error}");
            None
        }
    };
    if let Some(peer) = peer {
        let mut allowed = input.addresses.iter().filter(|address| input.allows(**address));
        assert!(allowed.any(|address| address.to_canonical() == peer.ip()), "{peer} is not among what is allowed");
        assert!(peer.ip().is_loopback(), "{peer}");
    }
}
