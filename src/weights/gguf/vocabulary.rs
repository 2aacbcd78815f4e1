//! The vocabulary of a decoder in llama.cpp's GGUF files, which holds pieces with scores, as the `tokenizer.json` with
//! merges that transformers would have made of the same model.
//!
//! Source: transformers `convert_slow_tokenizer.py` (`generate_merges`).

use std::collections::HashMap;

use serde_json::{Value, json};

use super::read::{Header, Value as Metadata};

pub(super) const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
pub(super) const SCORES_KEY: &str = "tokenizer.ggml.scores";
pub(super) const TYPES_KEY: &str = "tokenizer.ggml.token_type";
const IMAGE: &str = "<image>";
/// Space in sentencepiece's pieces.
const SPACE: &str = "▁";
/// Most merges of a vocabulary: one of 256,000 tokens has half a million. Each takes hundreds of bytes as JSON, and
/// tokens of two letters in every order have tens of them.
const MOST_MERGES: usize = 1 << 20;
/// Most bytes that are looked at to find the merges of a vocabulary; one of 128,000 tokens has some ten million.
const MOST_CUTS: usize = 1 << 28;

/// llama.cpp's `llama_token_type`.
const NORMAL: i128 = 1;
const UNKNOWN: i128 = 2;
pub(super) const CONTROL: i128 = 3;
pub(super) const USER_DEFINED: i128 = 4;

/// Vocabulary of sentencepiece's kind, with the picture's token, which older files lack.
pub(super) struct Vocabulary<'a> {
    pieces: Vec<&'a str>,
    kinds: Vec<i128>,
    bos: Option<u64>,
    space_first: bool,
    /// Every pair of pieces that makes a piece, pairs of the best pieces first.
    merges: Vec<(&'a str, &'a str)>,
    pub(super) image_token: usize,
}

impl<'a> Vocabulary<'a> {
    /// Vocabulary in the metadata of a decoder.
    ///
    /// # Errors
    /// One of another kind, or whose lists do not fit each other, in one line without the file's name.
    pub(super) fn read(header: &'a Header) -> Result<Self, String> {
        let kind = header.string("tokenizer.ggml.model").unwrap_or_default();
        if kind != "llama" {
            return Err(format!("a tokenizer of the kind `{kind}`; `llama` is wanted"));
        }
        let text = |value: &'a Metadata| match value {
            Metadata::String(text) => Some(text.as_str()),
            _ => None,
        };
        let pieces = header.array(TOKENS_KEY).and_then(|pieces| pieces.iter().map(text).collect());
        let mut pieces: Vec<&str> = pieces.ok_or_else(|| format!("`{TOKENS_KEY}` is missing"))?;
        let count = pieces.len();
        // Every piece is cut at each of its places, to find the merges that make it.
        let cuts = pieces.iter().map(|piece| piece.len().saturating_mul(piece.len()));
        if cuts.fold(0, usize::saturating_add) > MOST_CUTS {
            return Err("its tokens are longer than those of any tokenizer".to_owned());
        }
        let mut scores = header.floats(SCORES_KEY).unwrap_or_default();
        let mut kinds = header.integers(TYPES_KEY).unwrap_or_default();
        if scores.len() != count || kinds.len() != count {
            return Err(format!("`{SCORES_KEY}` or `{TYPES_KEY}` do not fit {count} tokens"));
        }
        let known = pieces.iter().position(|piece| *piece == IMAGE);
        let image_token = known.unwrap_or(count);
        if known.is_none() {
            pieces.push(IMAGE);
            scores.push(0.0);
            kinds.push(CONTROL);
        }
        kinds[image_token] = CONTROL;
        let adds_bos = header.flag("tokenizer.ggml.add_bos_token").unwrap_or(true);
        let bos = header.optional("tokenizer.ggml.bos_token_id").or(Some(1)).filter(|_| adds_bos);
        if let Some(bos) = bos.filter(|bos| *bos >= count as u64) {
            return Err(format!("token {bos}, which begins texts, is none of {count}"));
        }
        let merges = merges(&pieces, &scores, &kinds, MOST_MERGES);
        let merges = merges.ok_or_else(|| format!("more than {MOST_MERGES} merges"))?;
        Ok(Self {
            pieces,
            kinds,
            bos,
            merges,
            space_first: header.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true),
            image_token,
        })
    }

    /// Vocabulary as the `tokenizer.json` of a LLaMA model.
    pub(super) fn tokenizer(&self) -> Value {
        let vocabulary: serde_json::Map<String, Value> = (self.pieces.iter().enumerate())
            .map(|(index, piece)| ((*piece).to_owned(), json!(index)))
            .collect();
        let added: Vec<_> = (self.pieces.iter().zip(&self.kinds).enumerate())
            .filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind))
            .map(|(index, (piece, kind))| {
                json!({
                    "id": index, "content": piece, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect();
        let unknown = self.kinds.iter().position(|kind| *kind == UNKNOWN);
        let mut normalizers = Vec::new();
        if self.space_first {
            normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
        }
        normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.space_first {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let post_processor = self.bos.map(|id| {
            let piece = self.pieces[id as usize];
            let bos = json!({"SpecialToken": {"id": piece, "type_id": 0}});
            let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
            json!({
                "type": "TemplateProcessing",
                "single": [bos, text("A")],
                "pair": [bos, text("A"), text("B")],
                "special_tokens": {piece: {"id": piece, "ids": [id], "tokens": [piece]}},
            })
        });
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": post_processor,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "unk_token": unknown.map(|index| self.pieces[index]),
                "fuse_unk": true,
                "byte_fallback": true,
                "vocab": vocabulary,
                "merges": self.merges,
            },
        })
    }
}

/// Every pair of pieces that makes a piece, pairs of the best pieces first; `None` for more than `most`.
fn merges<'a>(
    pieces: &[&'a str],
    scores: &[f64],
    kinds: &[i128],
    most: usize,
) -> Option<Vec<(&'a str, &'a str)>> {
    let normal = |index: usize| kinds[index] == NORMAL;
    let ids: HashMap<&str, usize> = (pieces.iter().copied().enumerate())
        .filter(|(index, _)| normal(*index))
        .map(|(index, piece)| (piece, index))
        .collect();
    let mut merges = Vec::new();
    for (index, &piece) in pieces.iter().enumerate() {
        // Of a piece that is there twice, the last one.
        if ids.get(piece) != Some(&index) {
            continue;
        }
        let mut pairs: Vec<_> = piece
            .char_indices()
            .skip(1)
            .map(|(cut, _)| piece.split_at(cut))
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        if pairs.len() > most - merges.len() {
            return None;
        }
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(_, _, left, right)| (index, left, right)));
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|(a, a_left, a_right), (b, b_left, b_right)| {
        (scores[*b].total_cmp(&scores[*a]))
            .then(length(b_left).cmp(&length(a_left)))
            .then(length(b_right).cmp(&length(a_right)))
    });
    Some(merges.into_iter().map(|(_, left, right)| (left, right)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_longer_than_any_tokenizers_are_not_cut_in_all_places() {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let array = |key: &str, kind: u32, values: &[Vec<u8>]| {
            let count = (values.len() as u64).to_le_bytes();
            let kinds = [9, kind].map(u32::to_le_bytes).concat();
            [text(key), kinds, count.to_vec(), values.concat()].concat()
        };
        let read = |length: usize| {
            let pieces = [text("a"), text(&"a".repeat(length))];
            let numbers = [1u32, 1].map(|number| number.to_le_bytes().to_vec());
            let header = [
                b"GGUF\x03\0\0\0".to_vec(),
                [0u64, 4].map(u64::to_le_bytes).concat(),
                [text("tokenizer.ggml.model"), 8u32.to_le_bytes().to_vec(), text("llama")].concat(),
                array(TOKENS_KEY, 8, &pieces),
                array(SCORES_KEY, 6, &numbers),
                array(TYPES_KEY, 5, &numbers),
            ];
            let header = Header::read_with(&header.concat(), |_| true).unwrap();
            Vocabulary::read(&header).map(|read| read.merges.len())
        };
        assert_eq!(read(2).unwrap(), 1);
        let error = read(1 << 15).unwrap_err();
        assert!(error.contains("longer than those of any tokenizer"), "{error}");
    }

    #[test]
    fn a_piece_that_is_there_twice_is_made_once_and_there_are_only_so_many_merges() {
        let pieces = ["a", "ab", "b", "ab", "aba", "a"];
        let merges = |most| merges(&pieces, &[0.0; 6], &[NORMAL; 6], most);
        assert_eq!(merges(2), Some(vec![("ab", "a"), ("a", "b")]));
        assert_eq!(merges(1), None);
    }
}
