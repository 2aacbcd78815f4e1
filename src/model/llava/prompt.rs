//! The words around picture and instruction that a model was trained with. Published models say them
//! in a chat template, a program of its own; the handful of templates that there are is known here,
//! and told apart by their marks.
//!
//! Sources: the chat templates and model cards of llava-hf's llava-1.5-7b-hf, llava-v1.6-mistral-7b-hf,
//! llava-v1.6-vicuna-7b-hf and llava-v1.6-34b-hf.

use super::LlavaError;
use super::config::Family;

/// Placeholder of the picture in a prompt, and in every tokenizer of these models.
pub(super) const IMAGE: &str = "<image>";

const VICUNA_SYSTEM: &str = "A chat between a curious human and an artificial intelligence assistant. \
     The assistant gives helpful, detailed, and polite answers to the human's questions. ";

/// Prompt format of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptFormat {
    /// LLaVA-1.5: `USER: <image>\n… ASSISTANT:`
    Vicuna,
    /// LLaVA-1.6 on Vicuna: the same behind a sentence on who talks
    VicunaWithSystem,
    /// LLaVA-1.6 on Mistral: `[INST] <image>\n… [/INST]`
    Mistral,
    /// LLaVA-1.6 on Yi (34b): turns between `<|im_start|>` and `<|im_end|>`
    ChatMl,
}

impl PromptFormat {
    /// The format of a model: by the marks in its chat template, if it has one, else by its decoder.
    /// `is_next` says that it is LLaVA-1.6.
    ///
    /// # Errors
    /// A template with none of the known marks.
    pub(super) fn find(
        template: Option<&str>,
        family: Family,
        is_next: bool,
    ) -> Result<Self, LlavaError> {
        let vicuna = if is_next { Self::VicunaWithSystem } else { Self::Vicuna };
        let Some(template) = template else {
            return Ok(if family == Family::Mistral { Self::Mistral } else { vicuna });
        };
        let has = |mark: &str| template.contains(mark);
        if has("[INST]") {
            Ok(Self::Mistral)
        } else if has("<|im_start|>") {
            Ok(Self::ChatMl)
        } else if has("ASSISTANT:") {
            Ok(vicuna)
        } else {
            Err(LlavaError::Unsupported {
                field: "chat_template",
                value: template.chars().take(40).collect(),
                supported: "those of LLaVA-1.5 and 1.6 on Vicuna, Mistral and Yi",
            })
        }
    }

    /// The whole prompt; [`IMAGE`] stands for the picture.
    pub(super) fn render(self, instruction: &str) -> String {
        match self {
            Self::Vicuna => format!("USER: {IMAGE}\n{instruction} ASSISTANT:"),
            Self::VicunaWithSystem => {
                format!("{VICUNA_SYSTEM}USER: {IMAGE}\n{instruction} ASSISTANT:")
            }
            Self::Mistral => format!("[INST] {IMAGE}\n{instruction} [/INST]"),
            Self::ChatMl => format!(
                "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n\
                 {IMAGE}\n{instruction}<|im_end|><|im_start|>assistant\n"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_told_by_its_template_or_else_by_the_decoder() {
        use PromptFormat::{ChatMl, Mistral, Vicuna, VicunaWithSystem};
        for (template, family, is_next, format) in [
            (None, Family::Llama, false, Vicuna),
            (None, Family::Llama, true, VicunaWithSystem),
            (None, Family::Mistral, true, Mistral),
            (Some("{{ '[INST] ' }}"), Family::Llama, true, Mistral),
            (Some("… ASSISTANT: …"), Family::Llama, false, Vicuna),
            (Some("<|im_start|>"), Family::Llama, true, ChatMl),
        ] {
            assert_eq!(PromptFormat::find(template, family, is_next).unwrap(), format);
        }
        assert!(PromptFormat::find(Some("### Human"), Family::Llama, false).is_err());
    }

    #[test]
    fn every_format_shows_the_picture_once_and_before_the_instruction() {
        use PromptFormat::{ChatMl, Mistral, Vicuna, VicunaWithSystem};
        for format in [Vicuna, VicunaWithSystem, Mistral, ChatMl] {
            let prompt = format.render("What is it?");
            assert_eq!(prompt.matches(IMAGE).count(), 1);
            assert!(prompt.find(IMAGE) < prompt.find("What is it?"), "{prompt}");
        }
    }
}
