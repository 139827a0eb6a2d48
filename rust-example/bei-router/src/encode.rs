//! From a request's inputs to tokens: tokenizing, and the checks of what a client sent as ids.

use bei_backend::Error;

use crate::app::App;
use crate::failure::Failure;
use crate::inputs::Input;
use crate::tokenizer::{EncodeOptions, Encoding};

impl App {
    /// Tokenizes texts and pairs and checks token ids, input by input, in the inputs' order.
    pub(crate) async fn encode(
        &self,
        inputs: Vec<Input>,
        options: &EncodeOptions,
    ) -> Result<Vec<Result<Encoding, Failure>>, Failure> {
        let (mut texts, mut ids) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        for input in inputs {
            match input {
                Input::Text(text) => {
                    texts.push((text, None));
                    ids.push(None);
                }
                Input::Pair(text, pair) => {
                    texts.push((text, Some(pair)));
                    ids.push(None);
                }
                Input::Ids(list) => ids.push(Some(self.check_ids(list, options))),
            }
        }
        let mut of_texts =
            if texts.is_empty() { vec![] } else { self.tokenizer.encode(texts, options).await? }.into_iter();
        let mut of_text = || match of_texts.next() {
            Some(encoding) => self.check_length(encoding),
            None => Err(Failure::backend("the tokenizer gave too few answers")),
        };
        Ok(ids.into_iter().map(|ids| ids.unwrap_or_else(&mut of_text)).collect())
    }

    /// A text that may not be truncated can have any length.
    fn check_length(&self, encoding: Result<Encoding, Error>) -> Result<Encoding, Failure> {
        let encoding = encoding?;
        let (length, limit) = (encoding.ids.len(), self.model.info().max_length);
        if length > limit {
            return Err(Failure::validation(format!("{length} tokens are more than the limit of {limit}")));
        }
        Ok(encoding)
    }

    /// Token ids are the client's, with the special tokens that it wants. They are never cut, as nobody here knows which of
    /// them the model cannot do without.
    fn check_ids(&self, ids: Vec<u32>, options: &EncodeOptions) -> Result<Encoding, Failure> {
        let info = self.model.info();
        let (limit, vocabulary) = (info.max_length, info.vocab_size);
        if options.prompt_name.is_some() {
            return Err(Failure::validation("prompt_name needs a text, and these are token ids"));
        }
        if ids.is_empty() {
            return Err(Failure::empty("no token ids"));
        }
        if ids.len() > limit {
            let length = ids.len();
            return Err(Failure::validation(format!(
                "{length} token ids are more than the limit of {limit}; token ids are not truncated"
            )));
        }
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(k) => Err(Failure::validation(format!(
                "token id {} at position {k} is not below the vocabulary's size, {vocabulary}",
                ids[k]
            ))),
            None => Ok(Encoding { ids, type_ids: None }),
        }
    }
}
