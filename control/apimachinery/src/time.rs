//! Times as the API writes them: RFC 3339 in UTC, with seconds (`Time`) or exactly six digits (`MicroTime`).

use jiff::Timestamp;

/// Now, to the second: `2026-01-02T03:04:05Z`.
pub fn now_rfc3339() -> String {
    format_time(Timestamp::now())
}

/// A `Time`: seconds, UTC.
pub fn format_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A `MicroTime`: always six digits, UTC.
pub fn format_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads an RFC 3339 time with any offset and fraction, as strictly as Go does. `None` for anything else.
pub fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && bytes.iter().take(19).zip(b"0000-00-00T00:00:00").all(|(byte, want)| match want {
            b'0' => byte.is_ascii_digit(),
            _ => byte == want,
        });
    let rest = bytes.get(19..)?;
    let digits = match rest.first()? {
        b'.' => rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    let zone = &rest[if rest[0] == b'.' { digits + 1 } else { 0 }..];
    let zone_ok = match zone {
        b"Z" => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    if !shape || !zone_ok || (rest[0] == b'.' && digits == 0) || digits > 9 {
        return None;
    }
    text.parse().ok()
}

/// Whether the text already is what [`format_time`] writes.
pub(crate) fn is_canonical_time(text: &str) -> bool {
    text.len() == 20 && text.ends_with('Z') && parse(text).is_some()
}

/// Whether the text already is what [`format_micro`] writes.
pub(crate) fn is_canonical_micro(text: &str) -> bool {
    text.len() == 27 && text.ends_with('Z') && parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        let cases = [
            ("2026-01-02T03:04:05Z", Some(("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"))),
            ("2026-01-02T03:04:05.1234567Z", Some(("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456Z"))),
            ("2026-01-02T03:04:05+02:00", Some(("2026-01-02T01:04:05Z", "2026-01-02T01:04:05.000000Z"))),
            ("2026-01-02 03:04:05Z", None),
            ("2026-01-02T03:04:05", None),
            ("2026-01-02T03:04:05.Z", None),
            ("2026-13-02T03:04:05Z", None),
            ("2026-01-02T03:04:05[UTC]", None),
            ("", None),
            ("now", None),
        ];
        for (text, expect) in cases {
            let got = parse(text).map(|at| (format_time(at), format_micro(at)));
            assert_eq!(got.as_ref().map(|(a, b)| (a.as_str(), b.as_str())), expect, "{text}");
        }
        assert!(is_canonical_time("2026-01-02T03:04:05Z") && !is_canonical_time("2026-01-02T03:04:05.0Z"));
        assert!(is_canonical_micro("2026-01-02T03:04:05.000000Z"));
    }
}
