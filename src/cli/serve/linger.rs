//! The rest of a body that nobody wants: read for a moment before it is refused, because a client that is still sending would
//! see a broken connection instead of the reason.

use std::{future::poll_fn, pin::Pin, time::Duration};

use axum::body::Body;
use tokio::time::timeout;
use tokio_stream::Stream as _;

/// Bytes that are read at most.
const MOST: usize = 16 << 20;
/// Time for it.
const FOR: Duration = Duration::from_secs(5);

/// Reads and forgets.
pub async fn linger(body: Body) {
    let mut rest = body.into_data_stream();
    let read = async {
        let mut length = 0;
        while let Some(Ok(chunk)) = poll_fn(|context| Pin::new(&mut rest).poll_next(context)).await
        {
            length += chunk.len();
            if length > MOST {
                return;
            }
        }
    };
    let _ = timeout(FOR, read).await;
}
