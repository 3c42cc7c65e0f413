//! A teacher's server that misbehaves as it is told, on raw TCP: mocks cannot send malformed HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// What the server does with a request, one after the other; then the connection ends.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Send(Vec<u8>),
    Pause(Duration),
    /// More bytes than anybody should read, until the client goes away.
    Endless,
    /// Ends the connection with the request unread.
    Reset,
}

/// A request as it came.
pub(crate) struct Seen {
    pub(crate) number: usize,
    pub(crate) head: String,
    pub(crate) body: Value,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// A server that asks `answer` what to do with each request. It ends with the process.
    pub(crate) fn start(answer: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (counter, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, answer) = (Arc::clone(&counter), Arc::clone(&answer));
                std::thread::spawn(move || {
                    // A client that was killed is no failure of the server.
                    let _ = serve(stream, &counter, answer.as_ref());
                });
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    counter: &AtomicUsize,
    answer: &(dyn Fn(&Seen) -> Vec<Act> + Send + Sync),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let number = counter.fetch_add(1, Ordering::SeqCst);
    let length = head.to_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length:").and_then(|length| length.trim().parse().ok())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let seen = Seen { number, head, body: serde_json::from_slice(&body).unwrap_or_default() };
    for act in answer(&seen) {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes)?,
            Act::Pause(time) => std::thread::sleep(time),
            Act::Endless => loop {
                stream.write_all(&[b' '; 1 << 16])?;
            },
            Act::Reset => return Ok(()),
        }
    }
    Ok(())
}

/// A response with a body of the length that it claims.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    vec![Act::Send(format!("{head}{body}").into_bytes())]
}

/// A reply of a chat model.
pub(crate) fn reply(text: &str, finish: &str) -> String {
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    })
    .to_string()
}
