//! Quantities such as `500m` or `1Gi`, exact to a billionth and up to 2^63-1, canonical as upstream writes them.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An exact quantity and the family of suffixes it is written with. Comparison looks at the value alone.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// A family of suffixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, …
    Binary,
    /// `m`, `k`, `M`, …
    #[default]
    Decimal,
    /// `e3`, …
    Exponent,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not look like one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Number,
}

const NANO: i128 = 1_000_000_000;
const MAX_NANO: i128 = i64::MAX as i128 * NANO;
const MAX_DIGITS: usize = 19;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nano: 0, format: Format::Decimal };

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Format),
        };
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(if number.is_empty() { QuantityError::Format } else { QuantityError::Number });
        }
        let (format, ten, two) = parse_suffix(suffix)?;
        let magnitude = if two == 0 { decimal_nano(whole, fraction, ten) } else { binary_nano(whole, fraction, two) };
        let small = format == Format::Binary && magnitude < NANO && magnitude > 0;
        let format = if small { Format::Decimal } else { format };
        Ok(Self { nano: if negative { -magnitude } else { magnitude }, format })
    }

    /// A whole number.
    pub fn from_i64(value: i64, format: Format) -> Self {
        Self { nano: i128::from(value) * NANO, format }
    }

    /// The value, rounded away from zero.
    pub fn as_i64(self) -> i64 {
        saturate(divide_away(self.nano, NANO))
    }

    /// The value in thousandths, rounded away from zero.
    pub fn as_milli(self) -> i64 {
        saturate(divide_away(self.nano, NANO / 1000))
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// The family of suffixes.
    pub fn format(self) -> Format {
        self.format
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn divide_away(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

/// The family, the power of ten and the power of 1024 that a suffix stands for.
fn parse_suffix(suffix: &str) -> Result<(Format, i32, u32), QuantityError> {
    if let Some((_, ten)) = DECIMAL.iter().find(|(text, _)| *text == suffix) {
        return Ok((Format::Decimal, *ten, 0));
    }
    if let Some(two) = (1u32..).zip(&BINARY[1..]).find(|(_, text)| **text == suffix).map(|(two, _)| two) {
        return Ok((Format::Binary, 0, two));
    }
    let letters_end = suffix.find(|c: char| !"eEinumkKMGTP".contains(c)).unwrap_or(suffix.len());
    let rest = &suffix[letters_end..];
    let digits = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    if !matches!(&suffix[..letters_end], "e" | "E") || digits.is_empty() {
        return Err(QuantityError::Suffix);
    }
    // Beyond what can be represented anyway; a longer exponent changes nothing.
    let exponent: i32 = digits.parse().unwrap_or(1000).min(1000);
    Ok((Format::Exponent, if rest.starts_with('-') { -exponent } else { exponent }, 0))
}

fn digits_value<'a>(digits: impl Iterator<Item = &'a u8>) -> i128 {
    digits.fold(0, |value, digit| value * 10 + i128::from(digit - b'0'))
}

fn power_of_ten(exponent: usize) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn decimal_nano(whole: &str, fraction: &str, ten: i32) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').collect();
    let scale = i64::from(ten) + 9 - i64::try_from(fraction.len()).unwrap_or(i64::MAX / 2);
    let (kept, dropped) = match usize::try_from(-scale) {
        Ok(drop) if drop > 0 => digits.split_at(digits.len().saturating_sub(drop)),
        _ => (digits.as_slice(), &[][..]),
    };
    if kept.len() > 28 {
        return MAX_NANO;
    }
    let sticky = i128::from(dropped.iter().any(|digit| *digit != b'0'));
    let shift = usize::try_from(scale).unwrap_or(0);
    let value = digits_value(kept.iter());
    let shifted = if value == 0 { Some(0) } else { power_of_ten(shift).and_then(|power| value.checked_mul(power)) };
    shifted.map_or(MAX_NANO, |value| (value + sticky).min(MAX_NANO))
}

fn binary_nano(whole: &str, fraction: &str, two: u32) -> i128 {
    let whole = whole.trim_start_matches('0');
    if whole.len() > MAX_DIGITS {
        return MAX_NANO;
    }
    let kept = fraction.len().min(MAX_DIGITS - whole.len());
    let sticky = i128::from(fraction.bytes().skip(kept).any(|digit| digit != b'0'));
    let value = (digits_value(whole.as_bytes().iter().chain(&fraction.as_bytes()[..kept])) + sticky) << (10 * two);
    let nano = match kept {
        0..=9 => power_of_ten(9 - kept).and_then(|power| value.checked_mul(power)),
        _ => power_of_ten(kept - 9).map(|power| divide_away(value, power)),
    };
    nano.map_or(MAX_NANO, |nano| nano.min(MAX_NANO))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.nano.abs() >= 1024 * NANO {
            let mut value = divide_away(self.nano, NANO);
            let mut two = 0;
            while value % 1024 == 0 && two + 1 < BINARY.len() {
                value /= 1024;
                two += 1;
            }
            return write!(f, "{value}{}", BINARY[two]);
        }
        let (mut value, mut ten) = (self.nano, -9);
        while value % 1000 == 0 && ten < 18 {
            value /= 1000;
            ten += 3;
        }
        match (self.format, ten) {
            (_, 0) => write!(f, "{value}"),
            (Format::Exponent, _) => write!(f, "{value}e{ten}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, power)| *power == ten).map_or("", |(text, _)| text);
                write!(f, "{value}{suffix}")
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nano: -self.nano, format: self.format }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 500m or 1Gi")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Quantity::parse(text).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Quantity, E> {
                Ok(Quantity::from_i64(value, Format::Decimal))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        let cases = [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("00", "0"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("100000m", "100"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("1000", "1k"),
            ("1001", "1001"),
            ("1100", "1100"),
            ("1k", "1k"),
            ("1Ki", "1Ki"),
            ("1023", "1023"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1.1Ki", "1127"),
            ("0.0001Ki", "102400u"),
            ("100n", "100n"),
            ("0.1n", "1n"),
            ("1e-10", "1e-9"),
            ("1e-100000", "1e-9"),
            ("-0.1n", "-1n"),
            ("1.0", "1"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1", "1"),
            ("-1.5", "-1500m"),
            ("9223372036854775807", "9223372036854775807"),
            ("99999999999999999999", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("1e100", "9223372036854775807e0"),
            ("8Ei", "9223372036854775807"),
            ("7Ei", "7Ei"),
            ("0.000000000001Ei", "1152922"),
            ("1500e-3", "1500e-3"),
            ("1M", "1M"),
            ("123456789012345678901234567890Ki", "9223372036854775807"),
        ];
        for (text, expect) in cases {
            let expect = expect.trim_end_matches("e0");
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.to_string()).as_deref(), Ok(expect), "{text}");
        }
    }

    #[test]
    fn errors() {
        let cases = [
            ("", QuantityError::Format),
            ("a", QuantityError::Format),
            ("-", QuantityError::Format),
            ("1.2.3", QuantityError::Number),
            (".", QuantityError::Number),
            ("1ki", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
            ("1mi", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1e1.5", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1é", QuantityError::Format),
        ];
        for (text, expect) in cases {
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.to_string()), Err(expect), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let quantity = |text| Quantity::parse(text).unwrap();
        assert_eq!((quantity("1500m").as_i64(), quantity("1500m").as_milli()), (2, 1500));
        assert_eq!((quantity("-1500m").as_i64(), quantity("0.1m").as_milli()), (-2, 1));
        assert_eq!((quantity("1Gi") + quantity("1M")).to_string(), "1074741824");
        assert_eq!((Quantity::ZERO + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("1") - quantity("1500m")).to_string(), "-500m");
        assert!(quantity("1Gi") > quantity("1G") && quantity("1") == quantity("1000m"));
        assert_eq!(serde_json::from_str::<Quantity>("0.5").unwrap(), quantity("500m"));
        assert_eq!(serde_json::to_string(&quantity("0.5")).unwrap(), "\"500m\"");
    }
}
