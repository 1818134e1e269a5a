//! The protobuf wire: fields one after another, each a number, a wire type and a value.

/// Why bytes are no message; worded as Go's generated decoders word it, where they have the same complaint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The magic number is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// There is the magic number alone.
    #[error("empty body")]
    Empty,
    /// A length leads beyond the end.
    #[error("unexpected EOF")]
    Cut,
    /// A number has more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A wire type that there is not.
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    /// Field 0, or one beyond what tags can hold.
    #[error("proto: illegal tag {0} (wire type {1})")]
    Tag(u64, u8),
    /// The end of a group that did not begin.
    #[error("proto: wiretype end group for non-group")]
    EndGroup,
    /// A field's value has another wire type than the field.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WrongType {
        /// The field's name.
        field: String,
        /// The wire type found.
        wire: u8,
    },
    /// Text is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    NotUtf8(String),
    /// More levels than [`crate::MAX_DEPTH`].
    #[error("nested deeper than {} levels", crate::MAX_DEPTH)]
    TooDeep,
    /// A value that JSON cannot hold.
    #[error("proto: field {0} is out of range")]
    OutOfRange(String),
    /// A field that holds JSON does not.
    #[error("proto: field {field} holds no valid JSON: {error}")]
    Json {
        /// The field's name.
        field: String,
        /// What is wrong with it.
        error: String,
    },
    /// The kind has no form on the wire.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The version named.
        api_version: String,
        /// The kind named.
        kind: String,
    },
}

pub(super) type Result<T> = std::result::Result<T, Malformed>;

/// How a field's value is written.
pub(super) mod wire_type {
    pub(in super::super) const VARINT: u8 = 0;
    pub(in super::super) const FIXED64: u8 = 1;
    pub(in super::super) const BYTES: u8 = 2;
    pub(in super::super) const START_GROUP: u8 = 3;
    pub(in super::super) const END_GROUP: u8 = 4;
    pub(in super::super) const FIXED32: u8 = 5;
}

use wire_type::{BYTES, END_GROUP, FIXED32, FIXED64, START_GROUP, VARINT};

/// One field's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
    Group,
}

impl<'a> Wire<'a> {
    fn wire_type(self) -> u8 {
        match self {
            Self::Varint(_) => VARINT,
            Self::Fixed64(_) => FIXED64,
            Self::Fixed32 => FIXED32,
            Self::Bytes(_) => BYTES,
            Self::Group => START_GROUP,
        }
    }

    fn wrong<T>(self, field: &str) -> Result<T> {
        Err(Malformed::WrongType { field: field.to_owned(), wire: self.wire_type() })
    }

    pub(super) fn bytes(self, field: &str) -> Result<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { self.wrong(field) }
    }

    pub(super) fn text(self, field: &str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| Malformed::NotUtf8(field.to_owned()))
    }

    pub(super) fn number(self, field: &str) -> Result<u64> {
        if let Self::Varint(number) = self { Ok(number) } else { self.wrong(field) }
    }

    pub(super) fn double(self, field: &str) -> Result<f64> {
        if let Self::Fixed64(bits) = self { Ok(f64::from_bits(bits)) } else { self.wrong(field) }
    }
}

/// The fields of a message, in order. Ends after the first error.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed::Cut)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Overflow)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| Malformed::Cut)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed::Cut)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn fixed64(&mut self) -> Result<u64> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed::Cut)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn tag(&mut self) -> Result<(u32, u8)> {
        let tag = self.varint()?;
        let (number, wire) = (tag >> 3, (tag & 7) as u8);
        match u32::try_from(number) {
            Ok(number) if number > 0 && number <= u32::MAX >> 3 => Ok((number, wire)),
            _ => Err(Malformed::Tag(number, wire)),
        }
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>)> {
        let (number, wire) = self.tag()?;
        let value = match wire {
            VARINT => Wire::Varint(self.varint()?),
            FIXED64 => Wire::Fixed64(self.fixed64()?),
            BYTES => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            FIXED32 => self.take(4).map(|_| Wire::Fixed32)?,
            START_GROUP => self.skip_group().map(|()| Wire::Group)?,
            END_GROUP => return Err(Malformed::EndGroup),
            other => return Err(Malformed::WireType(other)),
        };
        Ok((number, value))
    }

    /// No type of the API has groups; decoders skip them wherever they stand.
    fn skip_group(&mut self) -> Result<()> {
        let mut open = 1u32;
        while open > 0 {
            let (_, wire) = self.tag()?;
            match wire {
                VARINT => drop(self.varint()?),
                FIXED64 => drop(self.take(8)?),
                BYTES => {
                    let length = self.varint()?;
                    self.take(length)?;
                }
                FIXED32 => drop(self.take(4)?),
                START_GROUP => open += 1,
                END_GROUP => open -= 1,
                other => return Err(Malformed::WireType(other)),
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Appends a number.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The bytes that a number takes.
pub(super) fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a field's number and wire type.
pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire));
}

/// Appends a field of bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field of a number.
pub(super) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, VARINT);
    put_varint(out, value);
}

/// Appends a field whose bytes are written by `write`.
pub(super) fn put_nested<T, E>(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    put_tag(out, number, BYTES);
    let at = out.len();
    // Most are shorter than 128 bytes: the length takes one.
    out.push(0);
    let written = write(out)?;
    let length = (out.len() - at - 1) as u64;
    let more = varint_len(length) - 1;
    out.splice(at..at, std::iter::repeat_n(0, more));
    let mut rest = length;
    for byte in &mut out[at..=at + more] {
        *byte = (rest & 0x7f) as u8 | 0x80;
        rest >>= 7;
    }
    out[at + more] &= 0x7f;
    Ok(written)
}
