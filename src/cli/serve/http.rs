//! Connections: how many there are, how long a request may take to say what it wants, and how they end.

use std::{future::Future, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    pin, select,
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections at once; others wait until one ends.
const CONNECTIONS: usize = 256;
/// Time for the head of a request, and for which a connection may be idle.
const HEAD: Duration = Duration::from_secs(30);
/// Time that requests have to end when the server does.
const END: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be taken, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until `over`.
pub async fn serve(listener: TcpListener, router: Router, over: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let ending = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    pin!(over);
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = select! {
            next = next => next,
            () = &mut over => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        // Small answers leave at once.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = ending.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // Clients that break off are no matter of the server's.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = timeout(END, ending.shutdown()).await;
}
