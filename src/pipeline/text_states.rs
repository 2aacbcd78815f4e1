//! States of texts that are kept over jobs. A T5 of billions of weights takes longer to load and to run than a region, and
//! in a program that stays loaded the same prompts come again: they then need no text encoder at all.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use candle_core::Device;

use crate::model::text::{Prompt, TextConditioning};

/// Encoded texts of one model, each by itself, in the host's memory. What was asked for longest ago goes first.
///
/// A cache belongs to the runner of one model, whose files its fingerprint tells apart; so the prompt, with its weights, and
/// the number of its chunks are the key.
#[derive(Debug, Default)]
pub struct TextStates(Mutex<States>);

#[derive(Debug, Default)]
struct States {
    by_text: HashMap<Key, Kept>,
    bytes: usize,
    /// number of requests so far
    asked: u64,
}

/// A prompt and how many chunks it is filled up to.
type Key = (Prompt, usize);

#[derive(Debug)]
struct Kept {
    row: TextConditioning,
    bytes: usize,
    asked: u64,
}

impl TextStates {
    /// Most bytes of all states; those of a text of Stable Diffusion 3 are 5 MB in f32, and of FLUX.2 klein 16 MB.
    pub const BYTES: usize = 64 << 20;

    /// Conditions of prompts on `device`, one row each, all of as many chunks; `encode` makes the row of a prompt that is not
    /// kept, once.
    ///
    /// # Errors
    /// Those of `encode`, or of the backend.
    pub fn encode<E: From<candle_core::Error>>(
        &self,
        prompts: &[&Prompt],
        chunks: usize,
        device: &Device,
        mut encode: impl FnMut(&Prompt) -> std::result::Result<TextConditioning, E>,
    ) -> std::result::Result<TextConditioning, E> {
        let mut rows: HashMap<&Prompt, TextConditioning> = HashMap::new();
        for &prompt in prompts {
            if rows.contains_key(prompt) {
                continue;
            }
            let key = (prompt.clone(), chunks);
            let row = match self.get(&key) {
                Some(row) => row.to_device(device)?,
                None => {
                    let row = encode(prompt)?;
                    self.put(key, row.to_device(&Device::Cpu)?);
                    row
                }
            };
            rows.insert(prompt, row);
        }
        let rows: Vec<_> = prompts.iter().filter_map(|prompt| rows.get(prompt)).collect();
        Ok(TextConditioning::cat(&rows)?)
    }

    fn get(&self, key: &Key) -> Option<TextConditioning> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.asked += 1;
        let asked = states.asked;
        let kept = states.by_text.get_mut(key)?;
        kept.asked = asked;
        Some(kept.row.clone())
    }

    fn put(&self, key: Key, row: TextConditioning) {
        let bytes = row.bytes() + key.0.words().len();
        if bytes > Self::BYTES {
            return;
        }
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while states.bytes + bytes > Self::BYTES {
            let oldest = states.by_text.iter().min_by_key(|(_, kept)| kept.asked);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            states.bytes -= states.by_text.remove(&oldest).map_or(0, |kept| kept.bytes);
        }
        let asked = states.asked;
        states.bytes += bytes;
        let before = states.by_text.insert(key, Kept { row, bytes, asked });
        states.bytes -= before.map_or(0, |kept| kept.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use candle_core::{Result, Tensor};

    use super::*;
    use crate::model::text::PromptSyntax;

    /// A row of so many MiB, whose values are the length of the text.
    fn row(text: &str, mib: usize) -> Result<TextConditioning> {
        let context = Tensor::full(text.len() as f32, (1, mib << 8, 1 << 10), &Device::Cpu)?;
        Ok(TextConditioning {
            context: context.into(),
            pooled: None,
            lengths: Some(vec![text.len()]),
        })
    }

    #[test]
    fn a_text_is_encoded_once_over_jobs_and_the_oldest_goes_where_room_is_short() {
        let (states, encoded) = (TextStates::default(), RefCell::new(Vec::new()));
        let ask = |texts: &[&str]| {
            let prompts: Vec<_> = texts.iter().map(|text| Prompt::plain(text)).collect();
            let prompts: Vec<_> = prompts.iter().collect();
            let made = states.encode(&prompts, 1, &Device::Cpu, |prompt| {
                encoded.borrow_mut().push(prompt.words());
                row(&prompt.words(), 24)
            });
            let made = made.unwrap();
            assert_eq!(made.lengths, Some(texts.iter().map(|text| text.len()).collect::<Vec<_>>()));
            let firsts = (0..texts.len()).map(|index| {
                let first = made.context.get(index).unwrap().narrow(0, 0, 1).unwrap();
                first.narrow(1, 0, 1).unwrap().tensor().unwrap().flatten_all().unwrap()
            });
            for (first, text) in firsts.zip(texts) {
                assert_eq!(first.to_vec1::<f32>().unwrap(), [text.len() as f32]);
            }
            std::mem::take(&mut *encoded.borrow_mut())
        };
        assert_eq!(ask(&["a", "bb", "a"]), ["a", "bb"]);
        assert!(ask(&["bb", "a"]).is_empty());
        // There is room for two; `bb` was asked for longer ago than `a`.
        assert_eq!(ask(&["ccc"]), ["ccc"]);
        assert!(ask(&["a"]).is_empty());
        assert_eq!(ask(&["bb"]), ["bb"]);
        // More than there is room for, all at once.
        assert_eq!(ask(&["1", "22", "333", "4444"]).len(), 4);
    }
    #[test]
    fn weights_and_chunks_are_of_the_key() {
        let (states, encoded) = (TextStates::default(), RefCell::new(0));
        let ask = |text: &str, chunks: usize| {
            let prompt = Prompt::parse(PromptSyntax::Weighted, text).unwrap();
            let made = states.encode(&[&prompt], chunks, &Device::Cpu, |_| {
                *encoded.borrow_mut() += 1;
                row("a", 1)
            });
            made.unwrap();
            encoded.take()
        };
        assert_eq!(ask("a cat", 1), 1);
        for (text, chunks) in [("a (cat)", 1), ("a (cat:1.2)", 1), ("a cat", 2), ("a BREAK cat", 2)]
        {
            assert_eq!((ask(text, chunks), ask(text, chunks)), (1, 0), "{text}");
        }
        assert_eq!(ask("a cat", 1), 0);
    }
}
