//! What the family's bodies hold: texts, token ids, pairs, and lists of these.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A text, to be tokenized.
    Text(String),
    /// Token ids, passed to the model as they are. (text-embeddings-inference decodes them and tokenizes the text, which can
    /// give other ids than the client sent.)
    Ids(Vec<u32>),
    /// Two texts that the model reads as one.
    Pair(String, String),
}

impl Input {
    /// Characters of its texts (Unicode code points), or the number of ids.
    pub fn characters(&self) -> usize {
        match self {
            Input::Text(text) => text.chars().count(),
            Input::Ids(ids) => ids.len(),
            Input::Pair(text, pair) => text.chars().count() + pair.chars().count(),
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
        deserializer.deserialize_any(InputsVisitor)
    }
}

const EXPECTED: &str = "a text, token ids (whole numbers from 0 to 4294967295), or a list of these";

/// Reads the ids of a list straight into their place: no value is made and taken apart again.
struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Inputs, E> {
        Ok(Inputs { items: vec![Input::Text(text)], single: true })
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Inputs, E> {
        Err(E::custom("a number; expected a text, token ids, or a list of these"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Inputs, A::Error> {
        let mut items = match access.next_element()? {
            None => return Ok(Inputs { items: vec![], single: false }),
            Some(Element::Id(first)) => {
                let ids = rest_of_ids(vec![first], &mut access)?;
                return Ok(Inputs { items: vec![Input::Ids(ids)], single: true });
            }
            Some(element) => vec![input(element, 0).map_err(A::Error::custom)?],
        };
        while let Some(element) = access.next_element()? {
            items.push(input(element, items.len()).map_err(A::Error::custom)?);
        }
        Ok(Inputs { items, single: false })
    }
}

fn input(element: Element, i: usize) -> Result<Input, String> {
    match element {
        Element::Text(text) => Ok(Input::Text(text)),
        Element::List(Ok(ids)) => Ok(Input::Ids(ids)),
        Element::List(Err(error)) => Err(format!("[{i}]{error}")),
        Element::Id(id) => Err(format!("[{i}] is the number {id} in a list of texts or of lists")),
    }
}

/// The rest of a list whose first element was a token id. The error does not say where the list is.
fn rest_of_ids<'de, A: SeqAccess<'de>>(mut ids: Vec<u32>, access: &mut A) -> Result<Vec<u32>, A::Error> {
    while let Some(element) = access.next_element()? {
        match element {
            Element::Id(id) => ids.push(id),
            other => return Err(A::Error::custom(not_an_id(&other, ids.len()))),
        }
    }
    Ok(ids)
}

fn not_an_id(element: &Element, k: usize) -> String {
    let kind = if matches!(element, Element::Text(_)) { "text" } else { "list" };
    format!("[{k}] is a {kind}; expected a token id")
}

/// An element of a list of inputs. A list holds ids, or says why it does not: whoever knows its place adds that.
enum Element {
    Text(String),
    Id(u32),
    List(Result<Vec<u32>, String>),
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
        f.write_str(EXPECTED)
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
        let (mut ids, mut failed) = (Vec::new(), None);
        while let Some(element) = access.next_element()? {
            match element {
                Element::Id(id) => ids.push(id),
                other => {
                    failed.get_or_insert_with(|| not_an_id(&other, ids.len()));
                }
            }
        }
        Ok(Element::List(failed.map_or(Ok(ids), Err)))
    }
}

fn text_schema() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).into()
}

fn list_schema(items: Schema) -> Schema {
    ArrayBuilder::new().items(RefOr::T(items)).into()
}

fn ids_schema() -> Schema {
    let id = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(u32::MAX));
    list_schema(id.into())
}

fn one_of(schemas: impl IntoIterator<Item = Schema>) -> Schema {
    schemas.into_iter().fold(OneOfBuilder::new(), |one_of, schema| one_of.item(schema)).into()
}

impl PartialSchema for Inputs {
    fn schema() -> RefOr<Schema> {
        let one = || one_of([text_schema(), ids_schema()]);
        RefOr::T(one_of([text_schema(), ids_schema(), list_schema(one())]))
    }
}

impl ToSchema for Inputs {}

/// A text, or a list of what may be in it.
enum OneOrMany<T> {
    One(String),
    Many(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany<T>, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text or a list")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
        Ok(OneOrMany::One(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<OneOrMany<T>, E> {
        Ok(OneOrMany::One(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<OneOrMany<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(OneOrMany::Many(items))
    }
}

type Tree = OneOrMany<OneOrMany<String>>;

/// The texts of a list that holds texts alone; otherwise the lists of one that holds lists alone, or where it is mixed.
fn level(list: Vec<OneOrMany<String>>) -> Result<Result<Vec<String>, Vec<Vec<String>>>, String> {
    let (n, mut texts, mut lists) = (list.len(), vec![], vec![]);
    for (i, item) in list.into_iter().enumerate() {
        match item {
            OneOrMany::One(text) if lists.is_empty() => texts.push(text),
            OneOrMany::Many(list) if texts.is_empty() => lists.push(list),
            OneOrMany::One(_) => return Err(format!("[{i}] is a text in a list of lists")),
            OneOrMany::Many(_) => return Err(format!("[{i}] is a list in a list of texts")),
        }
    }
    Ok(if texts.len() == n { Ok(texts) } else { Err(lists) })
}

/// The inputs of /predict: a text, a pair as a list of two texts, or a list of lists of one or two texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences(pub Inputs);

fn sequence(texts: Vec<String>) -> Result<Input, String> {
    let n = texts.len();
    let mut texts = texts.into_iter();
    match (texts.next(), texts.next(), texts.next()) {
        (Some(text), None, None) => Ok(Input::Text(text)),
        (Some(text), Some(pair), None) => Ok(Input::Pair(text, pair)),
        _ => Err(format!("a list of {n} texts; expected one, or the two of a pair")),
    }
}

impl<'de> Deserialize<'de> for Sequences {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sequences, D::Error> {
        let list = match Tree::deserialize(deserializer)? {
            OneOrMany::One(text) => {
                return Ok(Sequences(Inputs { items: vec![Input::Text(text)], single: true }));
            }
            OneOrMany::Many(list) => list,
        };
        match level(list).map_err(D::Error::custom)? {
            Ok(texts) if texts.is_empty() => Ok(Sequences(Inputs { items: vec![], single: false })),
            Ok(texts) => match sequence(texts) {
                Ok(item) => Ok(Sequences(Inputs { items: vec![item], single: true })),
                Err(error) => {
                    Err(D::Error::custom(format!("{error}; a batch of texts is [[\"a\"], [\"b\"], [\"c\"]]")))
                }
            },
            Err(lists) => {
                let item = |(i, texts)| sequence(texts).map_err(|error| format!("[{i}] is {error}"));
                let items = lists.into_iter().enumerate().map(item).collect::<Result<_, String>>();
                Ok(Sequences(Inputs { items: items.map_err(D::Error::custom)?, single: false }))
            }
        }
    }
}

impl PartialSchema for Sequences {
    fn schema() -> RefOr<Schema> {
        let texts = || texts_schema(1, 2);
        RefOr::T(one_of([text_schema(), texts(), list_schema(texts())]))
    }
}

impl ToSchema for Sequences {}

/// Texts alone: one, a list of them, or a list of lists of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts(pub Inputs);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        let list = match Tree::deserialize(deserializer)? {
            OneOrMany::One(text) => {
                return Ok(Texts(Inputs { items: vec![Input::Text(text)], single: true }));
            }
            OneOrMany::Many(list) => list,
        };
        let items = match level(list).map_err(D::Error::custom)? {
            Ok(texts) => texts.into_iter().map(Input::Text).collect(),
            Err(lists) => {
                let item = |(i, texts): (usize, Vec<String>)| match <[String; 1]>::try_from(texts) {
                    Ok([text]) => Ok(Input::Text(text)),
                    Err(texts) => Err(format!("[{i}] is a list of {} texts; expected one", texts.len())),
                };
                let items = lists.into_iter().enumerate().map(item).collect::<Result<_, String>>();
                items.map_err(D::Error::custom)?
            }
        };
        Ok(Texts(Inputs { items, single: false }))
    }
}

impl PartialSchema for Texts {
    fn schema() -> RefOr<Schema> {
        RefOr::T(one_of([text_schema(), list_schema(text_schema()), list_schema(texts_schema(1, 1))]))
    }
}

impl ToSchema for Texts {}

fn texts_schema(least: usize, most: usize) -> Schema {
    ArrayBuilder::new().items(RefOr::T(text_schema())).min_items(Some(least)).max_items(Some(most)).into()
}
