//! Prompts of the command line: read in their syntax, with the LoRAs that they name taken out.

use cupscale::{
    model::text::{LoraTag, Prompt, PromptError, PromptSyntax, without_networks},
    pipeline::Settings,
};

use super::{args::ContentArgs, error::CliError};

/// Reads the prompts' options into the settings, and takes out the LoRAs that a weighted prompt names.
///
/// # Errors
/// A prompt that cannot be read.
pub fn read(content: &ContentArgs, settings: &mut Settings) -> Result<Vec<LoraTag>, CliError> {
    let ContentArgs { prompt, negative_prompt, prompt_syntax, .. } = content;
    settings.prompt_syntax = *prompt_syntax;
    negative_prompt.trim().clone_into(&mut settings.negative_prompt);
    if *prompt_syntax == PromptSyntax::Plain {
        prompt.trim().clone_into(&mut settings.prompt);
        return Ok(Vec::new());
    }
    let refuse = |option| move |error: PromptError| CliError::Usage(format!("{option}: {error}"));
    let (text, tags) = without_networks(prompt).map_err(refuse("--prompt"))?;
    text.trim().clone_into(&mut settings.prompt);
    if let Some(tag) =
        without_networks(negative_prompt).map_err(refuse("--negative-prompt"))?.1.first()
    {
        let reason = format!(
            "--negative-prompt: {}: a LoRA changes the model: name it in the prompt",
            tag.tag
        );
        return Err(CliError::Usage(reason));
    }
    for (option, text) in
        [("--prompt", &settings.prompt), ("--negative-prompt", &settings.negative_prompt)]
    {
        Prompt::parse(*prompt_syntax, text).map_err(refuse(option))?;
    }
    Ok(tags)
}
