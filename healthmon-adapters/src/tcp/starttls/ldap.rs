//! LDAP's StartTLS, an extended operation (RFC 4511, section 4.14).

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{super::dialogue::broken, StartTls, injected, lines::first_byte, not_serving, refused};
use crate::net::{Progress, attempt::Fault};

/// Message 1, an ExtendedRequest whose name is 1.3.6.1.4.1.1466.20037.
const REQUEST: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
/// The longest answer, in bytes; it holds a code and two texts.
const ANSWER_LIMIT: usize = 8 * 1024;
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
const EXTENDED_RESPONSE: u8 = 0x78;

pub(super) async fn ask(stream: &mut TcpStream, progress: &mut Progress) -> Result<(), Fault> {
    stream.write_all(REQUEST).await.map_err(|error| broken(&error))?;
    let begun = Instant::now();
    let garbage = || StartTls::Ldap.broken("the answer");
    let mut seen = Vec::new();
    let (message, behind) = loop {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await.map_err(|error| broken(&error))?;
        first_byte(progress, begun, read);
        seen.extend_from_slice(&piece[..read]);
        match element(&seen) {
            Ok((SEQUENCE, message, behind)) => break (message, behind),
            Err(Cut::Short) if read > 0 && seen.len() < ANSWER_LIMIT && seen.first() == Some(&SEQUENCE) => {}
            _ => return Err(garbage()),
        }
    };
    let (id, code) = result(message).ok_or_else(garbage)?;
    progress.code = Some(code);
    match (id, code) {
        // Of no request: the peer is about to hang up, and says why.
        (0, code) => Err(not_serving(format_args!("it disconnects with result {code}"))),
        (1, 0) if behind.is_empty() => Ok(()),
        (1, 0) => Err(injected()),
        (1, code) => Err(refused(format_args!("its result is {code}"))),
        _ => Err(garbage()),
    }
}

/// The message's id and the result's code.
fn result(message: &[u8]) -> Option<(u8, u16)> {
    let (INTEGER, [id], rest) = element(message).ok()? else { return None };
    let (EXTENDED_RESPONSE, response, _) = element(rest).ok()? else { return None };
    let (ENUMERATED, [code], _) = element(response).ok()? else { return None };
    Some((*id, u16::from(*code)))
}

/// Why there is no element.
enum Cut {
    /// More is needed.
    Short,
    /// It is longer than any answer, or not well formed.
    Wrong,
}

/// The first element of `bytes` in BER: its tag, its content, and what stands behind it.
fn element(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Cut> {
    let (&tag, rest) = bytes.split_first().ok_or(Cut::Short)?;
    let (&first, mut rest) = rest.split_first().ok_or(Cut::Short)?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(Cut::Short)?;
            rest = behind;
            digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
        _ => return Err(Cut::Wrong),
    };
    if length > ANSWER_LIMIT {
        return Err(Cut::Wrong);
    }
    let (content, behind) = rest.split_at_checked(length).ok_or(Cut::Short)?;
    Ok((tag, content, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_in_both_forms_of_lengths() {
        let short: &[u8] = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
        let long: &[u8] = b"\x30\x84\0\0\0\x10\x02\x01\x01\x78\x84\0\0\0\x07\x0a\x01\x02\x04\x00\x04\x00";
        for (bytes, code) in [(short, 0), (long, 2)] {
            let Ok((SEQUENCE, message, [])) = element(bytes) else { panic!("a sequence") };
            assert_eq!(result(message), Some((1, code)));
        }
    }

    #[test]
    fn no_bytes_at_all_are_read_beyond_their_end() {
        let answer: &[u8] = b"\x30\x84\0\0\0\x10\x02\x01\x01\x78\x84\0\0\0\x07\x0a\x01\x02\x04\x00\x04\x00";
        for end in 0..answer.len() {
            assert!(matches!(element(&answer[..end]), Err(Cut::Short)), "{end}");
        }
        for byte in 0..=u8::MAX {
            for at in 0..answer.len() {
                let mut bytes = answer.to_vec();
                bytes[at] = byte;
                if let Ok((_, content, _)) = element(&bytes) {
                    result(content);
                }
            }
        }
    }

    #[test]
    fn a_length_beyond_any_answer_is_refused_at_once() {
        assert!(matches!(element(b"\x30\x84\xff\xff\xff\xff"), Err(Cut::Wrong)));
        assert!(matches!(element(b"\x30\x88"), Err(Cut::Wrong)));
        assert!(matches!(element(b"\x30\x80"), Err(Cut::Wrong)));
    }
}
