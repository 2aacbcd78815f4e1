//! The prompts of a job, read once: what the encoders get, what captioners are told, and what the output's metadata says.

use super::{error::Error, settings::Settings};
use crate::model::text::{Prompt, PromptError, PromptSyntax, TextConditioner, escaped};

/// The prompts of a job.
#[derive(Clone, Debug)]
pub struct Prompts {
    syntax: PromptSyntax,
    /// The user's prompt, if there is one.
    prompt: Option<Prompt>,
    /// The negative prompt; may be empty.
    pub negative: Prompt,
}

impl Prompts {
    /// Reads the settings' prompts.
    ///
    /// # Errors
    /// Of weighted prompts: what cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, PromptError> {
        let syntax = settings.prompt_syntax;
        let is_given = !settings.prompt.is_empty();
        let prompt = is_given.then(|| Prompt::parse(syntax, &settings.prompt)).transpose()?;
        Ok(Self { syntax, prompt, negative: Prompt::parse(syntax, &settings.negative_prompt)? })
    }

    /// What the user's prompt says, without its syntax; empty without one.
    pub fn words(&self) -> String {
        self.prompt.as_ref().map_or_else(String::new, Prompt::words)
    }

    /// The prompt of the whole picture: the user's, or where there is none, these words of a captioner, in which every sign is
    /// itself.
    pub fn global(&self, words: &str) -> Prompt {
        self.prompt.clone().unwrap_or_else(|| Prompt::verbatim(self.syntax, words))
    }

    /// The prompt as a setting of another job, where the words came from the user or a captioner.
    pub fn recorded<'a>(
        &self,
        settings: &'a Settings,
        words: &'a str,
    ) -> std::borrow::Cow<'a, str> {
        match (&self.prompt, self.syntax) {
            (Some(_), _) => settings.prompt.as_str().into(),
            (None, PromptSyntax::Plain) => words.into(),
            (None, PromptSyntax::Weighted) => escaped(words).into(),
        }
    }

    /// The most chunks of a job's texts: those of the prompts, and one more where captions follow the prompt.
    ///
    /// # Errors
    /// A prompt that the model does not take; errors of the tokenizers.
    pub fn chunks(
        &self,
        text: &TextConditioner,
        (guidance, captions): (bool, bool),
    ) -> Result<usize, Error> {
        if self.syntax == PromptSyntax::Plain {
            return Ok(1);
        }
        let mut chunks = 1;
        for prompt in self.prompt.iter().chain(guidance.then_some(&self.negative)) {
            chunks = text.tokenizers().count(prompt)?.max(chunks);
        }
        Ok(chunks + usize::from(captions && text.has_chunks()))
    }
}
