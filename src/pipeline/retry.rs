//! Retries with smaller batches and tiles, for a device that runs out of memory in spite of the plan.

use std::cell::Cell;

use super::{error::Error, plan::tiles::Span};

/// Calls `attempt` with `size`, which is halved as long as the device runs out of memory. `size` keeps the value that
/// succeeded, for the next call.
///
/// # Errors
/// Errors of `attempt`; [`Error::OutOfMemory`] if a size of 1 is too large.
pub(super) fn retry_smaller<T>(
    size: &Cell<usize>,
    mut attempt: impl FnMut(usize) -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match attempt(size.get()) {
            Err(error) if error.is_out_of_memory() => match size.get() / 2 {
                0 => return Err(Error::OutOfMemory),
                half => size.set(half),
            },
            result => return result,
        }
    }
}

/// Calls `attempt` with a VAE tile; if the device runs out of memory, the tile is halved along its longer side,
/// recursively.
///
/// # Errors
/// Errors of `attempt`; [`Error::OutOfMemory`] if a core of one latent pixel is too large.
pub(super) fn retry_halves(
    row: &Span,
    column: &Span,
    attempt: &mut impl FnMut(&Span, &Span) -> Result<(), Error>,
) -> Result<(), Error> {
    match attempt(row, column) {
        Err(error) if error.is_out_of_memory() => {}
        result => return result,
    }
    if row.core.len().max(column.core.len()) < 2 {
        return Err(Error::OutOfMemory);
    }
    if row.core.len() > column.core.len() {
        row.halves().iter().try_for_each(|row| retry_halves(row, column, attempt))
    } else {
        column.halves().iter().try_for_each(|column| retry_halves(row, column, attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted() -> Error {
        let message = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        Error::Tensor(candle_core::Error::Msg(message.to_owned()))
    }

    #[test]
    fn a_batch_too_large_for_the_device_is_halved_and_stays_so() {
        let size = Cell::new(13);
        let mut tried = Vec::new();
        let mut attempt = |size: usize| {
            tried.push(size);
            if size > 3 { Err(exhausted()) } else { Ok(size) }
        };
        assert_eq!(retry_smaller(&size, &mut attempt).unwrap(), 3);
        assert_eq!(retry_smaller(&size, &mut attempt).unwrap(), 3);
        assert_eq!(tried, [13, 6, 3, 3]);
    }

    #[test]
    fn a_device_without_room_for_one_region_is_one_line_and_other_errors_pass() {
        let error = retry_smaller(&Cell::new(4), |_| Err::<(), _>(exhausted())).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
        let error =
            retry_smaller(&Cell::new(4), |_| Err::<(), _>(Error::Interrupted(None))).unwrap_err();
        assert!(matches!(error, Error::Interrupted(_)));
    }

    #[test]
    fn a_tile_too_large_for_the_device_is_cut_until_its_parts_fit_and_cover_it() {
        let (row, column) = (
            Span { core: 10..17, length: 30, padding: 3 },
            Span { core: 0..20, length: 20, padding: 3 },
        );
        let mut covered = [[0; 20]; 17];
        retry_halves(&row, &column, &mut |row, column| {
            assert_eq!(row.before(), 3);
            assert_eq!(column.before(), column.core.start.min(3));
            if row.core.len() * column.core.len() > 30 {
                return Err(exhausted());
            }
            for line in &mut covered[row.core.clone()] {
                line[column.core.clone()].iter_mut().for_each(|times| *times += 1);
            }
            Ok(())
        })
        .unwrap();
        assert!(covered[10..].iter().flatten().all(|&times| times == 1));
        assert!(covered[..10].iter().flatten().all(|&times| times == 0));
        let error = retry_halves(&row, &column, &mut |_, _| Err(exhausted())).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory));
    }
}
