//! `$(VAR)` in commands, arguments and values: known names are replaced, unknown ones stay, `$$` is one dollar.

/// Expands references by `lookup`.
pub(crate) fn expand(input: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('(') {
            if let Some(end) = tail.find(')') {
                let name = &tail[..end];
                match lookup(name) {
                    Some(value) => out.push_str(&value),
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = &tail[end + 1..];
            } else {
                out.push_str("$(");
                rest = tail;
            }
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_cases() {
        let cases = [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("f000-$$VAR_A", "f000-$VAR_A"),
            ("foo\\$(VAR_C)bar", "foo\\Cbar"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$(NOPE)", "$(NOPE)"),
            ("$VAR_A)", "$VAR_A)"),
            ("${VAR_A}", "${VAR_A}"),
            ("$(VAR_A", "$(VAR_A"),
            ("$?_boo_$!", "$?_boo_$!"),
            ("$", "$"),
            ("$(EMPTY)x", "x"),
            ("é$(VAR_A)é", "éAé"),
        ];
        for (input, expected) in cases {
            let got = expand(input, |name| match name {
                "VAR_A" => Some("A".into()),
                "VAR_B" => Some("B".into()),
                "VAR_C" => Some("C".into()),
                "EMPTY" => Some(String::new()),
                _ => None,
            });
            assert_eq!(got, expected, "{input}");
        }
    }
}
