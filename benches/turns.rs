//! Taking turns with another program (`benches/turns.py`): a bench that computes only when it is
//! asked, so that both are timed in one run, one after the other, on a machine in one state.

use std::{
    error::Error,
    io::{BufRead as _, Write as _, stdin, stdout},
};

/// Reads requests `COUNT NAME` from standard input, a line each, until it ends. Each is computed
/// once more than counted, to wake the threads, and answered by a line of JSON: the seconds of the
/// others in turn, as `compute` gives them.
///
/// # Errors
/// A line that is no request, or what the computation returns.
pub fn serve(
    mut compute: impl FnMut(&str) -> Result<f64, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    for line in stdin().lock().lines() {
        let line = line?;
        let (count, name) = line.split_once(' ').ok_or(format!("`{line}` is no request"))?;
        let count: usize = count.parse()?;
        compute(name)?;
        let mut seconds = Vec::with_capacity(count);
        for _ in 0..count {
            seconds.push(compute(name)?);
        }
        println!("{}", serde_json::to_string(&seconds)?);
        stdout().flush()?;
    }
    Ok(())
}
