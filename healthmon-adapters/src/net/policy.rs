//! Which addresses may be dialled.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whether this machine itself may be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Loopback {
    /// It may: for a server that listens on loopback only, whose users are on this machine anyway.
    Allowed,
    /// It may not, unless a network of the allow list names the address.
    #[default]
    Refused,
}

/// The rule by which an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// It is in this network of the deny list.
    Denied(IpNet),
    /// It is this machine.
    Loopback,
    /// It is valid on one link only, where machines keep their management services.
    LinkLocal,
    /// It is known to serve a cloud's metadata and credentials.
    Metadata,
    /// It names no machine; the kernel takes it for this one.
    Unspecified,
    /// It names a group of machines.
    Multicast,
    /// It names all machines of a network.
    Broadcast,
    /// It is reserved.
    Reserved,
    /// It is translated to an IPv4 address that cannot be read from it.
    LocalTranslation,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Denied(network) => return write!(f, "{network} is denied"),
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Reserved => "reserved",
            Self::LocalTranslation => "local-use NAT64",
        };
        f.write_str(name)
    }
}

/// That an address may not be dialled, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The address.
    pub address: IpAddr,
    /// What it was judged as: the IPv4 address within it, if there is one.
    pub judged_as: IpAddr,
    /// The rule.
    pub rule: Rule,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the address policy refuses {}", self.address)?;
        if self.judged_as != self.address {
            write!(f, ", which holds {}", self.judged_as)?;
        }
        write!(f, ": {}", self.rule)
    }
}

/// Which addresses may be dialled.
///
/// Public and private addresses may, special ones may not until they are allowed by name. Of all
/// networks that hold an address (those of the two lists, and the special ones known here) the
/// most specific decides; among equals a denied network wins over an allowed one, and an allowed
/// one over what is known here. So allowing `0.0.0.0/0` opens no special address, and allowing
/// `169.254.0.0/16` opens link-local addresses but not the metadata service at `169.254.169.254`.
///
/// An IPv6 address that holds an IPv4 one (mapped, compatible, SIIT, NAT64, 6to4, Teredo, ISATAP)
/// is judged by that one too, and may be dialled only if both may.
///
/// ```
/// use healthmon_adapters::net::{AddressPolicy, Loopback};
/// let policy = AddressPolicy::new(Loopback::Refused).allow("127.0.0.2/32".parse()?);
/// assert!(policy.judge("10.0.0.1".parse()?).is_ok());
/// assert!(policy.judge("127.0.0.2".parse()?).is_ok());
/// assert!(policy.judge("::ffff:127.0.0.1".parse()?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    loopback: Loopback,
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, rule: Rule) -> (Ipv4Net, Rule) {
    (Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix), rule)
}

static SPECIAL_V4: [(Ipv4Net, Rule); 12] = [
    v4(0, 0, 0, 0, 8, Rule::Unspecified),
    v4(127, 0, 0, 0, 8, Rule::Loopback),
    v4(169, 254, 0, 0, 16, Rule::LinkLocal),
    v4(169, 254, 169, 254, 32, Rule::Metadata),
    v4(169, 254, 170, 2, 32, Rule::Metadata),
    v4(169, 254, 170, 23, 32, Rule::Metadata),
    v4(100, 100, 100, 200, 32, Rule::Metadata),
    v4(168, 63, 129, 16, 32, Rule::Metadata),
    v4(192, 0, 0, 192, 32, Rule::Metadata),
    v4(224, 0, 0, 0, 4, Rule::Multicast),
    v4(240, 0, 0, 0, 4, Rule::Reserved),
    v4(255, 255, 255, 255, 32, Rule::Broadcast),
];

const fn v6(segments: [u16; 8], prefix: u8, rule: Rule) -> (Ipv6Net, Rule) {
    let [a, b, c, d, e, f, g, h] = segments;
    (Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix), rule)
}

static SPECIAL_V6: [(Ipv6Net, Rule); 11] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Rule::Unspecified),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Rule::Loopback),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Rule::LinkLocal),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Rule::Multicast),
    v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0], 32, Rule::Metadata),
    v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254], 128, Rule::Metadata),
    v6([0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042], 128, Rule::Metadata),
    v6([0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, Rule::Metadata),
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128, Rule::Metadata),
    v6([0xfd00, 0x0100, 0, 0, 0, 0, 0x0100, 0x0200], 128, Rule::Metadata),
    v6([0x0064, 0xff9b, 0x0001, 0, 0, 0, 0, 0], 48, Rule::LocalTranslation),
];

impl AddressPolicy {
    /// The policy that refuses special addresses, and this machine's as said.
    pub const fn new(loopback: Loopback) -> Self {
        Self { loopback, allowed: Vec::new(), denied: Vec::new() }
    }

    /// This policy with one more allowed network.
    #[must_use]
    pub fn allow(mut self, network: IpNet) -> Self {
        self.allowed.push(network.trunc());
        self
    }

    /// This policy with one more denied network.
    #[must_use]
    pub fn deny(mut self, network: IpNet) -> Self {
        self.denied.push(network.trunc());
        self
    }

    /// Whether `address` may be dialled.
    ///
    /// # Errors
    /// The rule by which it may not.
    pub fn judge(&self, address: IpAddr) -> Result<(), Refusal> {
        let one = |judged_as| match self.rule_against(judged_as) {
            Some(rule) => Err(Refusal { address, judged_as, rule }),
            None => Ok(()),
        };
        if let IpAddr::V6(v6) = address {
            for within in ipv4_within(v6).into_iter().flatten() {
                one(IpAddr::V4(within))?;
            }
        }
        one(address)
    }

    /// The rule that refuses `address`, which is taken as it is written.
    fn rule_against(&self, address: IpAddr) -> Option<Rule> {
        let special = match address {
            IpAddr::V4(address) => {
                narrowest(SPECIAL_V4.iter().filter(|(net, _)| net.contains(&address)), |(net, _)| net.prefix_len())
                    .map(|&(net, rule)| (net.prefix_len(), rule))
            }
            IpAddr::V6(address) => {
                narrowest(SPECIAL_V6.iter().filter(|(net, _)| net.contains(&address)), |(net, _)| net.prefix_len())
                    .map(|&(net, rule)| (net.prefix_len(), rule))
            }
        };
        let special = special.filter(|&(_, rule)| rule != Rule::Loopback || self.loopback == Loopback::Refused);
        let listed = |list: &[IpNet]| {
            narrowest(list.iter().filter(|net| net.contains(&address)), |net| net.prefix_len()).copied()
        };
        let denied = listed(&self.denied);
        let allowed = listed(&self.allowed).map(|net| net.prefix_len());
        match (denied, special) {
            (Some(net), _) if Some(net.prefix_len()) >= allowed && special.is_none_or(|s| s.0 <= net.prefix_len()) => {
                Some(Rule::Denied(net))
            }
            (_, Some((prefix, rule))) if Some(prefix) > allowed => Some(rule),
            _ => None,
        }
    }
}

fn narrowest<'a, T: 'a>(nets: impl Iterator<Item = &'a T>, prefix: impl Fn(&T) -> u8) -> Option<&'a T> {
    nets.max_by_key(|net| prefix(net))
}

/// The IPv4 addresses that packets to `address` may end up at.
fn ipv4_within(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let s = address.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let last = pair(s[6], s[7]);
    match s {
        // :: and ::1 are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // Compatible, mapped, and SIIT's translated form.
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => [Some(last), None],
        // NAT64's well-known prefix.
        [0x0064, 0xff9b, 0, 0, 0, 0, _, _] => [Some(last), None],
        // 6to4.
        [0x2002, high, low, ..] => [Some(pair(high, low)), None],
        // Teredo: the server, and the client with every bit inverted.
        [0x2001, 0, high, low, _, _, not_high, not_low] => [Some(pair(high, low)), Some(pair(!not_high, !not_low))],
        // ISATAP.
        [_, _, _, _, 0 | 0x0200, 0x5efe, _, _] => [Some(last), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruling(policy: &AddressPolicy, address: &str) -> Option<Rule> {
        policy.judge(address.parse().expect("an address")).err().map(|refusal| refusal.rule)
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn the_most_specific_network_decides() {
        let policy = AddressPolicy::new(Loopback::Refused)
            .deny(net("0.0.0.0/0"))
            .allow(net("10.0.0.0/8"))
            .deny(net("10.1.0.0/16"))
            .allow(net("10.1.2.3/32"));
        assert_eq!(ruling(&policy, "8.8.8.8"), Some(Rule::Denied(net("0.0.0.0/0"))));
        assert_eq!(ruling(&policy, "10.2.0.1"), None);
        assert_eq!(ruling(&policy, "10.1.0.1"), Some(Rule::Denied(net("10.1.0.0/16"))));
        assert_eq!(ruling(&policy, "10.1.2.3"), None);
    }

    #[test]
    fn among_equals_denied_wins_over_allowed_and_allowed_over_special() {
        let both = AddressPolicy::new(Loopback::Allowed).allow(net("10.0.0.0/8")).deny(net("10.0.0.0/8"));
        assert_eq!(ruling(&both, "10.0.0.1"), Some(Rule::Denied(net("10.0.0.0/8"))));
        let named = AddressPolicy::new(Loopback::Refused).allow(net("127.0.0.0/8"));
        assert_eq!(ruling(&named, "127.0.0.1"), None);
        assert_eq!(ruling(&named, "::ffff:127.0.0.1"), None);
    }

    #[test]
    fn a_wide_allowance_opens_no_special_address() {
        let wide = AddressPolicy::new(Loopback::Refused).allow(net("0.0.0.0/0")).allow(net("::/0"));
        assert_eq!(ruling(&wide, "169.254.1.1"), Some(Rule::LinkLocal));
        assert_eq!(ruling(&wide, "127.0.0.1"), Some(Rule::Loopback));
        assert_eq!(ruling(&wide, "fe80::1"), Some(Rule::LinkLocal));
        let link_local = wide.allow(net("169.254.0.0/16"));
        assert_eq!(ruling(&link_local, "169.254.1.1"), None);
        assert_eq!(ruling(&link_local, "169.254.169.254"), Some(Rule::Metadata));
        assert_eq!(ruling(&link_local.allow(net("169.254.169.254/32")), "169.254.169.254"), None);
    }

    #[test]
    fn a_denied_network_holds_in_every_form_of_its_addresses() {
        let policy = AddressPolicy::new(Loopback::Refused).deny(net("192.0.2.0/24"));
        let denied = Some(Rule::Denied(net("192.0.2.0/24")));
        let forms = ["192.0.2.1", "::ffff:192.0.2.1", "::192.0.2.1", "64:ff9b::c000:201", "2002:c000:201::1"];
        for form in forms {
            assert_eq!(ruling(&policy, form), denied, "{form}");
        }
    }

    #[test]
    fn a_refusal_says_the_address_what_it_holds_and_the_rule() {
        let policy = AddressPolicy::new(Loopback::Refused);
        let refusal = policy.judge("2002:7f00:1::".parse().expect("an address")).expect_err("loopback in 6to4");
        assert_eq!(refusal.to_string(), "the address policy refuses 2002:7f00:1::, which holds 127.0.0.1: loopback");
    }
}
