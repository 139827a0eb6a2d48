use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A range of whole numbers, both ends included: `8` or `4-12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The least.
    pub first: usize,
    /// The most.
    pub last: usize,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok(Span { first, last }),
            _ => Err(format!("{text:?} is no range; write 8, or 4-12")),
        }
    }
}

/// How inputs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Lists of token ids.
    Ids,
    /// Texts of that many words.
    Texts,
}

/// A kind of request, and how much of the load it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Its name in the report.
    pub name: String,
    /// Its weight beside those of the other classes.
    pub share: f64,
    /// How inputs are written.
    pub form: Form,
    /// Token ids, or words, of an input.
    pub tokens: Span,
    /// Inputs of a request: one alone is not put in a list.
    pub inputs: Span,
    /// Different requests.
    pub distinct: usize,
    /// The route: /embed or another of the same body, or /v1/embeddings.
    pub route: String,
    /// The header Request-Timeout-Ms, and what counts as late.
    pub timeout_ms: Option<u64>,
    /// The header X-Request-Priority.
    pub priority: Option<String>,
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Class, String> {
        let mut class = Class {
            name: String::new(),
            share: 1.0,
            form: Form::Ids,
            tokens: Span { first: 8, last: 8 },
            inputs: Span { first: 1, last: 1 },
            distinct: 256,
            route: "/embed".to_string(),
            timeout_ms: None,
            priority: None,
        };
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part
                .split_once('=')
                .map(|(key, value)| (key.trim(), value.trim()))
                .ok_or_else(|| format!("{part:?} is not of the form key=value"))?;
            let wrong = |error: &dyn fmt::Display| format!("{key}={value}: {error}");
            match key {
                "name" => class.name = value.to_string(),
                "share" => {
                    class.share = value.parse().map_err(|error| wrong(&error))?;
                    if !class.share.is_finite() || class.share <= 0.0 {
                        return Err(wrong(&"it must be above 0"));
                    }
                }
                "form" => {
                    class.form = match value {
                        "ids" => Form::Ids,
                        "texts" => Form::Texts,
                        _ => return Err(wrong(&"it can be ids or texts")),
                    }
                }
                "tokens" | "words" => class.tokens = value.parse().map_err(|error| wrong(&error))?,
                "inputs" => class.inputs = value.parse().map_err(|error| wrong(&error))?,
                "distinct" => {
                    class.distinct = value.parse().map_err(|error| wrong(&error))?;
                    if class.distinct == 0 {
                        return Err(wrong(&"it must be above 0"));
                    }
                }
                "route" if value.starts_with('/') => class.route = value.to_string(),
                "route" => return Err(wrong(&"it must start with /")),
                "timeout_ms" => class.timeout_ms = Some(value.parse().map_err(|error| wrong(&error))?),
                "priority" => class.priority = Some(value.to_string()),
                _ => {
                    return Err(format!(
                        "unknown key {key}; there are name, share, form, tokens, words, inputs, distinct, route, timeout_ms, priority"
                    ));
                }
            }
        }
        if class.name.is_empty() {
            return Err("a class needs a name: name=short,tokens=8".to_string());
        }
        Ok(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read() {
        let class: Class =
            "name=a, share=0.5,form=texts,words=4-12,inputs=2-3,route=/v1/embeddings,timeout_ms=500"
                .parse()
                .unwrap();
        assert_eq!((class.tokens, class.inputs), (Span { first: 4, last: 12 }, Span { first: 2, last: 3 }));
        assert_eq!((class.form, class.timeout_ms, class.share), (Form::Texts, Some(500), 0.5));
    }

    #[test]
    fn what_is_wrong_in_a_class_is_named() {
        for (text, part) in [
            ("", "needs a name"),
            ("name=a,tokens=0", "tokens=0"),
            ("name=a,tokens=5-4", "5-4"),
            ("name=a,share=-1", "above 0"),
            ("name=a,form=json", "ids or texts"),
            ("name=a,distinct=0", "above 0"),
            ("name=a,route=embed", "start with /"),
            ("name=a,size=3", "unknown key size"),
            ("a", "key=value"),
        ] {
            let error = text.parse::<Class>().unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
