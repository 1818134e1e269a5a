//! Label selectors: the text grammar and the `LabelSelector` object.

use std::fmt;

use serde_json::{Map, Value};

use super::{LabelSelector, Operator, Requirement};
use crate::field::{FieldError, Path};
use crate::names;

impl Operator {
    fn symbol(self) -> &'static str {
        match self {
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::In => "in",
            Self::NotIn => "notin",
            Self::Exists => "exists",
            Self::DoesNotExist => "!",
            Self::GreaterThan => "gt",
            Self::LessThan => "lt",
        }
    }
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads the text form (`a=b,c in (d,e),!f`); the error says what is wrong, as upstream does.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector` object. Absent (`null`) selects nothing, an empty one everything.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key.clone(), Operator::Equals, vec![value])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |key| expression.get(key).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("\"{other}\" is not a valid label selector operator")),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key").to_owned(), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// A selector of exact labels, as a Service or ReplicationController has. An empty or absent map selects nothing.
    pub fn from_map(labels: Option<&Map<String, Value>>) -> Self {
        let Some(labels) = labels.filter(|labels| !labels.is_empty()) else { return Self::nothing() };
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        Self { requirements: labels.iter().map(requirement).collect(), nothing: false }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether the labels match.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.matches(label(&one.key)))
    }

    /// Whether the labels of a map (`metadata.labels`; anything else is no labels) match.
    pub fn matches_map(&self, labels: &Value) -> bool {
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }
}

impl Requirement {
    /// A requirement, checked: the key is a qualified name, the values are label values and as many as the operator takes.
    pub fn new(key: String, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        let path = Path::root();
        let mut errors = Vec::new();
        if let Some(message) = key_error(&key) {
            errors.push(message);
        }
        let values_path = Path::new("values");
        let shown = Value::from(values.clone());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => errors.push(
                FieldError::invalid(&values_path, shown, "for 'in', 'notin' operators, values set can't be empty")
                    .to_string(),
            ),
            Operator::Equals | Operator::NotEquals if values.len() != 1 => errors.push(
                FieldError::invalid(&values_path, shown, "exact-match compatibility requires one single value")
                    .to_string(),
            ),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => errors.push(
                FieldError::invalid(&values_path, shown, "values set must be empty for exists and does not exist")
                    .to_string(),
            ),
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => errors.push(
                FieldError::invalid(&values_path, shown, "for 'Gt', 'Lt' operators, exactly one value is required")
                    .to_string(),
            ),
            Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => errors.push(
                FieldError::invalid(
                    &values_path.index(0),
                    values[0].as_str(),
                    "for 'Gt', 'Lt' operators, the value must be an integer",
                )
                .to_string(),
            ),
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let messages = names::is_label_value(value);
            if !messages.is_empty() {
                let path = path.child("values").index(index).key(key.clone());
                errors.push(FieldError::invalid(&path, value.as_str(), messages.join("; ")).to_string());
            }
        }
        values.sort_unstable();
        values.dedup();
        match errors.len() {
            0 => Ok(Self { key, operator, values }),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// Whether a label of this value, or its absence, meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let contains = |value: &str| self.values.iter().any(|one| one == value);
        let compare = |holds: fn(i64, i64) -> bool| {
            let wanted = self.values.first().and_then(|wanted| wanted.parse().ok());
            matches!((value.and_then(|value| value.parse().ok()), wanted), (Some(a), Some(b)) if holds(a, b))
        };
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(contains),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(contains),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(|a, b| a > b),
            Operator::LessThan => compare(|a, b| a < b),
        }
    }
}

fn key_error(key: &str) -> Option<String> {
    let messages = names::is_qualified_name(key);
    let error = || FieldError::invalid(&Path::new("key"), key, messages.join("; ")).to_string();
    (!messages.is_empty()).then(error)
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{one}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        let value = || values.first().map(String::as_str).unwrap_or_default();
        match operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals | Operator::NotEquals => write!(f, "{key}{}{}", operator.symbol(), value()),
            Operator::GreaterThan => write!(f, "{key}>{}", value()),
            Operator::LessThan => write!(f, "{key}<{}", value()),
            Operator::In | Operator::NotIn => write!(f, "{key} {} ({})", operator.symbol(), values.join(",")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    ClosedPar,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    Identifier,
    In,
    LessThan,
    NotEquals,
    NotIn,
    OpenPar,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    ahead: Option<(Token, &'a str)>,
}

const SYMBOLS: [char; 7] = ['=', '!', '(', ')', ',', '>', '<'];
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, ahead: None }
    }

    fn lex(&mut self) -> (Token, &'a str) {
        let rest = self.text[self.at..].trim_start_matches(SPACES);
        self.at = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return (Token::End, "") };
        let (token, length) = if SYMBOLS.contains(&first) {
            let two = rest.get(..2).unwrap_or_default();
            match (first, two) {
                (_, "==") => (Token::DoubleEquals, 2),
                (_, "!=") => (Token::NotEquals, 2),
                ('=', _) => (Token::Equals, 1),
                ('!', _) => (Token::DoesNotExist, 1),
                ('(', _) => (Token::OpenPar, 1),
                (')', _) => (Token::ClosedPar, 1),
                (',', _) => (Token::Comma, 1),
                ('>', _) => (Token::GreaterThan, 1),
                ('<', _) => (Token::LessThan, 1),
                _ => (Token::Error, first.len_utf8()),
            }
        } else {
            let end = rest.find(|c| SYMBOLS.contains(&c) || SPACES.contains(&c)).unwrap_or(rest.len());
            let token = match &rest[..end] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            (token, end)
        };
        self.at += length;
        (token, &rest[..length])
    }

    /// The next token where keywords are operators.
    fn peek_raw(&mut self) -> (Token, &'a str) {
        if self.ahead.is_none() {
            self.ahead = Some(self.lex());
        }
        self.ahead.unwrap_or((Token::End, ""))
    }

    /// The next token where keywords are plain identifiers.
    fn peek(&mut self) -> (Token, &'a str) {
        match self.peek_raw() {
            (Token::In | Token::NotIn, text) => (Token::Identifier, text),
            other => other,
        }
    }

    fn next_raw(&mut self) -> (Token, &'a str) {
        let token = self.peek_raw();
        self.ahead = None;
        token
    }

    fn next(&mut self) -> (Token, &'a str) {
        let token = self.peek();
        self.ahead = None;
        token
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::DoesNotExist, _) => {
                    let requirement =
                        self.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?;
                    requirements.push(requirement);
                    match self.next() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek() {
                            (Token::Identifier | Token::DoesNotExist, _) => {}
                            (_, text) => return Err(format!("found '{text}', expected: identifier after ','")),
                        },
                        (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek().0 == Token::DoesNotExist;
        if absent {
            self.next();
        }
        let key = match self.next() {
            (Token::Identifier, text) => text.to_owned(),
            (_, text) => return Err(format!("found '{text}', expected: identifier")),
        };
        if let Some(error) = key_error(&key) {
            return Err(error);
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next_raw() {
            (Token::In, _) => Operator::In,
            (Token::Equals | Token::DoubleEquals, _) => Operator::Equals,
            (Token::GreaterThan, _) => Operator::GreaterThan,
            (Token::LessThan, _) => Operator::LessThan,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::NotEquals, _) => Operator::NotEquals,
            (_, text) => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, text) => Ok(text.to_owned()),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            (Token::OpenPar, _) => {}
            (_, text) => return Err(format!("found '{text}' expected: '('")),
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, _) => {}
            (Token::ClosedPar, _) => {
                self.next();
                return Ok(vec![String::new()]);
            }
            (_, text) => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        let values = self.identifiers()?;
        match self.next() {
            (Token::ClosedPar, _) => Ok(values),
            (_, text) => Err(format!("found '{text}', expected: ')'")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            match self.next() {
                (Token::Identifier, text) => {
                    values.push(text.to_owned());
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::ClosedPar, _) => return Ok(values),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().0 {
                        Token::ClosedPar => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.next();
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parses_and_prints() {
        let cases = [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b", "a=b"),
            (" a = b , c != d ", "a=b,c!=d"),
            ("x in (b,,a,)", "x in (,a,b)"),
            ("x notin ()", "x notin ()"),
            ("x in (in,notin)", "x in (in,notin)"),
            ("in in (a)", "in in (a)"),
            ("z,!y", "!y,z"),
            ("a=", "a="),
            ("a>1,b<2", "a>1,b<2"),
            ("kubernetes.io/x=y", "kubernetes.io/x=y"),
        ];
        for (text, expect) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn errors() {
        let cases = [
            ("a=b,", "found '', expected: identifier after ','"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
        ];
        for (text, expect) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), expect, "{text}");
        }
        for text in ["a=b/c", "-a", "a/b/c=d", "a>x", "é=b"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn matching() {
        let labels = json!({"a": "1", "b": "x"});
        let cases = [
            ("", true),
            ("a", true),
            ("!a", false),
            ("!c", true),
            ("a=1,b=x", true),
            ("a!=1", false),
            ("c!=1", true),
            ("b in (x,y)", true),
            ("c notin (x)", true),
            ("c in (x)", false),
            ("a>0", true),
            ("a<1", false),
            ("b>0", false),
        ];
        for (text, expect) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().matches_map(&labels), expect, "{text}");
        }
    }

    #[test]
    fn objects() {
        let labels = json!({"a": "1"});
        let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        let cases = [
            (json!(null), Ok(false)),
            (json!({}), Ok(true)),
            (json!({"matchLabels": {"a": "1"}}), Ok(true)),
            (json!({"matchLabels": {"a": "2"}}), Ok(false)),
            (expression("In", json!(["1"])), Ok(true)),
            (expression("NotIn", json!(["1"])), Ok(false)),
            (expression("Exists", json!([])), Ok(true)),
            (expression("DoesNotExist", json!(null)), Ok(false)),
            (expression("Near", json!([])), Err("\"Near\" is not a valid label selector operator".to_owned())),
        ];
        for (object, expect) in cases {
            let got = LabelSelector::from_object(&object).map(|selector| selector.matches_map(&labels));
            assert_eq!(got, expect, "{object}");
        }
        assert!(!LabelSelector::from_map(None).matches_map(&labels));
        // A Scale's selector is this text.
        let object = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["x"]}]});
        assert_eq!(LabelSelector::from_object(&object).unwrap().to_string(), "a=1,b=2,c in (x)");
    }
}
