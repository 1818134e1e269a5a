//! Go's `%q`, which upstream's messages are written with.

use std::fmt::Write as _;

/// The text as a Go string literal: `a"b` becomes `"a\"b"`.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(quoted, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_as_go_does() {
        for (text, expect) in
            [("a", r#""a""#), ("a\"b\\", r#""a\"b\\""#), ("\n\t\u{1}\u{7f}", r#""\n\t\x01\x7f""#), ("é", "\"é\"")]
        {
            assert_eq!(super::quote(text), expect);
        }
    }
}
