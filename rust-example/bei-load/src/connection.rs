use std::cell::Cell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use twox_hash::XxHash3_128;

/// The server that is asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port.
    pub authority: String,
    /// Headers of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// A request that is ready to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// The route.
    pub uri: Uri,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Target {
    /// A POST of JSON to a route, with more headers.
    pub fn message(
        &self,
        uri: Uri,
        more: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Message, String> {
        let mut headers = HeaderMap::new();
        let host =
            HeaderValue::from_str(&self.authority).map_err(|error| format!("{}: {error}", self.authority))?;
        headers.insert(HOST, host);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers.iter().chain(more).cloned());
        Ok(Message { uri, headers, body })
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// A whole answer came.
    Answer {
        /// The status code.
        status: u16,
        /// Seconds of the header Retry-After.
        retry_after: Option<u64>,
        /// Hash of the body.
        hash: u128,
        /// The body, unless it is a success that was expected to be of a certain hash.
        body: Option<Bytes>,
    },
    /// No connection could be had, so that the server knows nothing of the request.
    Refused(String),
    /// The request was sent, and no whole answer came.
    Lost(String),
}

/// The hash by which answers are compared.
pub fn hash(body: &[u8]) -> u128 {
    XxHash3_128::oneshot(body)
}

/// A connection that takes one request after another.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects. `doubled` counts the answers that come without a request.
    async fn open(target: &Target, doubled: &Rc<Cell<u64>>) -> io::Result<Connection> {
        let stream = TcpStream::connect(&target.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let doubled = doubled.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await
                && error.to_string().contains("unexpected message")
            {
                doubled.set(doubled.get() + 1);
            }
        });
        Ok(Connection { sender })
    }

    /// Sends a request and reads its answer, whose body is kept unless a success was `expected`. A connection that the server
    /// had closed before is replaced. Afterwards `slot` holds the connection if it can be used again.
    pub async fn send(
        slot: &mut Option<Connection>,
        target: &Target,
        doubled: &Rc<Cell<u64>>,
        message: &Message,
        expected: Option<u128>,
    ) -> Outcome {
        let mut request = Request::new(Full::new(message.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = message.uri.clone();
        *request.headers_mut() = message.headers.clone();
        loop {
            let fresh = slot.is_none();
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => match Connection::open(target, doubled).await {
                    Ok(connection) => connection,
                    Err(error) => return Outcome::Refused(error.to_string()),
                },
            };
            match connection.sender.ready().await {
                Ok(()) => {}
                Err(error) if fresh => return Outcome::Refused(error.to_string()),
                Err(_) => continue,
            }
            let response = match connection.sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    // It never left this process.
                    Some(unsent) if !fresh => {
                        request = unsent;
                        continue;
                    }
                    Some(_) => return Outcome::Refused(error.into_error().to_string()),
                    None => return Outcome::Lost(error.into_error().to_string()),
                },
            };
            let status = response.status().as_u16();
            let retry_after = response.headers().get(RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            let keep = status != 200 || expected.is_none();
            return match read(response.into_body(), keep).await {
                Ok((hash, body)) => {
                    *slot = Some(connection);
                    Outcome::Answer { status, retry_after, hash, body }
                }
                Err(error) => Outcome::Lost(format!("status {status}, then: {error}")),
            };
        }
    }
}

/// Reads a body to its end.
async fn read(mut body: Incoming, keep: bool) -> Result<(u128, Option<Bytes>), hyper::Error> {
    if keep {
        let body = body.collect().await?.to_bytes();
        return Ok((hash(&body), Some(body)));
    }
    let mut hasher = XxHash3_128::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            hasher.write(data);
        }
    }
    Ok((hasher.finish_128(), None))
}
