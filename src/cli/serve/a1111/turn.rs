//! One call at a time that waits for its jobs: clients of A1111 keep the connection open until the picture is there. While it
//! waits, `/progress` tells how far it is and `/interrupt` ends it; a client that goes away ends its job too.

use std::{fs, sync::Arc};

use cupscale::image::settings_in;
use serde_json::{Map, Value};

use super::{
    super::{jobs::NewJob, view::State},
    door::Door,
    error::A1111Error,
    picture,
};

/// A call while it waits; dropped, it waits no longer.
pub struct Turn {
    door: Arc<Door>,
    number: u64,
}

/// What became of a picture.
pub enum Outcome {
    Made(Made),
    /// It was skipped, or its job was cancelled by its id.
    Skipped,
    /// The call was interrupted.
    Interrupted,
}

/// A picture that is done.
pub struct Made {
    /// Its file.
    pub base64: String,
    /// The settings that it carries.
    pub settings: Map<String, Value>,
    pub width: u32,
    pub height: u32,
    pub notes: Vec<String>,
}

impl Turn {
    /// Begins a call that makes so many pictures.
    pub fn begin(door: &Arc<Door>, what: &'static str, count: usize) -> Self {
        let number = door.turns.begin(what, count);
        Self { door: Arc::clone(door), number }
    }

    /// Makes the next picture.
    ///
    /// # Errors
    /// A job that is refused or fails.
    pub async fn make(&mut self, new: NewJob) -> Result<Outcome, A1111Error> {
        let turns = &self.door.turns;
        if turns.is_interrupted(self.number) {
            return Ok(Outcome::Interrupted);
        }
        let (door, number) = (Arc::clone(&self.door), self.number);
        // If the client goes away meanwhile, the guest is dropped where it is made, and its job ends.
        let guest = self.door.blocking(move |_| {
            let guest = door.jobs.submit_guest(new)?;
            door.turns.change(number, |ticket| ticket.job = Some(guest.id().to_owned()));
            // It may have been interrupted before its job was known.
            if door.turns.is_interrupted(number) {
                door.jobs.cancel(guest.id());
            }
            Ok(guest)
        });
        let guest = guest.await?;
        let view = guest.ended().await;
        turns.change(self.number, |ticket| {
            ticket.job = None;
            ticket.done += 1;
        });
        // Whoever has its id may have removed it.
        let Some(view) = view else { return Ok(Outcome::Skipped) };
        match view.state {
            State::Done => {}
            State::Failed => {
                let refusal = view.error.as_ref();
                return Err(refusal.map_or_else(
                    || A1111Error::failed("the job failed"),
                    |refusal| refusal.clone().into(),
                ));
            }
            State::Cancelled if turns.is_interrupted(self.number) => {
                return Ok(Outcome::Interrupted);
            }
            State::Cancelled => return Ok(Outcome::Skipped),
            State::Waiting | State::Running => return Err(A1111Error::stopping()),
        }
        let made = self.door.blocking(move |door| {
            let file = door.jobs.result(guest.id())?;
            let bytes = fs::read(&file.path).map_err(|error| {
                A1111Error::failed(format!("the result cannot be read: {error}"))
            })?;
            let settings = settings_in(&bytes).and_then(|text| serde_json::from_str(&text).ok());
            Ok(Made {
                base64: picture::encode(&bytes),
                settings: settings.unwrap_or_default(),
                width: view.width,
                height: view.height,
                notes: view.notes,
            })
        });
        Ok(Outcome::Made(made.await?))
    }

    /// `true` if the call was interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.door.turns.is_interrupted(self.number)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.door.turns.end(self.number);
    }
}
