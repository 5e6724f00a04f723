//! Who sent a request: the other end of the connection, or what trusted proxies say.

use std::net::IpAddr;

use crate::fields::Fields;

/// Who sent the request and how, as far as it can be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    /// The address at the other end of the connection.
    pub(super) peer: IpAddr,
    /// The sender's address: the peer, or what trusted proxies say.
    pub(super) client: IpAddr,
    /// The peer is a trusted proxy.
    pub(super) peer_trusted: bool,
    /// The request came over TLS.
    pub(super) tls: bool,
}

impl Origin {
    /// Reads `X-Forwarded-For` from the right, as long as the hops are trusted.
    pub(super) fn new(peer: IpAddr, tls: bool, fields: &Fields, trusted: &[ipnet::IpNet]) -> Self {
        let peer = peer.to_canonical();
        let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
        let peer_trusted = is_trusted(&peer);
        let mut client = peer;
        if peer_trusted {
            let lists: Vec<&[u8]> = fields.values("x-forwarded-for").collect();
            let hops = lists
                .iter()
                .rev()
                .flat_map(|list| list.rsplit(|byte| *byte == b','));
            for hop in hops {
                let Some(address) = parse_hop(hop) else { break };
                client = address;
                if !is_trusted(&address) {
                    break;
                }
            }
        }
        Self {
            peer,
            client,
            peer_trusted,
            tls,
        }
    }
}

/// An address, perhaps with a port or in brackets.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse()
        .or_else(|_| text.parse::<std::net::SocketAddr>().map(|address| address.ip()))
        .ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right() {
        let trusted: [ipnet::IpNet; 1] = ["10.0.0.0/8".parse().unwrap()];
        for (name, peer, list, client) in [
            (
                "untrusted peer: its claims do not count",
                [9, 9, 9, 9],
                "1.1.1.1",
                "9.9.9.9",
            ),
            ("one hop", [10, 0, 0, 1], "1.1.1.1", "1.1.1.1"),
            (
                "spoofed left part",
                [10, 0, 0, 1],
                "6.6.6.6, 1.1.1.1, 10.0.0.2",
                "1.1.1.1",
            ),
            ("all trusted", [10, 0, 0, 1], "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("with a port", [10, 0, 0, 1], "1.1.1.1:99", "1.1.1.1"),
            ("IPv6 in brackets", [10, 0, 0, 1], "[2001:db8::1]", "2001:db8::1"),
            (
                "garbage stops the walk",
                [10, 0, 0, 1],
                "1.1.1.1, unknown, 10.0.0.2",
                "10.0.0.2",
            ),
        ] {
            let fields = Fields::from_pairs([(&b"X-Forwarded-For"[..], list.as_bytes())]);
            let origin = Origin::new(peer.into(), false, &fields, &trusted);
            assert_eq!(origin.client.to_string(), client, "{name}");
        }
    }
}
