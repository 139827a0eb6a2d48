//! Connections: how long each may take for what, and the end of all.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tower_service::Service;

use crate::reply::Unsent;

/// When a silent peer is asked whether it is there, and how often then.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Longest time that a peer may leave bytes unacknowledged, or its window shut: a dead one, or one that does not read its reply.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for HTTP/2, whose peer may be behind a proxy.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Time in which a connection that has not asked for anything must have sent a request's head when it is to end.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// Longest time that a large reply may take from its first byte to its last, and how often that is looked at. The peer of an unread
/// stream of HTTP/2 still answers pings.
const SENDING: Duration = Duration::from_secs(300);
const SENDING_LOOK: Duration = Duration::from_secs(15);

/// Serves connections until `closed` is ready; then accepts no more, and ends when the requests under way are answered. `idle` is the
/// longest time until a request's head has come, from the connection's begin or the reply before it.
pub async fn serve<S>(mut listener: TcpListener, service: S, idle: Duration, closed: impl Future<Output = ()>)
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let builder = Arc::new(builder);
    let (close, closing) = watch::channel(());
    let mut closed = pin!(closed);
    loop {
        let (stream, _) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = &mut closed => break,
        };
        if let Err(error) = set_up(&stream) {
            tracing::debug!("a connection's options: {error}");
        }
        tokio::spawn(connection(stream, service.clone(), builder.clone(), idle, closing.clone()));
    }
    drop((listener, closing));
    let _ = close.send(()); // an error says that there are no connections
    close.closed().await;
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    // Replies are small: waiting to fill a packet would only delay them.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

async fn connection<S>(
    stream: TcpStream,
    service: S,
    builder: Arc<Builder<TokioExecutor>>,
    idle: Duration,
    mut closing: watch::Receiver<()>,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let asked = Arc::new(AtomicBool::new(false));
    let unsent = Arc::new(Mutex::new(VecDeque::new()));
    let (asks, sends) = (asked.clone(), unsent.clone());
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        asks.store(true, Ordering::Relaxed);
        let (answer, unsent) = (service.clone().call(request.map(Body::new)), sends.clone());
        async move {
            let response = answer.await?;
            if let Some(large) = response.extensions().get::<Unsent>() {
                lock(&unsent).push_back((Instant::now(), large.clone()));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    // hyper's timer begins only when it knows the version, and its end waits for a head that has begun.
    let mut patience = pin!(sleep(idle));
    let (mut waits, mut ends, mut ending) = (true, false, false);
    let mut look = interval(SENDING_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!("a connection ended: {error:#}");
                }
                return;
            }
            () = patience.as_mut(), if waits => {
                if asked.load(Ordering::Relaxed) {
                    waits = false;
                } else if ending {
                    return;
                } else {
                    // HTTP/2's clients are told, and lose no request that comes in this moment.
                    connection.as_mut().graceful_shutdown();
                    patience.as_mut().reset(Instant::now() + LAST_HEAD);
                    ending = true;
                }
            }
            _ = closing.changed(), if !ends => {
                connection.as_mut().graceful_shutdown();
                patience.as_mut().reset(Instant::now() + LAST_HEAD);
                (waits, ends, ending) = (true, true, true);
            }
            _ = look.tick() => {
                let mut unsent = lock(&unsent);
                while unsent.front().is_some_and(|(_, large)| large.is_sent()) {
                    unsent.pop_front();
                }
                if unsent.front().is_some_and(|(since, _)| since.elapsed() >= SENDING) {
                    tracing::debug!("a client has not read a reply for {SENDING:?}: its connection is closed");
                    return;
                }
            }
        }
    }
}

/// Poisoned or not: each change is complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::AsyncWriteExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn dead_peers_are_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_reply_that_is_not_read_ends_its_connection() {
        for held in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let sending = Arc::new(());
            let unsent = Unsent::of(&sending);
            let route = get(async move || {
                let mut response = Response::<Body>::default();
                response.extensions_mut().insert(unsent.clone());
                response
            });
            let service = Router::new().route("/", route);
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let builder = Arc::new(Builder::new(TokioExecutor::new()));
            let (_close, closing) = watch::channel(());
            if !held {
                drop(sending);
            }
            let served = connection(stream, service, builder, 10 * SENDING, closing);
            let ended = timeout(2 * SENDING, served).await.is_ok();
            assert_eq!(ended, held);
        }
    }
}
