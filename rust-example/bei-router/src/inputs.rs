//! The family's `inputs`: a text, a list of token ids, or a list of these.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A text, to be tokenized.
    Text(String),
    /// Token ids, passed to the model as they are. (text-embeddings-inference decodes them and tokenizes the text, which can
    /// give other ids than the client sent.)
    Ids(Vec<u32>),
}

impl Input {
    /// Characters of a text (Unicode code points), or the number of ids.
    pub fn characters(&self) -> usize {
        match self {
            Input::Text(text) => text.chars().count(),
            Input::Ids(ids) => ids.len(),
        }
    }
}

/// The inputs of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The inputs, in order.
    pub items: Vec<Input>,
    /// Whether the request had one input that was not in a list.
    pub single: bool,
}

impl Inputs {
    /// How errors name input i of the body's field `field`.
    pub fn names(&self, field: &'static str) -> impl Fn(usize) -> String + Send + use<> {
        let single = self.single;
        move |i| if single { field.to_string() } else { format!("{field}[{i}]") }
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Inputs, D::Error> {
        let (items, single) = match Element::deserialize(deserializer)? {
            Element::Text(text) => (vec![Input::Text(text)], true),
            Element::Id(_) => {
                return Err(D::Error::custom("a number; expected a text, token ids, or a list of these"));
            }
            Element::List(elements) => list(elements).map_err(D::Error::custom)?,
        };
        Ok(Inputs { items, single })
    }
}

/// Tells one list of ids from a list of inputs.
fn list(elements: Vec<Element>) -> Result<(Vec<Input>, bool), String> {
    if !elements.is_empty() && elements.iter().all(|element| matches!(element, Element::Id(_))) {
        return Ok((vec![Input::Ids(ids(elements)?)], true));
    }
    let input = |(i, element)| match element {
        Element::Text(text) => Ok(Input::Text(text)),
        Element::List(elements) => Ok(Input::Ids(ids(elements).map_err(|error| format!("[{i}]{error}"))?)),
        Element::Id(id) => Err(format!("[{i}] is the number {id} in a list of texts or of lists")),
    };
    Ok((elements.into_iter().enumerate().map(input).collect::<Result<_, _>>()?, false))
}

fn ids(elements: Vec<Element>) -> Result<Vec<u32>, String> {
    let id = |(i, element)| match element {
        Element::Id(id) => Ok(id),
        Element::Text(_) => Err(format!("[{i}] is a text; expected a token id")),
        Element::List(_) => Err(format!("[{i}] is a list; expected a token id")),
    };
    elements.into_iter().enumerate().map(id).collect()
}

enum Element {
    Text(String),
    Id(u32),
    List(Vec<Element>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text, token ids (whole numbers from 0 to 4294967295), or a list of these")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
        Ok(Element::Text(text))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        u32::try_from(id)
            .map(Element::Id)
            .map_err(|_| E::custom(format!("token id {id} is above {}", u32::MAX)))
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Element, E> {
        Err(E::custom(format!("token id {id} is below 0")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Element, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Element::List(elements))
    }
}
