//! What comes of pings: an input is the version and a packet.

use super::packet::{HEAD, Version, meaning, quoted, reply, request, without_ipv4_header};

pub(crate) fn target(data: &[u8]) {
    let Some((first, packet)) = data.split_first() else { return };
    let version = if first & 1 == 0 { Version::V4 } else { Version::V6 };
    if let Some(inner) = without_ipv4_header(packet) {
        assert!(packet.ends_with(inner) && packet.len() - inner.len() >= 20, "more than a header was left out");
    }
    let read = [reply(version, packet), quoted(version, packet)];
    assert!(read.iter().flatten().count() <= 1, "nothing is both a question and an answer");
    for echo in read.iter().flatten() {
        assert_eq!(echo.payload, &packet[HEAD..]);
        // What is sent is read as what was sent, and never taken for its own answer.
        let sent = request(version, echo.ident, echo.sequence, echo.payload);
        assert_eq!(quoted(version, &sent).as_ref().map(|echo| echo.payload), Some(echo.payload));
        assert_eq!(reply(version, &sent), None);
    }
    if let [kind, code, ..] = *packet {
        let words = meaning(version, kind, code);
        assert!(words.is_ascii() && !words.is_empty());
    }
}
